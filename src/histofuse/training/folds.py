"""Folds of training rows, for all models that hold some of them out."""

import numpy as np
from jaxtyping import Int, Shaped

Folds = list[tuple[np.ndarray, np.ndarray]]


def split_folds(
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    classes: int,
    folds: int,
    seed: int,
) -> Folds:
    """Split rows into folds stratified by class that keep groups (cases, patients) whole.

    Fewer folds where a class has fewer groups than that; none where a class has fewer than two, or
    would be missing from the rest of a fold. Returns row numbers (rest, held out) of each fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = min(folds, *(len(np.unique(groups[labels == c])) for c in range(classes)))
    if folds < 2:
        return []
    # The grouped splitter loops over groups in Python; with one row per group both are the same.
    alone = len(np.unique(groups)) == len(groups)
    splitter = StratifiedKFold if alone else StratifiedGroupKFold
    splitter = splitter(folds, shuffle=True, random_state=seed)
    splits = splitter.split(labels, labels, None if alone else groups)
    splits = [(rest, held_out) for rest, held_out in splits if len(held_out)]
    whole = all(len(np.unique(labels[rest])) == classes for rest, _ in splits)
    return splits if whole else []
