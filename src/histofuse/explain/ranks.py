"""Rank correlation of explanations."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

Values = Float[np.ndarray, "n values"]


def correlate_ranks(values: Values, others: Values) -> Float[np.ndarray, " n"]:
    """Compute Spearman's rank correlation row by row; NaN where a row is constant."""
    ranks = [rankdata(v, axis=1) for v in (values, others)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
