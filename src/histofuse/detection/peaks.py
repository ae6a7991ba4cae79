"""A heat map -> places of nuclei."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from scipy.ndimage import maximum_filter


class Peaks(NamedTuple):
    """Local maxima of a map."""

    rows: Int64[np.ndarray, " n"]  # (n,) of the map
    columns: Int64[np.ndarray, " n"]  # (n,) of the map
    x: Float32[np.ndarray, " n"]  # (n,) fractions of columns, pixel i spans [i, i + 1)
    y: Float32[np.ndarray, " n"]  # (n,) of rows likewise


def find_peaks(heat: Float32[np.ndarray, "rows columns"], spacing: float, least: float) -> Peaks:
    """Find the places that exceed all others within a distance.

    What is a peak depends on that neighbourhood alone, so that overlapping parts of a map have the
    same ones. `spacing` is in places of the map; `least` is the value that a peak reaches.
    """
    reach = int(spacing)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    around = maximum_filter(heat, footprint=x**2 + y**2 <= spacing**2, mode="nearest")
    rows, columns = np.nonzero((heat == around) & (heat >= least))
    return Peaks(rows, columns, *_refine(heat, rows, columns))


def _refine(
    heat: Float32[np.ndarray, "rows columns"],
    rows: Int64[np.ndarray, " n"],
    columns: Int64[np.ndarray, " n"],
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Put each peak at the top of the parabola through it and its neighbours, x and y."""
    padded = np.pad(heat, 1, mode="edge" if heat.size else "constant")
    middle = padded[rows + 1, columns + 1]
    tops = []
    for dy, dx, place in ((0, 1, columns), (1, 0, rows)):
        before = padded[rows + 1 - dy, columns + 1 - dx]
        after = padded[rows + 1 + dy, columns + 1 + dx]
        bend = 2 * middle - before - after
        shift = np.divide(after - before, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
        tops.append((place + 0.5 + shift.clip(-0.5, 0.5)).astype(np.float32))
    return tops[0], tops[1]
