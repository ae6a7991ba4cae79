"""What classification metrics are made of: counts, curves, squared errors, bins.

The metrics themselves are computed in `weighted`, of one weighting or of many.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Scores = Float[np.ndarray, " n"]
Events = Bool[np.ndarray, " n"]
Labels = Int[np.ndarray, " n"]
Probabilities = Float[np.ndarray, "n k"]
ECE_BINS = 10
TOP_LABEL = "ece/top_label"


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
