"""Smooth random fields, the raw material of simulated tissue."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.floating]  # (height, width), float32

# Standard deviation of white noise after cubic B-spline interpolation along both axes.
_SPLINE_SPREAD = 0.479
_MARGIN = 4  # control points beyond the frame, so that each pixel has its four neighbours


def smooth_noise(rng: Generator, shape: tuple[int, int], cell_px: float) -> Field:
    """Draw a smooth field of mean 0 and SD about 1, of blobs about twice as wide as `cell_px`."""
    controls = tuple(int(side / cell_px) + _MARGIN for side in shape)
    grid = rng.standard_normal(controls, dtype=np.float32)
    return _interpolate(grid, shape, cell_px) / np.float32(_SPLINE_SPREAD)


def enlarge(field: Field, shape: tuple[int, int], factor: int) -> Field:
    """Enlarge a field, smoothly; `field` samples every `factor`-th pixel from the first on."""
    padded = np.pad(field, (1, _MARGIN), mode="edge")
    return _interpolate(padded, shape, float(factor))


def wavy_profile(rng: Generator, length: int) -> NDArray[np.float32]:
    """Draw a periodic one-dimensional profile in about [-1, 1], for the cross-section of fibres."""
    white = rng.standard_normal(length).astype(np.float32)
    kernel = np.hanning(29)
    smooth = np.convolve(np.concatenate((white, white[:28])), kernel / kernel.sum(), mode="valid")
    return (smooth / (2.5 * smooth.std())).clip(-1, 1).astype(np.float32)


def _interpolate(grid: Field, shape: tuple[int, int], cell_px: float) -> Field:
    """Evaluate the cubic B-spline over control points `cell_px` apart at each pixel."""
    rows, row_weights = _taps(shape[0], cell_px)
    columns, column_weights = _taps(shape[1], cell_px)
    tall = sum(w[:, None] * grid[rows + k] for k, w in enumerate(row_weights))
    assert isinstance(tall, np.ndarray)
    wide = np.zeros(shape, np.float32)
    for k, weight in enumerate(column_weights):
        wide += weight * np.take(tall, columns + k, axis=1)
    return wide


def _taps(length: int, cell_px: float) -> tuple[NDArray[np.intp], list[NDArray[np.float32]]]:
    position = np.arange(length, dtype=np.float32) / np.float32(cell_px)
    first = position.astype(np.intp)
    t = position - first
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    return first, [w.astype(np.float32) for w in weights]
