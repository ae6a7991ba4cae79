"""Classification metrics under any number of weightings of the groups at once.

A class without an example has no metric, and so has every macro mean. A class never predicted has
precision and F1 of 0. AUROC also needs an example outside the class. The calibration error is that
of each class against the rest: that of the most probable class alone (`TOP_LABEL`) hides a rare
class (Nixon et al. 2019, Measuring Calibration in Deep Learning).

Counts, squared errors and calibration bins are sums over groups, so a matrix product gives them for
all weightings. For ranks, rows are sorted once a class, and whole weights run along them: exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from histofuse.evaluation.metrics.classification import (
    ECE_BINS,
    TOP_LABEL,
    Labels,
    Scores,
    find_top_label,
    measure_counts,
    place_in_bins,
    square_errors,
)
from histofuse.evaluation.predictions import Predictions

# How often each group counts, and sums and metrics a weighting.
Weights = Int[np.ndarray, "w g"]
PerWeighting = Float[np.ndarray, " w"]
Totals = Float[np.ndarray, "w s"]
Metrics = dict[str, float | None]
COUNTED: Final = ("precision", "recall", "f1")
RANKED: Final = ("auroc", "auprc")
_CELLS: Final = 1 << 19  # of a weightings x rows block: a few MiB, so that it stays in the cache


def name_metrics(classes: Sequence[str]) -> tuple[str, ...]:
    """Name every metric of a classifier, without a split before it: "auroc/mitosis"."""
    each = [f"{name}/{of}" for name in (*COUNTED, *RANKED, "ece") for of in ("macro", *classes)]
    return ("accuracy", *each, "brier", TOP_LABEL)


@dataclass(frozen=True)
class Clusters:
    """The groups that rows belong to, numbered in order of their names."""

    number: Labels  # group of each row, from 0
    count: int  # how many groups there are
    unit: str  # their unit in the plural, such as ``cases``

    def add_up(self, columns: Shaped[np.ndarray, "n s"]) -> Float[np.ndarray, "g s"]:
        """Sum columns over the rows of each group."""
        columns = np.asarray(columns, dtype=np.float64)
        sums = np.column_stack([np.bincount(self.number, c, self.count) for c in columns.T])
        return sums.astype(np.float64)  # of no rows bincount returns whole numbers

    def count_cells(
        self, cell: Labels, cells: int, values: Shaped[np.ndarray, " n"] | None = None
    ) -> Float[np.ndarray, "g cells"]:
        """Count the rows of each group and cell, or sum values over them."""
        flat = np.bincount(self.number * cells + cell, values, self.count * cells)
        return flat.reshape(self.count, cells).astype(np.float64)


def number_groups(rows: Predictions) -> Clusters:
    """Number the cases, or patients, of rows."""
    names, number = np.unique(rows.groups, return_inverse=True)
    return Clusters(number.astype(np.int64), len(names), rows.group_unit)


@dataclass(frozen=True)
class Ranking:
    """The rows by one class's probability, highest first, for metrics of rank.

    Only scores that some row of the class has are looked at: no other adds to either area.
    """

    group: Labels  # group number of each row
    hit: Int[np.ndarray, " hits"]  # group number of each row of the class
    starts: Int[np.ndarray, " levels"]  # where in `hit` each distinct score begins
    above: Int[np.ndarray, " levels"]  # rows with a higher score, for each of these scores
    reached: Int[np.ndarray, " levels"]  # rows with this score or a higher one

    def measure(self, weights: Weights) -> tuple[PerWeighting, PerWeighting]:
        """Compute AUROC and average precision for each weighting; NaN where not defined."""
        running = np.zeros((len(weights), len(self.group) + 1), dtype=weights.dtype)
        np.cumsum(np.take(weights, self.group, axis=1), axis=1, out=running[:, 1:])
        above = np.take(running, self.above, axis=1)
        reached = np.take(running, self.reached, axis=1)
        hits = np.take(weights, self.hit, axis=1)
        if len(self.starts) < len(self.hit):
            hits = np.add.reduceat(hits, self.starts, axis=1, dtype=weights.dtype)
        hits_reached = np.cumsum(hits, axis=1, dtype=weights.dtype)

        positives = hits.sum(axis=1, dtype=np.float64)
        negatives = running[:, -1] - positives
        # Negatives above a score, and half of those at it, twice over to stay whole.
        beaten_by = above + reached - 2 * hits_reached + hits
        hits = hits.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc = 1 - _dot(hits, beaten_by) / (2 * positives * negatives)
            auprc = _dot(hits, hits_reached / np.maximum(reached, 1)) / positives
        return auroc, auprc


def _dot(
    left: Shaped[np.ndarray, "w levels"], right: Shaped[np.ndarray, "w levels"]
) -> PerWeighting:
    return (left * right).sum(axis=1, dtype=np.float64)


def rank_rows(scores: Scores, positive: Shaped[np.ndarray, " n"], group: Labels) -> Ranking:
    """Sort rows by score, highest first, and find where each distinct score begins and ends."""
    order = np.argsort(-scores, kind="stable")
    ordered, group = scores[order], group[order]
    hit = np.flatnonzero(positive[order])
    starts = np.flatnonzero(np.diff(ordered[hit], prepend=np.inf))
    levels = ordered[hit][starts]
    ascending = ordered[::-1]
    reached = len(ordered) - np.searchsorted(ascending, levels, side="left")
    above = len(ordered) - np.searchsorted(ascending, levels, side="right")
    return Ranking(group, group[hit], starts, above, reached)


@dataclass(frozen=True)
class WeightedMetrics:
    """One model's rows, made ready to be measured under any number of weightings of its groups."""

    rows: Predictions
    metrics: tuple[str, ...]  # which to measure, of `name_metrics`
    clusters: Clusters  # the groups of the rows

    def measure(self, weights: Weights) -> Float[np.ndarray, "w m"]:
        """Compute metrics, NaN where not defined, for weightings: how often each group counts."""
        weights = np.ascontiguousarray(weights, dtype=np.int32)
        step = max(1, _CELLS // max(len(self.rows), self.clusters.count, 1))
        parts = [self._measure(weights[i : i + step]) for i in range(0, len(weights), step)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.metrics)))

    def _measure(self, weights: Weights) -> Float[np.ndarray, "w m"]:
        classes = self.rows.classes
        found = self._measure_sums(weights)
        for column, ranking in self._rankings.items():
            name = classes[column]
            found[f"auroc/{name}"], found[f"auprc/{name}"] = ranking.measure(weights)
        for name in (*COUNTED, *RANKED, "ece"):
            if f"{name}/macro" in self.metrics:
                found[f"{name}/macro"] = np.mean([found[f"{name}/{c}"] for c in classes], axis=0)
        return np.column_stack([found[name] for name in self.metrics])

    def _measure_sums(self, weights: Weights) -> dict[str, np.ndarray]:
        k = len(self.rows.classes)
        sums = weights.astype(np.float64) @ self._sums
        counts = sums[:, : k * k].reshape(-1, k, k)
        hits = np.trace(counts, axis1=1, axis2=2)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = counts.sum(axis=(1, 2))
            found = {"accuracy": hits / total, "brier": sums[:, k * k] / total}
            gaps = np.abs(sums[:, k * k + 1 :].reshape(-1, k + 1, ECE_BINS)).sum(axis=2)
            errors = (gaps / total[:, None]).T
        named = [*(f"ece/{c}" for c in self.rows.classes), TOP_LABEL]
        found |= dict(zip(named, errors, strict=True))
        for name, values in measure_counts(counts).items():
            found |= {f"{name}/{c}": values[:, i] for i, c in enumerate(self.rows.classes)}
        return found

    @cached_property
    def _sums(self) -> Float[np.ndarray, "g sums"]:
        """Sums over groups: confusion, squared error, bin gaps of each class and the top one."""
        k, rows, clusters = len(self.rows.classes), self.rows, self.clusters
        cells = clusters.count_cells(rows.labels * k + rows.predictions, k * k)
        squared = clusters.add_up(square_errors(rows.probabilities, rows.labels)[:, None])
        events = [(rows.probabilities[:, c], rows.labels == c) for c in range(k)]
        events.append(find_top_label(rows.probabilities, rows.labels))
        gaps = [clusters.count_cells(place_in_bins(p), ECE_BINS, p - o) for p, o in events]
        return np.column_stack([cells, squared, *gaps])

    @cached_property
    def _rankings(self) -> dict[int, Ranking]:
        """The rankings that the metrics asked for need, by the column of their class."""
        rows = self.rows
        asked = {of for name, _, of in (m.partition("/") for m in self.metrics) if name in RANKED}
        return {
            column: rank_rows(
                rows.probabilities[:, column], rows.labels == column, self.clusters.number
            )
            for column, name in enumerate(rows.classes)
            if asked & {name, "macro"}
        }


