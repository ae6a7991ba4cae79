"""Intervals by a bootstrap of cases, or of patients, for every metric.

Patches of one case resemble each other, so what is drawn anew is the case, with all its rows. An
interval says how the number would vary over other cases like these; of three cases it can say
little, and says how many there were. Both kinds of interval are widened for few groups, as
Student's t is for few rows: 95 % intervals over 17 cases then hold the truth in 93 to 95 % of
simulated data sets, and over 3 cases in no more than 75 %.

The expected calibration error of few rows is too high, and that of a resample twice so: its
interval is the resamples mirrored at the value, which takes most of the bias away and may end below
the value. It holds the truth in about 89 %.

A metric that a resample leaves undefined, because it drew no case that holds the class, is left out
of that metric's interval; the share that was defined is told, and below `FEWEST_DEFINED` of the
resamples there is no interval at all.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 14; Field &
Welsh, Bootstrapping clustered data, JRSS B 69 (2007), for drawing whole clusters; Hesterberg, What
Teachers Should Know About the Bootstrap, The American Statistician 69 (2015), for few groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri, stdtrit

from histofuse.core.errors import collect_faults
from histofuse.core.seeding import make_rng
from histofuse.evaluation.metrics.weighted import WeightedMetrics, name_metrics, prepare_metrics
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalMethod

FEWEST_DEFINED: Final = 0.9
# Groups are left out one by one up to here, and in this many equal blocks beyond it.
MOST_LEFT_OUT: Final = 500
BIASED: Final = "ece"
_SAME: Final = 1e-12  # two sums of the same terms in another order
_BLOCK: Final = 256  # weightings drawn at a time


@dataclass(frozen=True)
class Interval:
    """A metric, or a difference of one, with its interval.

    Attributes:
        value: On the rows themselves; None where not defined.
        low: Lower end; None where there is no interval.
        high: Upper end.
        groups: Cases, or patients, that were drawn from.
        defined: Share of the resamples in which the metric was defined.
        note: Why there is no interval; empty where there is one.
    """

    value: float | None
    low: float | None
    high: float | None
    groups: int
    defined: float
    note: str


@dataclass(frozen=True)
class Difference:
    """How much higher a metric is for one model than for another on the same rows.

    Attributes:
        interval: Of the difference.
        probability_above: Share of the resamples in which it is above 0, ties counted half: one-
            sided. None where there is no interval.
    """

    interval: Interval
    probability_above: float | None


@dataclass(frozen=True)
class Resampled:
    """Metrics, or differences of them, on the rows, on resamples, and with groups left out.

    Attributes:
        metrics: Their names.
        values: On the rows themselves; NaN where not defined, here and below.
        draws: On each resample.
        left_out: With each group, or each block of them, left out.
        groups: How many there are.
        group_unit: What they are, in the plural.
        paired: Whether these are differences of two models.
    """

    metrics: tuple[str, ...]
    values: Float[np.ndarray, " m"]
    draws: Float[np.ndarray, "b m"]
    left_out: Float[np.ndarray, "j m"]
    groups: int
    group_unit: str
    paired: bool

    def interval(self, metric: str, confidence: float, method: IntervalMethod) -> Interval:
        """Read a two-sided interval from the resamples.

        Args:
            metric: Its name.
            confidence: Share of such intervals that hold the true value, if all is well.
            method: ``percentile``, or ``bca``, which corrects it for bias and skewness.
        """
        column = self.metrics.index(metric)
        value, draws = self.values[column], self._defined_draws(column)
        defined = len(draws) / len(self.draws)
        if note := self._find_obstacle(column, defined):
            return Interval(_or_none(value), None, None, self.groups, defined, note)
        tail = find_tail(confidence, self.groups)
        ends = np.array([tail, 1 - tail])
        if metric == BIASED:
            high, low = (2 * value - np.quantile(draws, ends)).tolist()
            low = low if self.paired else max(low, 0.0)
            return Interval(float(value), low, high, self.groups, defined, "")
        if method == "bca":
            left_out = self.left_out[:, column]
            if np.isnan(left_out).any():
                note = f"not defined without some of the {self.group_unit}: no BCa interval"
                return Interval(float(value), None, None, self.groups, defined, note)
            ends = _correct_ends(ends, float(value), draws, left_out)
        low, high = np.quantile(draws, ends).tolist()
        return Interval(float(value), low, high, self.groups, defined, "")

    def probability_above(self, metric: str, bar: float) -> float | None:
        """Find the share of defined resamples above a bar, ties counted half."""
        column = self.metrics.index(metric)
        draws = self._defined_draws(column)
        if self._find_obstacle(column, len(draws) / len(self.draws)):
            return None
        return 1 - _share_below(draws, bar)

    def _defined_draws(self, column: int) -> Float[np.ndarray, " d"]:
        draws = self.draws[:, column]
        return draws[~np.isnan(draws)]

    def _find_obstacle(self, column: int, defined: float) -> str:
        if np.isnan(self.values[column]):
            return "not defined on these rows"
        if self.groups < 2:
            return f"all rows are of one of the {self.group_unit}: nothing to draw from"
        if defined < FEWEST_DEFINED:
            return f"defined in {defined:.0%} of the resamples, fewer than {FEWEST_DEFINED:.0%}"
        return ""


def resample_metrics(
    rows: Predictions, metrics: Sequence[str], *, resamples: int, seed: int
) -> Resampled:
    """Measure a model on resamples of its groups.

    Args:
        rows: Predictions on one split.
        metrics: Names without a split, of `name_metrics`.
        resamples: How many to draw.
        seed: The same seed draws the same groups for every model on the same rows.
    """
    return _resample([prepare_metrics(rows, metrics)], resamples, seed)


def resample_differences(
    new: Predictions, old: Predictions, metrics: Sequence[str], *, resamples: int, seed: int
) -> Resampled:
    """Measure two models on the same resamples and subtract: new less old.

    Raises:
        InputError: If the two do not hold the same rows, joined by key, with the same labels,
            groups and classes.
    """
    old = align_rows(old, new)
    return _resample([prepare_metrics(m, metrics) for m in (new, old)], resamples, seed)


def bootstrap_metrics(
    rows: Predictions,
    metrics: Sequence[str] | None,
    *,
    resamples: int,
    seed: int,
    confidence: float,
    method: IntervalMethod,
) -> dict[str, Interval]:
    """Put an interval on each metric of a model (None: on all); see `resample_metrics`."""
    names = name_metrics(rows.classes) if metrics is None else tuple(metrics)
    found = resample_metrics(rows, names, resamples=resamples, seed=seed)
    return {name: found.interval(name, confidence, method) for name in names}


def paired_differences(
    new: Predictions,
    old: Predictions,
    metrics: Sequence[str] | None,
    *,
    resamples: int,
    seed: int,
    confidence: float,
    method: IntervalMethod,
) -> dict[str, Difference]:
    """Put an interval on each difference, new less old; see `resample_differences`."""
    names = name_metrics(new.classes) if metrics is None else tuple(metrics)
    found = resample_differences(new, old, names, resamples=resamples, seed=seed)
    return {
        name: Difference(
            found.interval(name, confidence, method), found.probability_above(name, 0.0)
        )
        for name in names
    }


def align_rows(rows: Predictions, like: Predictions) -> Predictions:
    """Bring predictions into the order of another model's rows, joined by key.

    Raises:
        InputError: If the keys, the classes, or a row's label or group differ.
    """
    where = f"{rows.name} against {like.name}"
    with collect_faults() as faults:
        if rows.classes != like.classes:
            faults.add(where, f"classes {rows.classes}", f"{like.classes}, in that order")
        missing, surplus = set(like.keys) - set(rows.keys), set(rows.keys) - set(like.keys)
        if missing or surplus:
            problem = f"{len(missing)} of its {like.unit} are missing, {len(surplus)} are strangers"
            faults.add(where, problem, f"predictions on the same {like.unit}")
    place = {key: i for i, key in enumerate(rows.keys)}
    aligned = rows.take(np.array([place[key] for key in like.keys], dtype=np.int64))
    with collect_faults() as faults:
        for what, mine, its in (
            ("label", aligned.labels, like.labels),
            ("group", aligned.groups, like.groups),
        ):
            if differing := int((mine != its).sum()):
                problem = f"{differing} of {len(like):,} {like.unit} have another {what}"
                faults.add(where, problem, f"the same {what} of the same {like.unit}")
    return aligned


# --- weightings ---------------------------------------------------------------------------------


def _resample(models: list[WeightedMetrics], resamples: int, seed: int) -> Resampled:
    """Measure one model, or the first less the second, on the same weightings."""
    first, groups = models[0], models[0].groups

    def measure(blocks: Iterator[Int[np.ndarray, "w g"]]) -> Float[np.ndarray, "w m"]:
        parts = []
        for block in blocks:
            found = [model.measure(block) for model in models]
            parts.append(found[0] - found[1] if len(found) > 1 else found[0])
        return np.concatenate(parts)

    return Resampled(
        metrics=first.metrics,
        values=measure(iter([np.ones((1, groups), dtype=np.int32)]))[0],
        draws=measure(draw_weights(groups, resamples, seed)),
        left_out=measure(leave_out(groups, seed)),
        groups=groups,
        group_unit=first.rows.group_unit,
        paired=len(models) > 1,
    )


def draw_weights(groups: int, resamples: int, seed: int) -> Iterator[Int[np.ndarray, "w g"]]:
    """Draw as many groups as there are, with replacement, and count how often each came."""
    rng = make_rng(seed, "bootstrap")
    for start in range(0, resamples, _BLOCK):
        block = np.zeros((min(_BLOCK, resamples - start), groups), dtype=np.int32)
        for weights in block if groups else ():
            weights[:] = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        yield block


def leave_out(groups: int, seed: int) -> Iterator[Int[np.ndarray, "w g"]]:
    """Leave out each group, or each of `MOST_LEFT_OUT` equal blocks drawn by chance."""
    parts = min(groups, MOST_LEFT_OUT)
    part = make_rng(seed, "jackknife").permutation(np.arange(groups) % max(parts, 1))
    yield np.empty((0, groups), dtype=np.int32)
    for start in range(0, parts, _BLOCK):
        these = np.arange(start, min(start + _BLOCK, parts))
        yield (part[None, :] != these[:, None]).astype(np.int32)


# --- ends ---------------------------------------------------------------------------------------


def find_tail(confidence: float, groups: int) -> float:
    """Find the share of resamples beyond each end, smaller than plain for few groups."""
    reach = stdtrit(groups - 1, (1 + confidence) / 2) * (groups / (groups - 1)) ** 0.5
    return float(ndtr(-reach))


def _correct_ends(
    ends: Float[np.ndarray, " 2"],
    value: float,
    draws: Float[np.ndarray, " d"],
    left_out: Float[np.ndarray, " j"],
) -> Float[np.ndarray, " 2"]:
    """Move the ends of an interval, as shares of the resamples, for bias and skewness."""
    half = 0.5 / len(draws)  # a value beyond all resamples would send the interval to infinity
    bias = ndtri(np.clip(_share_below(draws, value), half, 1 - half))
    apart = left_out.mean() - left_out
    spread = (apart**2).sum()
    acceleration = (apart**3).sum() / (6 * spread**1.5) if spread > _SAME**2 else 0.0
    # From the lower end alone: of two groups the upper one is 1 to machine precision.
    reach = ndtri(ends[0])
    moved = bias + np.array([reach, -reach])
    return ndtr(bias + moved / np.maximum(1 - acceleration * moved, np.finfo(float).eps))


def _share_below(draws: Float[np.ndarray, " d"], bar: float) -> float:
    """Find the share of resamples below a bar, ties counted half."""
    below, above = (draws < bar - _SAME).mean(), (draws > bar + _SAME).mean()
    return float((below + 1 - above) / 2)


def _or_none(value: float | np.floating) -> float | None:
    return None if np.isnan(value) else float(value)
