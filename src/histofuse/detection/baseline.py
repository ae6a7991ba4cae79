"""Nuclei without training: dark spots of haematoxylin."""

from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from scipy.ndimage import gaussian_filter

from histofuse.detection.peaks import find_peaks
from histofuse.features.stain import REFERENCE, measure_density

_SMOOTHING_PX: Final = 10.0
_SPACING_PX: Final = 12.0
_QUANTILE: Final = 0.8


def find_dark_spots(pixels: UInt8[np.ndarray, "height width 3"]) -> pd.DataFrame:
    """Find local maxima of smoothed haematoxylin above the 0.8 quantile of the image.

    Returns:
        ``x_px``, ``y_px`` and ``score``, the rank of a spot's darkness.
    """
    amounts = np.linalg.pinv(REFERENCE.stains)[:, 0].astype(np.float32)
    haematoxylin = gaussian_filter(measure_density(pixels) @ amounts, _SMOOTHING_PX)
    peaks = find_peaks(haematoxylin, _SPACING_PX, float(np.quantile(haematoxylin, _QUANTILE)))
    darkness = haematoxylin[peaks.rows, peaks.columns]
    rank = darkness.argsort().argsort() / max(1, len(darkness))
    return pd.DataFrame({"x_px": peaks.x, "y_px": peaks.y, "score": rank}).astype("float64")
