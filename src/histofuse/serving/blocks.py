"""A few rows, computed as thousands are.

Matrix products take another path for a single row, or for the last few of a batch, and differ there
in the last digits: enough to move a probability by 1e-6. Filled up with zeros to whole blocks, the
same row gives the same bits in a request of one and in the pipeline's batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

BLOCK: Final = 4


def fill_blocks(compute: Callable[..., np.ndarray], *inputs: np.ndarray) -> np.ndarray:
    """Compute a function of rows on whole blocks of them."""
    n = len(inputs[0])
    lacking = -n % BLOCK
    if not lacking:
        return compute(*inputs)
    filled = (np.concatenate([a, np.zeros((lacking, *a.shape[1:]), a.dtype)]) for a in inputs)
    return compute(*filled)[:n]
