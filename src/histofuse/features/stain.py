"""Macenko stain normalisation: bring a frame's haematoxylin and eosin to a reference.

Source: Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI
2009; the reference stains and amounts are the ones in common use with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LIGHT = 240.0  # transmitted light of an empty slide
# Below it a pixel counts as empty. Length over the channels, in natural logarithms: asking it of
# each channel would drop the pure eosin, which lets red light pass.
_LEAST_DENSITY = 0.15
_PERCENTILE = 1.0  # of angles, for stains robust to outliers
_LEAST_TISSUE = 500  # sampled pixels; fewer define no stains
_LEAST_ANGLE = np.radians(3)  # between stains; closer ones cannot be separated
_SAMPLES = 100_000


@dataclass(frozen=True)
class StainFit:
    """The stains of a frame."""

    # (2, 3) optical density in RGB of haematoxylin and of eosin, each of length 1
    stains: NDArray[np.float64]
    amounts: NDArray[np.float64]  # (2,) 99th percentile of the amount of each in the tissue


REFERENCE = StainFit(
    stains=np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]),
    amounts=np.array([1.9705, 1.0308]),
)


def find_normaliser(name: str) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None:
    """Find what normalises a frame, by its name in params.yaml; None for ``none``."""
    return {"none": None, "macenko": normalise}[name]


def fit_stain_matrix(rgb: NDArray[np.uint8]) -> StainFit | None:
    """Estimate the two stains of a frame; None where it has too little tissue, or one stain."""
    pixels = rgb.reshape(-1, 3)
    density = _TABLE[pixels[:: max(1, len(pixels) // _SAMPLES)]].astype(np.float64)
    tissue = density[np.linalg.norm(density, axis=1) > _LEAST_DENSITY]
    if len(tissue) < _LEAST_TISSUE:
        return None
    if (stains := _find_extremes(tissue)) is None:
        return None
    amounts = np.percentile(tissue @ np.linalg.pinv(stains), 99, axis=0)
    return StainFit(stains, amounts) if (amounts > 0).all() else None


def normalise(
    rgb: NDArray[np.uint8], reference: StainFit = REFERENCE, fit: StainFit | None = None
) -> NDArray[np.uint8]:
    """Bring a (height, width, 3) frame to reference stains; without stains it comes back as it is.

    `fit` are those of the slide that it is a part of; None to estimate its own.
    """
    fit = fit or fit_stain_matrix(rgb)
    if fit is None:
        return rgb
    # Unmixing, scaling and remixing are linear in optical density: one 3 x 3 matrix.
    scale = np.diag(reference.amounts / fit.amounts)
    change = (np.linalg.pinv(fit.stains) @ scale @ reference.stains).astype(np.float32)
    density = _TABLE[rgb]
    result = np.empty_like(rgb)
    for channel in range(3):
        mixed = sum(density[..., c] * change[c, channel] for c in range(3))
        result[..., channel] = np.clip(np.exp(-mixed) * np.float32(_LIGHT) + 0.5, 0, 255)
    return result


def measure_tissue(rgb: NDArray[np.uint8]) -> float:
    """Measure the share of the pixels that are stained."""
    pixels = rgb.reshape(-1, 3)
    density = measure_density(pixels[:: max(1, len(pixels) // _SAMPLES)])
    return float((np.linalg.norm(density, axis=1) > _LEAST_DENSITY).mean())


def measure_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure the optical density of each pixel and channel."""
    return _TABLE[rgb]


# Optical density of each 8-bit intensity; one is added so that black stays finite.
_TABLE = -np.log((np.arange(256) + 1.0) / _LIGHT).astype(np.float32)


def _find_extremes(tissue: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Find the two stains at the ends of the fan of colours in their common plane."""
    _, vectors = np.linalg.eigh(np.cov(tissue, rowvar=False))
    plane = vectors[:, 1:]  # (3, 2): the two directions of most variation
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(tissue @ plane).T)
    low, high = np.percentile(angles, [_PERCENTILE, 100 - _PERCENTILE])
    if high - low < _LEAST_ANGLE:
        return None
    stains = np.array([plane @ (np.sin(angle), np.cos(angle)) for angle in (low, high)])
    # Haematoxylin absorbs more red than eosin does.
    return stains[np.argsort(-stains[:, 0])]
