"""Encoded health records as training takes them, and the few scores that training watches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64, Shaped

from histofuse.core.auroc import compute_auroc
from histofuse.core.errors import collect_faults
from histofuse.core.ids import SPLITS, Split
from histofuse.models.tabular import Kind, name_table, select_features

WEIGHT: Final = "weight"


@dataclass(frozen=True)
class LabelledRows:
    """Rows of one split; NaN features are missing."""

    x: Float32[np.ndarray, "n features"]
    target: Int64[np.ndarray, " n"]  # 0 or 1
    subjects: Int64[np.ndarray, " n"]  # patients, by whom folds keep rows together
    # in the loss, where the cohort weighs its rows; None: each counts as one
    weight: Float32[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: np.ndarray) -> "LabelledRows":
        """Take some of the rows."""
        weight = None if self.weight is None else self.weight[index]
        return LabelledRows(self.x[index], self.target[index], self.subjects[index], weight)

    @property
    def positives(self) -> int:
        """How many rows have target 1."""
        return int(self.target.sum())


def select_rows(table: pd.DataFrame, features: Sequence[str], split: Split) -> LabelledRows:
    """Select the rows of one split from an encoded table."""
    rows = table[table["split"] == split]
    return LabelledRows(
        x=select_features(rows, list(features)),
        target=rows["target"].to_numpy(dtype=np.int64, copy=True),
        subjects=rows["subject_id"].to_numpy(dtype=np.int64, copy=True),
        weight=rows[WEIGHT].to_numpy(dtype=np.float32, copy=True) if WEIGHT in rows else None,
    )


def repeat_by_weight(
    weight: Float32[np.ndarray, " n"] | None, rows: int
) -> Int64[np.ndarray, " m"]:
    """List row numbers, each as often as its weight says, for what takes no weights."""
    if weight is None:
        return np.arange(rows)
    ends = np.floor(np.cumsum(weight, dtype=np.float64) + 0.5).astype(np.int64)
    return np.repeat(np.arange(rows), np.diff(ends, prepend=0))


def check_trainable(table: pd.DataFrame, features: Sequence[str], kind: Kind) -> None:
    """Check that a model can be trained on an encoded table.

    Raises InputError with every fault: unknown splits, targets other than 0 and 1, a class without
    training rows, no features, values that are infinite, or missing in the imputed table.
    """
    where = f"data/encoded/{name_table(kind)}.parquet"
    values = table[list(features)].to_numpy(dtype=np.float32)
    bad = np.isinf(values) if kind == "xgboost" else ~np.isfinite(values)
    columns = [features[i] for i in np.flatnonzero(bad.any(axis=0)).tolist()]
    splits = sorted(set(table["split"]) - set(SPLITS))
    targets = sorted(set(table["target"]) - {0, 1})
    train = table.loc[table["split"] == "train", "target"]
    with collect_faults() as faults:
        if not len(features):
            faults.add(where, "no feature columns", "at least one")
        if columns:
            faults.add(where, f"columns {columns} are not finite", "finite values")
        if splits:
            faults.add(where, f"splits {splits}", f"one of {list(SPLITS)}")
        if targets:
            faults.add(where, f"targets {targets}", "0 or 1")
        elif train.nunique() < 2:
            rows = f"target {train.iloc[0]} in all {len(train)}" if len(train) else "no"
            remedy = "Widen cohort.icd9 and cohort.icd10, or choose another cohort.target."
            faults.add(where, f"{rows} training rows", "both classes in training", remedy)


def score_logits(
    logits: Float[np.ndarray, " n"], target: Shaped[np.ndarray, " n"]
) -> dict[str, float]:
    """Score binary logits against a target of 0 and 1.

    Returns ``loss`` (mean negative log-likelihood), ``accuracy`` and ``macro_f1`` at probability
    0.5, and ``auroc``; NaN where not defined: all on no rows, auroc where a class is absent.
    """
    logits, target = logits.astype(np.float64), target.astype(bool)
    if not len(target):
        return dict.fromkeys(("loss", "accuracy", "macro_f1", "auroc"), np.nan)
    called = logits >= 0
    return {
        "loss": float((np.logaddexp(0, logits) - target * logits).mean()),
        "accuracy": float((called == target).mean()),
        "macro_f1": (_compute_f1(called, target) + _compute_f1(~called, ~target)) / 2,
        "auroc": compute_auroc(logits, target),
    }


def _compute_f1(called: np.ndarray, true: np.ndarray) -> float:
    total = int(called.sum()) + int(true.sum())
    return 2 * int((called & true).sum()) / total if total else 0.0
