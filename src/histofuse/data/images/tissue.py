"""A slide at a glance: its thumbnail, and where in it there is tissue."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8

from histofuse.data.images.resolution import resample
from histofuse.data.images.slides import Slide

_LONGEST_PX: Final = 1600
_READ_PX: Final = 4096  # side of what is read of the slide at once
_SMOOTH_UM: Final = 8.0
# Difference of the brightest and the darkest channel: glass of any light has almost none.
_LEAST_COLOUR, _MOST_COLOUR = 8.0, 18.0


@dataclass(frozen=True)
class Overview:
    """A slide at a glance."""

    thumbnail: UInt8[np.ndarray, "height width 3"]
    tissue: Bool[np.ndarray, "height width"]  # where there is tissue
    mpp: float  # micrometres per pixel of both
    full_shape: tuple[int, int]  # (height, width) of the slide

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue."""
        return float(self.tissue.sum()) * self.mpp**2 / 1e6


def look_over(slide: Slide, mpp: float) -> Overview:
    """Make a thumbnail, never holding more than a part of the slide, and find its tissue."""
    small = resample(slide, min(1.0, _LONGEST_PX / max(slide.shapes[0])))
    height, width = small.shapes[0]
    scale = height / slide.shapes[0][0]
    thumbnail = np.empty((height, width, 3), np.uint8)
    # A thumbnail may be read from a coarse level: what counts is what is read of it.
    step = max(16, round(_READ_PX * scale))
    for top in range(0, height, step):
        for left in range(0, width, step):
            sides = min(step, height - top), min(step, width - left)
            thumbnail[top : top + step, left : left + step] = small.read_region(top, left, *sides)
    return Overview(thumbnail, find_tissue(thumbnail, mpp / scale), mpp / scale, slide.shapes[0])


def find_tissue(
    rgb: UInt8[np.ndarray, "height width 3"], mpp: float
) -> Bool[np.ndarray, "height width"]:
    """Find tissue by its colour, which glass lacks; Otsu's threshold within fixed limits.

    Where everything is tissue, Otsu's threshold would cut it in two: hence the limits.
    """
    from scipy.ndimage import gaussian_filter

    colour = (rgb.max(axis=2) - rgb.min(axis=2)).astype(np.float32)
    colour = gaussian_filter(colour, max(1.0, _SMOOTH_UM / mpp))
    return colour > np.clip(_find_otsu(colour), _LEAST_COLOUR, _MOST_COLOUR)


def _find_otsu(values: np.ndarray) -> float:
    counts, edges = np.histogram(values, bins=256, range=(0, 256))
    below = counts.cumsum()
    total, mean = below[-1], (counts * edges[:-1]).cumsum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = mean / below - (mean[-1] - mean) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(edges[1 + between.argmax()])
