"""A metric read as cautiously as the number of cases allows, to be held against a bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from histofuse.evaluation.metrics.bootstrap import Interval, Resampled
from histofuse.params.promotion import LOWER_IS_BETTER, PromotionParams


@dataclass(frozen=True)
class Reading:
    """A metric, or a difference of one, and its cautious end.

    Attributes:
        metric: Its name.
        interval: With or without ends.
        cautious: The value a bar is held against: an end of the interval, or what stands in for it
            where there are too few groups; None where nothing may be said.
        words: How the cautious value was come by.
        rule: The same in one word: ``interval``, ``leave_one_out``, ``point`` or ``refuse``.
    """

    metric: str
    interval: Interval
    cautious: float | None
    words: str
    rule: str

    @property
    def lower_is_better(self) -> bool:
        """Whether it measures an error."""
        return is_error(self.metric)

    def clears(self, bar: float, *, strictly: bool) -> bool:
        """Tell whether the cautious value is on the good side of a bar."""
        if self.cautious is None:
            return False
        ahead = bar - self.cautious if self.lower_is_better else self.cautious - bar
        return ahead > 0 if strictly else ahead >= 0

    def to_dict(self) -> dict[str, Any]:
        """Render for the audit record."""
        i = self.interval
        return {
            "metric": self.metric,
            "value": i.value,
            "low": i.low,
            "high": i.high,
            "cautious": self.cautious,
            "rule": self.rule,
            "groups": i.groups,
            "defined": i.defined,
        }


def is_error(metric: str) -> bool:
    """Tell whether less of a metric is better."""
    return metric in LOWER_IS_BETTER


def read_cautiously(found: Resampled, metric: str, params: PromotionParams) -> Reading:
    """Read a metric by its interval, or by the rule for few groups where no interval can be had."""
    interval = found.interval(metric)
    if interval.value is None:
        return Reading(metric, interval, None, interval.note, "refuse")
    if found.groups >= params.fewest_groups and interval.low is not None:
        end = interval.high if is_error(metric) else interval.low
        return Reading(metric, interval, end, _show_interval(interval, found), "interval")
    why = interval.note or f"{_count(found)}, too few for an interval"
    if params.few_groups == "refuse":
        return Reading(metric, interval, None, why, "refuse")
    if params.few_groups == "point":
        return Reading(metric, interval, interval.value, f"{why}; held by itself", "point")
    return _leave_one_out(found, interval, metric, why)


def _leave_one_out(found: Resampled, interval: Interval, metric: str, why: str) -> Reading:
    left_out = found.left_out[:, found.metrics.index(metric)]
    if undefined := int(np.isnan(left_out).sum()):
        words = f"{why}; not defined without {undefined} of them, on which all of it rests"
        return Reading(metric, interval, None, words, "refuse")
    known = [*left_out.tolist(), interval.value]
    worst = max(known) if is_error(metric) else min(known)
    words = f"{why}; {worst:.3f} at worst with any one left out"
    return Reading(metric, interval, worst, words, "leave_one_out")


def _show_interval(interval: Interval, found: Resampled) -> str:
    return f"[{interval.low:.3f}, {interval.high:.3f}] over {_count(found)}"


def _count(found: Resampled) -> str:
    unit = found.group_unit[:-1] if found.groups == 1 else found.group_unit
    return f"{found.groups:,} {unit}"
