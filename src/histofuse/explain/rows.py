"""Choosing rows to explain."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def spread(available: int, count: int) -> Int[np.ndarray, " n"]:
    """Choose up to `count` of the available places, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, available - 1, min(available, count)).round().astype(int))
