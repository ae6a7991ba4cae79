"""Which rows are explained."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int


def spread(available: int, count: int) -> Int[np.ndarray, " n"]:
    """Choose up to `count` of the available places evenly, including the first and the last."""
    return np.unique(np.linspace(0, available - 1, min(available, count)).round().astype(int))


def choose_sample(predictions: pd.DataFrame, classes: Sequence[str], most: int) -> pd.DataFrame:
    """Choose rows of each true class evenly along their patch ids, and so over the cases."""
    parts = []
    for name in classes:
        rows = predictions[predictions["label"] == name].sort_values("patch_id")
        parts.append(rows.iloc[spread(len(rows), most)])
    return pd.concat(parts, ignore_index=True)


def choose_examples(
    predictions: pd.DataFrame, classes: Sequence[str], per_class: int
) -> pd.DataFrame:
    """Choose patches of each true class: the most confident misses, up to half, and hits.

    Where there are too few of one kind, the other fills up. Hits come before misses.
    """
    parts: list[pd.DataFrame] = []
    for name in classes:
        rows = rank_by_confidence(predictions[predictions["label"] == name])
        hits, misses = (rows[(rows["prediction"] == name) == kind] for kind in (True, False))
        n_misses = min(len(misses), max(per_class // 2, per_class - len(hits)))
        parts += [hits.head(per_class - n_misses), misses.head(n_misses)]
    return pd.concat(parts, ignore_index=True)


def rank_by_confidence(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by the probability of the decided class, most confident first."""
    decided = [row[f"probability_{row['prediction']}"] for _, row in rows.iterrows()]
    confidence = np.array(decided, dtype=np.float32)
    return rows.iloc[np.lexsort((rows["patch_id"].to_numpy(dtype=str), -confidence))]


def choose_cards(predictions: pd.DataFrame, classes: Sequence[str], count: int) -> pd.DataFrame:
    """Choose the most confident hits and misses of each true class; ``number`` counts them."""
    parts = []
    for name in classes:
        rows = rank_by_confidence(predictions[predictions["label"] == name])
        for kind in (True, False):
            chosen = rows[(rows["prediction"] == name) == kind].head(count)
            parts.append(chosen.assign(number=np.arange(1, len(chosen) + 1)))
    return pd.concat(parts, ignore_index=True)
