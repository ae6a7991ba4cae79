"""Classification metrics with one rule for what is not defined.

A class without an example in the split has no metric, and so has every macro mean. A class never
predicted has precision and F1 of 0. AUROC also needs an example outside the class. The calibration
error is that of each class against the rest: that of the most probable class alone (`TOP_LABEL`)
hides a rare class.

Source: Nixon et al. 2019, Measuring Calibration in Deep Learning (calibration error by class).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from histofuse.core.auroc import compute_auroc
from histofuse.evaluation.predictions import Predictions

Metrics = dict[str, float | None]
Scores = Float[np.ndarray, " n"]
Events = Bool[np.ndarray, " n"]
Labels = Int[np.ndarray, " n"]
Probabilities = Float[np.ndarray, "n k"]
ECE_BINS = 10
TOP_LABEL = "ece/top_label"


def classification_metrics(
    labels: Labels,
    probabilities: Probabilities,
    predictions: Labels,
    classes: Sequence[str],
    prefix: str,
) -> Metrics:
    """Measure a classifier on one split.

    `probabilities` are calibrated, one column a class; `predictions` are by the model's own
    thresholds, so not always the argmax; `prefix` is the split. Returns ``<prefix>/accuracy``,
    ``/brier``, ``/ece/top_label``, and for precision, recall, f1, auroc, auprc and ece (one against
    the rest) one entry a class and their plain mean under ``/macro``; None where not defined.
    """
    counts = count_confusion(labels, predictions, len(classes))
    scored = [(probabilities[:, k], labels == k) for k in range(len(classes))]
    per_class = {name: values.tolist() for name, values in measure_counts(counts).items()}
    per_class["auroc"] = [compute_auroc(*of) for of in scored]
    per_class["auprc"] = [average_precision(*of) for of in scored]
    per_class["ece"] = [calibration_error(*of) for of in scored]
    rows = len(labels)
    metrics = {f"{prefix}/accuracy": int(counts.trace()) / rows if rows else None}
    for name, values in per_class.items():
        metrics[f"{prefix}/{name}/macro"] = _or_none(float(np.mean(values)))
        for label, value in zip(classes, values, strict=True):
            metrics[f"{prefix}/{name}/{label}"] = _or_none(value)
    metrics[f"{prefix}/brier"] = brier_score(probabilities, labels)
    top_label = calibration_error(*find_top_label(probabilities, labels))
    metrics[f"{prefix}/{TOP_LABEL}"] = _or_none(top_label)
    return metrics


def measure_rows(rows: Predictions, prefix: str) -> Metrics:
    """Measure predictions; see `classification_metrics`."""
    return classification_metrics(
        rows.labels, rows.probabilities, rows.predictions, rows.classes, prefix
    )


def measure_splits(rows: Predictions) -> Metrics:
    """Measure predictions on each split that they are of."""
    parts = (measure_rows(rows.of(split), split) for split in rows.splits)
    return {name: value for part in parts for name, value in part.items()}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def count_confusion(labels: Labels, predictions: Labels, k: int) -> Int[np.ndarray, "k k"]:
    """Count rows by true class (first axis) and predicted class (second)."""
    return np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k)


def measure_counts(counts: Shaped[np.ndarray, "*w k k"]) -> dict[str, Float[np.ndarray, "*w k"]]:
    """Compute ``precision``, ``recall`` and ``f1`` by class; NaN for one without examples."""
    support, called = counts.sum(axis=-1), counts.sum(axis=-2)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": np.where(support > 0, hits / np.maximum(called, 1), np.nan),
            "recall": hits / support,
            "f1": np.where(support > 0, 2 * hits / (support + called), np.nan),
        }


@dataclass(frozen=True)
class Cuts:
    """Counts above each distinct score, from the highest score down."""

    tp: Int[np.ndarray, " cuts"]  # positives at or above the score
    fp: Int[np.ndarray, " cuts"]  # negatives at or above the score

    @property
    def recall(self) -> Float[np.ndarray, " cuts"]:
        """Share of positives at or above; NaN without positives."""
        with np.errstate(invalid="ignore"):
            return self.tp / self.tp[-1:]

    @property
    def precision(self) -> Float[np.ndarray, " cuts"]:
        """Share of those at or above that are positive."""
        return self.tp / (self.tp + self.fp)

    @property
    def false_positive_rate(self) -> Float[np.ndarray, " cuts"]:
        """Share of negatives at or above; NaN without negatives."""
        with np.errstate(invalid="ignore"):
            return self.fp / self.fp[-1:]

    def trace_roc(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Trace the ROC curve from (0, 0): false positive rate and recall."""
        return np.append(0.0, self.false_positive_rate), np.append(0.0, self.recall)

    def trace_precision_recall(
        self,
    ) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """Trace recall from 0, and precision."""
        return np.append(0.0, self.recall), np.append(self.precision[:1], self.precision)


def count_cuts(scores: Scores, positive: Events) -> Cuts:
    """Count positives and negatives above each distinct score; equal scores fall together."""
    order = np.argsort(-scores, kind="stable")
    ordered, hit = scores[order], positive[order]
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    tp, fp = np.cumsum(hit), np.cumsum(~hit)
    return Cuts(tp[last_of_equals], fp[last_of_equals])


def average_precision(scores: Scores, positive: Events) -> float:
    """Compute the area under precision and recall as a sum of steps; NaN without positives."""
    if not positive.any():
        return float("nan")
    cuts = count_cuts(scores, positive)
    return float((np.diff(cuts.recall, prepend=0.0) * cuts.precision).sum())


def brier_score(probabilities: Probabilities, labels: Labels) -> float | None:
    """Compute the mean squared distance to the truth, from 0; see `square_errors`."""
    return float(square_errors(probabilities, labels).mean()) if len(labels) else None


def square_errors(probabilities: Probabilities, labels: Labels) -> Scores:
    """Compute each row's squared distance to the truth, of two classes the positive one's alone."""
    squared = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    return squared[:, 1] if probabilities.shape[1] == 2 else squared.sum(axis=1)


def find_top_label(probabilities: Probabilities, labels: Labels) -> tuple[Scores, Events]:
    """Find the probability of the most probable class, and whether it is the true one."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def place_in_bins(probability: Scores) -> Labels:
    """Find the bin of each probability, of `ECE_BINS` of equal width."""
    return np.clip((probability * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)


@dataclass(frozen=True)
class Reliability:
    """Probabilities in bins of equal width, the empty ones left out."""

    predicted: Float[np.ndarray, " bins"]  # mean probability of each bin
    observed: Float[np.ndarray, " bins"]  # share of its rows in which the event happened
    count: Int[np.ndarray, " bins"]  # its rows


def bin_reliability(probability: Scores, happened: Events) -> Reliability:
    """Bin probabilities and compare each bin's mean with what happened."""
    place = place_in_bins(probability)
    count = np.bincount(place, minlength=ECE_BINS)
    held = count > 0
    predicted = np.bincount(place, weights=probability, minlength=ECE_BINS)[held] / count[held]
    observed = np.bincount(place, weights=happened, minlength=ECE_BINS)[held] / count[held]
    return Reliability(predicted, observed, count[held])


def calibration_error(probability: Scores, happened: Events) -> float:
    """Compute the expected calibration error over bins of equal width; NaN without rows."""
    if not len(happened):
        return float("nan")
    bins = bin_reliability(probability, happened)
    gap = np.abs(bins.predicted - bins.observed)
    return float((gap * bins.count).sum() / bins.count.sum())
