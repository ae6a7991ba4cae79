"""A metric and its conservative value, which is compared with a limit."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from histofuse.core.naming import show_count, show_ends
from histofuse.evaluation.metrics.bootstrap import Interval, Resampled
from histofuse.params.promotion import PromotionParams, is_lower_better


@dataclass(frozen=True)
class ConservativeMetric:
    """A metric, or a difference of one, and its conservative value."""

    metric: str
    interval: Interval  # with or without ends
    value: float | None  # an end of the interval, or what replaces it; None if undefined
    explanation: str  # how the conservative value was computed
    rule: str  # the same in one word: interval, leave_one_out, point or refuse

    @property
    def lower_is_better(self) -> bool:
        """Whether it measures an error."""
        return is_lower_better(self.metric)

    def clears(self, limit: float, *, strictly: bool) -> bool:
        """Whether the conservative value is on the good side of a limit."""
        if self.value is None:
            return False
        ahead = limit - self.value if self.lower_is_better else self.value - limit
        return ahead > 0 if strictly else ahead >= 0

    def to_dict(self) -> dict[str, Any]:
        """Render for the audit record."""
        i = self.interval
        return {
            "metric": self.metric,
            "value": i.value,
            "low": i.low,
            "high": i.high,
            "conservative": self.value,
            "rule": self.rule,
            "groups": i.groups,
            "defined": i.defined,
        }


def measure_conservatively(
    resampled: Resampled, metric: str, params: PromotionParams
) -> ConservativeMetric:
    """Take the worse end of the interval or, with too few groups, apply ``few_groups``."""
    interval = resampled.interval(metric)
    if interval.value is None:
        return ConservativeMetric(metric, interval, None, interval.note, "refuse")
    if resampled.groups >= params.fewest_groups and interval.low is not None:
        end = interval.high if is_lower_better(metric) else interval.low
        explanation = f"{show_ends(interval.low, interval.high)} over {_count(resampled)}"
        return ConservativeMetric(metric, interval, end, explanation, "interval")
    reason = interval.note or f"{_count(resampled)}, too few for an interval"
    if params.few_groups == "refuse":
        return ConservativeMetric(metric, interval, None, reason, "refuse")
    if params.few_groups == "point":
        explanation = f"{reason}; point value"
        return ConservativeMetric(metric, interval, interval.value, explanation, "point")
    return _leave_one_out(resampled, interval, metric, reason)


def _leave_one_out(
    resampled: Resampled, interval: Interval, metric: str, reason: str
) -> ConservativeMetric:
    left_out = resampled.left_out[:, resampled.metrics.index(metric)]
    if undefined := int(np.isnan(left_out).sum()):
        explanation = f"{reason}; not defined without {undefined} of them, so it depends on these"
        return ConservativeMetric(metric, interval, None, explanation, "refuse")
    values = [*left_out.tolist(), interval.value]
    worst = max(values) if is_lower_better(metric) else min(values)
    explanation = f"{reason}; {worst:.3f} at worst with any one left out"
    return ConservativeMetric(metric, interval, worst, explanation, "leave_one_out")


def _count(resampled: Resampled) -> str:
    return show_count(resampled.groups, resampled.group_unit)
