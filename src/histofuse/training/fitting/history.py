"""The history of a fit: metrics per epoch, the best epoch, and when to stop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from histofuse.core.artifacts import write_text
from histofuse.core.auroc import compute_auroc
from histofuse.core.tables import to_csv
from histofuse.training.fitting.recipe import Monitor, Recipe

_ROWS_AT_ONCE: Final = 2**16


@dataclass(frozen=True)
class FitResult:
    """The history of a fit, one mapping per epoch, and the epoch (from 1) whose weights were kept.

    Keys are epoch (from 1), loss, accuracy and macro_f1 of both splits (``train_loss``),
    validation_auroc and learning_rate_<group>.
    """

    history: list[dict[str, float]]
    best_epoch: int


def measure(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    class_weights: Float[np.ndarray, " k"] | None = None,
    *,
    rank: bool = True,
) -> dict[str, float]:
    """Measure weighted cross-entropy, accuracy, macro-F1 and macro one-vs-rest AUROC.

    Macro means are over the classes that occur among the labels (or, for F1, the predictions).
    AUROC is NaN without `rank` and where no class has both positives and negatives.
    """
    k, n = logits.shape[1], len(labels)
    class_weights = np.ones(k) if class_weights is None else class_weights
    ranked, confusion, losses, total = [], np.zeros((k, k), int), 0.0, 0.0
    # Some rows at once: temporary arrays of all would take several times their logits.
    for rows in (slice(start, start + _ROWS_AT_ONCE) for start in range(0, n, _ROWS_AT_ONCE)):
        part, true = logits[rows], labels[rows]
        shifted = part - part.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        weights = class_weights[true]
        losses -= (weights * log_p[np.arange(len(true)), true]).sum()
        total += weights.sum()
        pairs = true * k + part.argmax(axis=1)
        confusion += np.bincount(pairs, minlength=k * k).reshape(k, k)
        if rank:
            ranked.append(log_p)
    return {
        "loss": float(losses / total) if total > 0 else math.nan,
        "accuracy": float(np.trace(confusion) / n) if n else math.nan,
        "macro_f1": _macro_f1(confusion),
        "auroc": _macro_auroc(np.concatenate(ranked), labels) if ranked else math.nan,
    }


def _macro_f1(confusion: np.ndarray) -> float:
    support = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * np.diag(confusion)[support > 0] / support[support > 0]).mean())


def _macro_auroc(log_p: np.ndarray, labels: np.ndarray) -> float:
    k = log_p.shape[1]
    # Of two classes the second is the positive one.
    areas = [compute_auroc(log_p[:, c], labels == c) for c in ((1,) if k == 2 else range(k))]
    known = [a for a in areas if not math.isnan(a)]
    return float(np.mean(known)) if known else math.nan


def score_epoch(row: Mapping[str, float], monitor: Monitor) -> float:
    """Read the monitored validation metric of an epoch; more is better, NaN below all."""
    if monitor == "last":
        return row["epoch"]
    value = row[f"validation_{monitor}"]
    if math.isnan(value):
        return -math.inf
    return -value if monitor == "loss" else value


def find_best(history: Sequence[Mapping[str, float]], monitor: Monitor) -> int:
    """Find the index of the best epoch; ties go to the lower validation loss, then the first."""

    def rank(index: int) -> tuple[float, float]:
        row = history[index]
        return score_epoch(row, monitor), score_epoch(row, "loss")

    return max(range(len(history)), key=rank)


def is_finished(history: Sequence[Mapping[str, float]], recipe: Recipe) -> bool:
    """Say whether training is over: all epochs done, or out of patience."""
    if len(history) >= recipe.epochs:
        return True
    if not history:
        return False
    return len(history) - 1 - find_best(history, recipe.monitor) >= recipe.patience


def write_history(result: FitResult, path: Path) -> None:
    """Write ``history.csv``: one row per epoch, six significant digits, NaN left empty."""
    write_text(to_csv(pd.DataFrame(result.history), float_format="%.6g"), path)