def prepare_metrics(rows: Predictions, metrics: Sequence[str]) -> WeightedMetrics:
    """Number the groups of a split by name; ValueError if a metric is none of `name_metrics`."""
    if unknown := sorted(set(metrics) - set(name_metrics(rows.classes))):
        raise ValueError(f"{rows.name} has no metrics {unknown}")
    return WeightedMetrics(rows, tuple(metrics), number_groups(rows))


def measure_rows(rows: Predictions, prefix: str) -> Metrics:
    """Measure predictions, each row once; None where not defined.

    Returns ``<prefix>/<metric>`` of each of `name_metrics`; precision, recall, F1, AUROC, AUPRC and
    ECE are of one class against the rest, ``macro`` is their plain mean.
    """
    names = name_metrics(rows.classes)
    whole = Clusters(np.zeros(len(rows), dtype=np.int64), 1, "wholes")
    (values,) = WeightedMetrics(rows, names, whole).measure(np.ones((1, 1), dtype=np.int32))
    pairs = zip(names, values.tolist(), strict=True)
    return {f"{prefix}/{name}": None if np.isnan(value) else value for name, value in pairs}


def measure_splits(rows: Predictions) -> Metrics:
    """Measure predictions on each split that they are of."""
    parts = (measure_rows(rows.of(split), split) for split in rows.splits)
    return {name: value for part in parts for name, value in part.items()}
