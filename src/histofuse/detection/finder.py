"""Nuclei of an image of any size, by a trained detector."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, UInt8
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import expit, softmax

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.detection.network import DetectorSpec, HeatNetwork, load_detector
from histofuse.detection.peaks import find_peaks
from histofuse.features.augment import normalise, to_float
from histofuse.features.stain import measure_tissue

THRESHOLD: Final = "threshold.json"
LEAST_LOGIT: Final = -4.0  # of a peak that is worth a look: one in fifty is a nucleus
_TILE_PX: Final = 1024  # of what the network takes at once, in its own pixels
_CONTEXT_PX: Final = 128  # around a tile, likewise; what a place of the map depends on
_LEAST_TISSUE: Final = 0.002  # share of the pixels
_MPP_TOLERANCE: Final = 0.2  # relative


# Log-odds of a nucleus at each place, then the logits of its class.
Maps = Float32[np.ndarray, "maps rows columns"]


class NucleusFinder:
    """Finds the nuclei of images.

    Attributes:
        network: In eval mode.
        threshold: Least score of a nucleus.
        mpp: Micrometres a pixel of the images it was trained on; None if unknown.
    """

    def __init__(self, network: HeatNetwork, threshold: float) -> None:
        self.network = network
        self.threshold = threshold
        self.mpp = network.spec.mpp

    @classmethod
    def load(cls, bundle: Path) -> "NucleusFinder":
        """Load the detector of a bundle.

        Raises BundleError if the bundle is altered or holds another kind of model.
        """
        opened = open_bundle(bundle, row_level=False)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_detector(opened).to(device)
        return cls(network, load_json(bundle / THRESHOLD)["score"])

    @property
    def context_px(self) -> int:
        """Pixels around a part of an image that are to be given with it, so that nothing is lost.

        With them, the nuclei inside a part are those that the whole image would have there.
        """
        return _CONTEXT_PX * max(self.network.spec.reductions)

    @property
    def step_px(self) -> int:
        """Parts of an image begin at a multiple of these pixels, so that their maps fit."""
        return self.network.multiple * math.lcm(*self.network.spec.reductions)

    def require_mpp(self, mpp: float | None, where: object) -> None:
        """Refuse images of another resolution than those that the detector was trained on.

        Raises InputError if both are known and differ by more than a fifth.
        """
        if mpp is None or self.mpp is None or abs(mpp / self.mpp - 1) <= _MPP_TOLERANCE:
            return
        expected = f"about {self.mpp:g}, of the images that the detector was trained on"
        remedy = "Resample the image, or train a detector on such images."
        raise InputError.of(str(where), f"has {mpp:g} µm per pixel", expected, remedy)

    def find(self, pixels: UInt8[np.ndarray, "height width 3"]) -> pd.DataFrame:
        """Find the nuclei of an image; one without tissue has none.

        Returns ``x_px``, ``y_px`` (pixel i spans [i, i + 1)) and ``score``, between 0 and 1.
        """
        candidates = self.find_candidates(pixels)
        found = candidates[candidates["score"] >= self.threshold]
        return found[["x_px", "y_px", "score"]].reset_index(drop=True)

    def find_candidates(self, pixels: UInt8[np.ndarray, "height width 3"]) -> pd.DataFrame:
        """Find all places that may be nuclei, with the detector's own probability of each class.

        Returns as of `find`, and ``p_<class>`` for each class.
        """
        spec = self.network.spec
        if measure_tissue(pixels) < _LEAST_TISSUE:
            return _tabulate(np.empty((1 + len(spec.classes), 0, 0), np.float32), spec, 1)
        maps = self._average_reductions(pixels)
        table = _tabulate(maps, spec, spec.reductions[0] * self.network.stride)
        height, width, _ = pixels.shape
        border = spec.border_px
        inside_x = table["x_px"].between(border, width - border, inclusive="left")
        inside_y = table["y_px"].between(border, height - border, inclusive="left")
        return table[inside_x & inside_y].reset_index(drop=True)

    def _average_reductions(self, pixels: UInt8[np.ndarray, "height width 3"]) -> Maps:
        """Average the maps of all reductions, on the grid of the first."""
        first, *others = reductions = self.network.spec.reductions
        maps = self.compute_maps(reduce_pixels(pixels, first))
        for reduction in others:
            coarse = self.compute_maps(reduce_pixels(pixels, reduction))
            maps += _resample(coarse, first / reduction, maps.shape)
        return maps / len(reductions)

    @torch.inference_mode()
    def compute_maps(self, reduced: UInt8[np.ndarray, "height width 3"]) -> Maps:
        """Compute the maps of a reduced image, tile by tile, each with context."""
        network, multiple = self.network, self.network.multiple
        height, width = (-(-side // multiple) * multiple for side in reduced.shape[:2])
        after = (height - reduced.shape[0] + multiple, width - reduced.shape[1] + multiple)
        pad = [(multiple, after[0]), (multiple, after[1]), (0, 0)]
        padded = torch.from_numpy(np.pad(reduced, pad, mode="symmetric"))
        shape = (1 + len(network.spec.classes), height // network.stride, width // network.stride)
        maps = np.empty(shape, np.float32)
        for rows in _list_spans(height, multiple):
            for columns in _list_spans(width, multiple):
                part = padded[rows.read, columns.read][None].to(next(network.parameters()).device)
                answer = network.average_views(
                    normalise(to_float(part), network.spec.normalisation)
                )[0]
                y, x = (_divide(span.kept, network.stride) for span in (rows, columns))
                inner = _divide(rows.inner, network.stride), _divide(columns.inner, network.stride)
                maps[:, y, x] = answer[:, *inner].float().cpu().numpy()
        return maps


def reduce_pixels(
    pixels: UInt8[np.ndarray, "height width 3"], factor: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Average squares of pixels; the last ones are filled up by mirroring."""
    if factor == 1:
        return pixels
    pad = [(0, -side % factor) for side in pixels.shape[:2]]
    pixels = np.pad(pixels, [*pad, (0, 0)], mode="symmetric")
    total = np.zeros((pixels.shape[0] // factor, pixels.shape[1] // factor, 3), np.uint16)
    for row in range(factor):
        for column in range(factor):
            total += pixels[row::factor, column::factor]
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)


def _resample(maps: Maps, ratio: float, shape: tuple[int, ...]) -> Float32[np.ndarray, "maps _ _"]:
    """Interpolate maps where others have their places, `ratio` of these ones' places apart."""
    places = [(np.arange(side) + 0.5) * ratio - 0.5 for side in shape[1:]]
    grid = np.meshgrid(*places, indexing="ij")
    return np.stack([map_coordinates(values, grid, order=1, mode="nearest") for values in maps])


class _Span(NamedTuple):
    """A tile along one axis."""

    read: slice  # of the padded image
    inner: slice  # the part of what was read that is kept
    kept: slice  # the same part, of the image


def _list_spans(side: int, multiple: int) -> Iterator[_Span]:
    """List the tiles along an axis; all their ends are multiples."""
    count = -(-side // _TILE_PX)
    step = -(-side // (count * multiple)) * multiple
    for start in range(0, side, step):
        end = min(start + step, side)
        # In the padded image, which begins one multiple earlier and ends one later.
        first = max(0, start + multiple - _CONTEXT_PX)
        last = min(side + 2 * multiple, end + multiple + _CONTEXT_PX)
        before = start + multiple - first
        yield _Span(slice(first, last), slice(before, before + end - start), slice(start, end))


def _divide(span: slice, by: int) -> slice:
    return slice(span.start // by, span.stop // by)


def _tabulate(maps: Maps, spec: DetectorSpec, cell_px: int) -> pd.DataFrame:
    heat = gaussian_filter(maps[0], spec.smoothing_px / cell_px)
    peaks = find_peaks(heat, spec.spacing_px / cell_px, LEAST_LOGIT)
    table = {
        "x_px": peaks.x * cell_px,
        "y_px": peaks.y * cell_px,
        "score": expit(heat[peaks.rows, peaks.columns]),
    }
    probabilities = softmax(maps[1:, peaks.rows, peaks.columns], axis=0)
    table |= {f"p_{name}": p for name, p in zip(spec.classes, probabilities, strict=True)}
    return pd.DataFrame(table).astype("float64")
