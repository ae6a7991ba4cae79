"""How far patches lie from those a model was trained on, by their embeddings.

The Mahalanobis distance to the mean of the training patches, in units of the one that 95 % of the
validation patches stay below. The covariance is `COMPONENTS` principal components and one variance
for all other directions. Only these sums over all training patches are stored, no patch.

Sources: Lee et al. 2018, A Simple Unified Framework for Detecting Out-of-Distribution Samples;
Tipping & Bishop 1999, Probabilistic Principal Component Analysis, for the covariance.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from safetensors.numpy import load_file, save_file

from histofuse.models.mlp import one_thread

DISTANCE: Final = "distance.safetensors"
COMPONENTS: Final = 32
TYPICAL: Final = 0.95
ROWS_AT_ONCE: Final = 8192
TINY: Final = 1e-12


@dataclass(frozen=True)
class Training:
    """What is kept of the embeddings of the training patches.

    Principal `axes` are divided by their standard deviations (`spread`), `rest` is the one in every
    other direction; `unit` is the distance that `TYPICAL` of the validation patches stay below.
    """

    mean: Float32[np.ndarray, " width"]
    axes: Float32[np.ndarray, "components width"]
    spread: Float32[np.ndarray, " components"]
    rest: Float32[np.ndarray, " 1"]
    unit: Float32[np.ndarray, " 1"]

    def measure(self, embeddings: Float[np.ndarray, "n width"]) -> Float[np.ndarray, " n"]:
        """Compute the distance of each patch, in units of `unit`."""
        centred = embeddings.astype(np.float64) - self.mean
        along = centred @ self.axes.T.astype(np.float64)
        beyond = (centred**2).sum(axis=1) - ((along * self.spread) ** 2).sum(axis=1)
        squared = (along**2).sum(axis=1) + np.maximum(beyond, 0) / float(self.rest[0]) ** 2
        return np.sqrt(squared) / float(self.unit[0])


def fit_distance(
    embeddings: Float[np.ndarray, "n width"],
    train: Bool[np.ndarray, " n"],
    validation: Bool[np.ndarray, " n"],
) -> Training:
    """Fit on the embeddings of training patches, and take the unit from those of validation."""
    n, width = int(train.sum()), embeddings.shape[1]
    sums = [part.sum(axis=0, dtype=np.float64) for part in _iterate_parts(embeddings, train)]
    mean = np.sum(sums, axis=0) / n
    with one_thread():
        covariance = torch.zeros(width, width, dtype=torch.float64)
        for part in _iterate_parts(embeddings, train):
            centred = torch.from_numpy(part - mean)
            covariance += centred.T @ centred / max(n - 1, 1)
        variances, vectors = torch.linalg.eigh(covariance)
    variances, vectors = variances.numpy().clip(0)[::-1], vectors.numpy().T[::-1]
    kept = int((variances[: min(COMPONENTS, n - 1)] > TINY + 1e-6 * variances[0]).sum())
    spread = np.sqrt(variances[:kept])
    rest = variances[kept:].sum() / max(width - kept, 1)
    parts = {
        "mean": mean,
        "axes": vectors[:kept] / spread[:, None],
        "spread": spread,
        # At least this: rounding leaves a little in every direction.
        "rest": [np.sqrt(max(rest, 1e-3 * variances.mean(), TINY))],
        "unit": [1.0],
    }
    fitted = Training(**{k: np.ascontiguousarray(v, dtype=np.float32) for k, v in parts.items()})
    distances = [fitted.measure(part) for part in _iterate_parts(embeddings, validation)]
    typical = np.quantile(np.concatenate(distances), TYPICAL)
    return replace(fitted, unit=np.array([max(typical, TINY)], dtype=np.float32))


def _iterate_parts(
    embeddings: Float[np.ndarray, "n width"], chosen: Bool[np.ndarray, " n"]
) -> Iterator[Float[np.ndarray, "m width"]]:
    """Copy the chosen rows part by part: all of them may lie on disk."""
    rows = np.flatnonzero(chosen)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield embeddings[rows[first : first + ROWS_AT_ONCE]]


def write_distance(fitted: Training, folder: Path) -> None:
    """Write it into the folder of a bundle."""
    save_file(vars(fitted), folder / DISTANCE)


def load_distance(folder: Path) -> Training | None:
    """Read what `write_distance` wrote; None of a bundle of before it was written."""
    path = folder / DISTANCE
    return Training(**load_file(path)) if path.is_file() else None
