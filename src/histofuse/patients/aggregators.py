"""Aggregators: a bag of nuclei -> one vector of fixed length.

Those that are learnt (attention) are part of the networks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.special import softmax

Bags = Float[np.ndarray, "n _"]  # one row a nucleus, patient after patient


def _take_mean(embeddings: Bags, _: Bags, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.add.reduceat(embeddings, starts, axis=0) / sizes[:, None]


def _take_max(embeddings: Bags, _: Bags, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(embeddings, starts, axis=0)


def _take_spread(
    embeddings: Bags, logits: Bags, starts: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Compute the standard deviation within the bag: how much its nuclei differ."""
    mean = _take_mean(embeddings, logits, starts, sizes)
    squares = np.add.reduceat(np.square(embeddings, dtype=np.float64), starts, axis=0)
    return np.sqrt(np.maximum(squares / sizes[:, None] - np.square(mean, dtype=np.float64), 0))


def _count_classes(_: Bags, logits: Bags, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Count the nuclei of each class, as a pathologist would.

    Returns for each class its mean probability, the share of nuclei decided for it, and the
    logarithm of 1 + its expected number in the bag.
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    decided = np.eye(logits.shape[1])[logits.argmax(axis=1)]
    expected = np.add.reduceat(probabilities, starts, axis=0)
    shares = np.add.reduceat(decided, starts, axis=0) / sizes[:, None]
    return np.hstack([expected / sizes[:, None], shares, np.log1p(expected)])


_FIXED: Final[Mapping[str, Callable[..., np.ndarray]]] = {
    "mean": _take_mean,
    "max": _take_max,
    "spread": _take_spread,
    "distribution": _count_classes,
}


def aggregate(
    embeddings: Float32[np.ndarray, "n d"],
    logits: Float[np.ndarray, "n k"],
    sizes: Int64[np.ndarray, " p"],
    names: Sequence[str],
) -> Float32[np.ndarray, "p width"]:
    """Aggregate bags that follow one another, `sizes` nuclei each; an empty one becomes zeros.

    ``mean``, ``max`` and ``spread`` are as wide as an embedding, ``distribution`` three times the
    classes. Names of learnt aggregators are skipped.
    """
    held = sizes > 0
    if not held.any():  # the width does not depend on the nuclei
        blank, unsure = (np.zeros((1, of.shape[1]), np.float32) for of in (embeddings, logits))
        width = aggregate(blank, unsure, np.array([1]), names).shape[1]
        return np.zeros((len(sizes), width), dtype=np.float32)
    starts = (np.cumsum(sizes) - sizes)[held]
    fixed = [_FIXED[name] for name in names if name in _FIXED]
    parts = [np.zeros((len(sizes), 0))]
    for take in fixed:
        values = take(embeddings, logits, starts, sizes[held])
        part = np.zeros((len(sizes), values.shape[1]))
        part[held] = values
        parts.append(part)
    return np.hstack(parts).astype(np.float32)
