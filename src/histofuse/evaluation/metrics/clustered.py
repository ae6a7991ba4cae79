"""Intervals of whatever can be computed from sums over cases, or patients.

A count, a mean, a rate or a ratio of sums needs no row again once its terms are added up a group: a
weighting of the groups then is one matrix product. `bootstrap` draws the weightings and reads the
intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from histofuse.evaluation.metrics.bootstrap import (
    Interval,
    Resampled,
    draw_weights,
    find_tail,
    leave_out,
)
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalMethod, IntervalParams

_MOST_KEPT: Final = 1 << 24  # weights of 4 bytes, used for every metric of a model
_DECIMALS: Final = 6  # beyond them two machines may differ
# Measured on few rows they come out too high, and on a resample twice so; see `bootstrap`.
BIASED: Final = ("ece", "reliability", "resolution")

Measure = Callable[[Shaped[np.ndarray, "w s"]], Mapping[str, Float[np.ndarray, " w"]]]


@dataclass(frozen=True)
class Clusters:
    """The groups that rows belong to, numbered in order of their names.

    Attributes:
        number: Group of each row, from 0.
        count: How many groups there are.
        unit: What they are, in the plural.
    """

    number: Int[np.ndarray, " n"]
    count: int
    unit: str

    def add_up(self, columns: Shaped[np.ndarray, "n s"]) -> Float[np.ndarray, "g s"]:
        """Add up columns over the rows of each group."""
        columns = np.asarray(columns, dtype=np.float64)
        return np.column_stack([np.bincount(self.number, c, self.count) for c in columns.T])

    def count_cells(
        self, cell: Int[np.ndarray, " n"], cells: int, values: Shaped[np.ndarray, " n"]
    ) -> Float[np.ndarray, "g cells"]:
        """Add up values over the rows of each group and cell."""
        flat = np.bincount(self.number * cells + cell, values, self.count * cells)
        return flat.reshape(self.count, cells)


def number_groups(rows: Predictions) -> Clusters:
    """Number the cases, or patients, of rows."""
    names, number = np.unique(rows.groups, return_inverse=True)
    return Clusters(number.astype(np.int64), len(names), rows.group_unit)


@dataclass(frozen=True)
class ClusterBootstrap:
    """Resamples of the groups of certain rows; the same seed draws the same groups everywhere.

    Attributes:
        clusters: The groups.
        how: Resamples, confidence and method.
        seed: Of the draws.
    """

    clusters: Clusters
    how: IntervalParams
    seed: int

    def estimate(
        self,
        sums: Float[np.ndarray, "g s"],
        measure: Measure,
        *,
        paired: bool = False,
        method: IntervalMethod | None = None,
    ) -> dict[str, Interval]:
        """Put an interval on each metric; those that few rows put too high are mirrored.

        Args:
            sums: What is needed of each group, added up over its rows.
            measure: Weighted sums -> metrics by name; NaN where not defined.
            paired: Whether the metrics are differences.
            method: For curves ``percentile``, so that all points are read alike.
        """
        found = self._resample(_multiply(sums, measure), paired=paired)
        return self.read(found, method)

    def estimate_weighted(self, measure: Measure) -> dict[str, Interval]:
        """Put an interval on each metric of weights themselves, as those of rank are."""
        return self.read(self._resample(measure, paired=False), None)

    def read(self, found: Resampled, method: IntervalMethod | None) -> dict[str, Interval]:
        """Read the interval of every metric from resamples."""
        return {
            name: _mirror(found, name, self.how)
            if name.rsplit("/", 1)[-1] in BIASED
            else found.interval(name, self.how.confidence, method or self.how.method)
            for name in found.metrics
        }

    @cached_property
    def _drawn(self) -> list[np.ndarray]:
        return list(draw_weights(self.clusters.count, self.how.resamples, self.seed))

    def _draw(self) -> Iterable[np.ndarray]:
        """Draw the weightings, or take those drawn before where they are small enough to keep."""
        if self.clusters.count * self.how.resamples <= _MOST_KEPT:
            return self._drawn
        return draw_weights(self.clusters.count, self.how.resamples, self.seed)

    def _resample(self, measure: Measure, *, paired: bool) -> Resampled:
        groups = self.clusters.count
        once = np.ones((1, groups), dtype=np.int32)
        names = tuple(measure(once))

        def run(blocks: Iterable[np.ndarray]) -> Float[np.ndarray, "draws m"]:
            parts = [np.empty((0, len(names)))]
            for weights in blocks:
                if len(weights):
                    found = measure(weights)
                    parts.append(np.column_stack([found[name] for name in names]))
            return np.concatenate(parts)

        return Resampled(
            metrics=names,
            values=run([once])[0],
            draws=run(self._draw()),
            left_out=run(leave_out(groups, self.seed)),
            groups=groups,
            group_unit=self.clusters.unit,
            paired=paired,
        )


def _multiply(sums: Float[np.ndarray, "g s"], measure: Measure) -> Measure:
    """Make a metric of sums one of weights."""

    def weighted(weights: Shaped[np.ndarray, "w g"]) -> Mapping[str, Float[np.ndarray, " w"]]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return measure(weights.astype(np.float64) @ sums)

    return weighted


def _mirror(found: Resampled, name: str, how: IntervalParams) -> Interval:
    """Mirror the resamples at the value, as `bootstrap` does for the calibration error."""
    plain = found.interval(name, how.confidence, "percentile")
    if plain.value is None or plain.low is None or plain.high is None:
        return plain
    tail = find_tail(how.confidence, found.groups)
    draws = found.draws[:, found.metrics.index(name)]
    ends = np.nanquantile(draws, [1 - tail, tail])
    low, high = (2 * plain.value - ends).tolist()
    low = low if found.paired else max(low, 0.0)
    return Interval(plain.value, low, high, plain.groups, plain.defined, "")


# --- rendering ----------------------------------------------------------------------------------


def render_interval(interval: Interval) -> dict[str, Any]:
    """Render for JSON: value, low, high, and a note where there is no interval."""
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    rounded = {name: round_number(end) for name, end in ends.items()}
    return rounded | ({"note": interval.note} if interval.note else {})


def render_intervals(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Render each interval of a mapping."""
    return {name: render_interval(interval) for name, interval in intervals.items()}


def round_number(value: float | np.floating | None) -> float | None:
    """Round for JSON; None where not defined."""
    return None if value is None or not np.isfinite(value) else round(float(value), _DECIMALS)


def round_all(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Round a series for JSON."""
    return [round_number(value) for value in values]


def explain_resampling(how: IntervalParams) -> str:
    """Say under a table how its intervals were made."""
    method = how.method.replace("bca", "BCa")
    return (
        f"In brackets {how.confidence:.0%} intervals: {method} bootstrap, {how.resamples:,} "
        "resamples of whole cases (images, fusion) or patients (health record). Of fewer than ten "
        "cases an interval says little."
    )
