"""Classification metrics with one rule for what is not defined.

A class without an example in the split has no metric: None, and so has every macro mean, for a mean
over the other classes is another number under the same name. A class that is there but never
predicted has precision and F1 of 0. AUROC also needs an example outside the class. Accuracy, Brier
score and calibration error are defined as long as there is any row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from histofuse.training.scores import compute_auroc

Metrics = dict[str, float | None]
ECE_BINS = 10


def classification_metrics(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    predictions: Int[np.ndarray, " n"],
    classes: Sequence[str],
    prefix: str,
) -> Metrics:
    """Measure a classifier on one split.

    Args:
        labels: Class numbers.
        probabilities: Calibrated; one column a class, rows sum to 1.
        predictions: Class numbers by the model's own thresholds, so not always the argmax.
        classes: Names, in the order of the columns.
        prefix: The split.

    Returns:
        ``<prefix>/accuracy``, ``/brier``, ``/ece``, and for precision, recall, f1, auroc and auprc
        (one against the rest) one entry a class and their plain mean under ``/macro``; None where
        not defined.
    """
    counts = count_confusion(labels, predictions, len(classes))
    per_class = {
        name: [measure(k) for k in range(len(classes))]
        for name, measure in (
            ("precision", lambda k: _precision(counts, k)),
            ("recall", lambda k: _recall(counts, k)),
            ("f1", lambda k: _f1(counts, k)),
            ("auroc", lambda k: _auroc(probabilities[:, k], labels == k)),
            ("auprc", lambda k: average_precision(probabilities[:, k], labels == k)),
        )
    }
    metrics: Metrics = {f"{prefix}/accuracy": _ratio(int(counts.trace()), int(counts.sum()))}
    for name, values in per_class.items():
        metrics[f"{prefix}/{name}/macro"] = _mean(values)
        for label, value in zip(classes, values, strict=True):
            metrics[f"{prefix}/{name}/{label}"] = value
    metrics[f"{prefix}/brier"] = brier_score(probabilities, labels)
    metrics[f"{prefix}/ece"] = calibration_error(probabilities, labels)
    return metrics


# --- from counts --------------------------------------------------------------------------------


def count_confusion(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], k: int
) -> Int[np.ndarray, "k k"]:
    """Count rows by true class (first axis) and predicted class (second)."""
    return np.bincount(labels * k + predictions, minlength=k * k).reshape(k, k)


def _precision(counts: Int[np.ndarray, "k k"], k: int) -> float | None:
    if not counts[k].sum():
        return None
    called = counts[:, k].sum()
    return float(counts[k, k] / called) if called else 0.0


def _recall(counts: Int[np.ndarray, "k k"], k: int) -> float | None:
    return _ratio(int(counts[k, k]), int(counts[k].sum()))


def _f1(counts: Int[np.ndarray, "k k"], k: int) -> float | None:
    if not counts[k].sum():
        return None
    return float(2 * counts[k, k] / (counts[k].sum() + counts[:, k].sum()))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


# --- from ranks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cuts:
    """Counts above each distinct score, from the highest score down.

    Attributes:
        tp: Positives at or above the score.
        fp: Negatives at or above the score.
    """

    tp: Int[np.ndarray, " cuts"]
    fp: Int[np.ndarray, " cuts"]

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


def count_cuts(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Cuts:
    """Count positives and negatives above each distinct score; equal scores fall together."""
    order = np.argsort(-scores, kind="stable")
    ordered, hit = scores[order], positive[order]
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    tp, fp = np.cumsum(hit), np.cumsum(~hit)
    return Cuts(tp[last_of_equals], fp[last_of_equals])


def average_precision(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> float | None:
    """Compute the area under the precision-recall curve as a sum of steps, not interpolated."""
    if not positive.any():
        return None
    cuts = count_cuts(scores, positive)
    return float((np.diff(cuts.recall, prepend=0.0) * cuts.precision).sum())


def _auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float | None:
    value = compute_auroc(scores, positive)
    return None if np.isnan(value) else value


# --- calibration --------------------------------------------------------------------------------


def brier_score(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> float | None:
    """Compute the mean squared distance to the truth, from 0.

    Of two classes that of the positive one (up to 1), of more the sum over all (up to 2), as
    scikit-learn has it.
    """
    if not len(labels):
        return None
    squared = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    if probabilities.shape[1] == 2:
        return float(squared[:, 1].mean())
    return float(squared.sum(axis=1).mean())


@dataclass(frozen=True)
class Reliability:
    """Probabilities in bins of equal width, the empty ones left out.

    Attributes:
        predicted: Mean probability of each bin.
        observed: Share of its rows in which the event happened.
        count: Its rows.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]


def bin_reliability(
    probability: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"], bins: int = ECE_BINS
) -> Reliability:
    """Bin probabilities and compare each bin's mean with what happened."""
    place = np.clip((probability * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    held = count > 0
    predicted = np.bincount(place, weights=probability, minlength=bins)[held] / count[held]
    observed = np.bincount(place, weights=happened, minlength=bins)[held] / count[held]
    return Reliability(predicted, observed, count[held])


def calibration_error(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> float | None:
    """Compute the expected calibration error over ten bins of equal width.

    Of two classes it is about the probability of the positive one, of more about the largest
    probability and whether its class is the true one.
    """
    if not len(labels):
        return None
    if probabilities.shape[1] == 2:
        bins = bin_reliability(probabilities[:, 1], labels == 1)
    else:
        bins = bin_reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    gap = np.abs(bins.predicted - bins.observed)
    return float((gap * bins.count).sum() / bins.count.sum())
