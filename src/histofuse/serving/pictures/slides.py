"""Predictions for whole slides: region by region, nuclei are found and classified.

A slide is never in memory as a whole: regions of tissue are read at the model's own resolution,
with as much around them as the detector and the patches reach. Nuclei within a pixel of a seam
belong to the region that found them first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8

from histofuse.data.cutting import cut_windows
from histofuse.data.images.slides import Slide
from histofuse.data.images.tissue import Overview
from histofuse.features.stain import find_normaliser, fit_stain_matrix, normalise
from histofuse.serving.pictures.frames import FrameModel

_BORDER_PX: Final = 64  # around tissue, in which a region is looked at
_SEAM_PX: Final = 1.0
_SAME_PX: Final = 4.0  # two nuclei at a seam that are closer are one
_SAMPLED_REGIONS: Final = 12  # for the stains of a slide
_SAMPLED_PX: Final = 512


class Region(NamedTuple):
    """A part of a slide, in pixels of the model."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class SlideModel:
    """What turns the pixels of a slide into nuclei with classes."""

    finder: Any  # a `NucleusFinder`
    frames: FrameModel
    region_px: int  # least side of a region
    batch: int  # patches that are classified at once

    @property
    def halo_px(self) -> int:
        """Pixels to read around a region."""
        reach = max(self.finder.context_px, self.frames.stored_px // 2 + 2)
        return _round_up(reach, self.finder.step_px)

    @property
    def side_px(self) -> int:
        """Side of a region whose maps begin where those of the whole slide would."""
        return _round_up(self.region_px, self.finder.step_px)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


Prepare = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]]


def predict_slide(
    model: SlideModel, slide: Slide, regions: Sequence[Region], prepare: Prepare, case: str
) -> Iterator[pd.DataFrame]:
    """Find and classify the nuclei of a slide, which has the model's resolution.

    `prepare` normalises the stains of a region; `case` is whose health record the model takes.
    Yields for each region with nuclei, ``x_px, y_px`` in pixels of the slide, ``score`` and the
    model's answer. Raises InputError if the slide is damaged.
    """
    seams = _Seams()
    for region in regions:
        pixels, top, left = read_with_halo(slide, region, model.halo_px)
        found = seams.keep(model.finder.find(pixels), region, top, left)
        if not len(found):
            continue
        stored = model.frames.make_stored(len(found))
        x_px, y_px = (found[axis].to_numpy(dtype=float) for axis in ("x_px", "y_px"))
        cut_windows(prepare(pixels), x_px, y_px, stored)
        cases = np.full(len(found), case, dtype=object)
        parts = [slice(n, n + model.batch) for n in range(0, len(found), model.batch)]
        answer = pd.concat([model.frames.answer(stored[p], cases[p]) for p in parts])
        found = found.assign(x_px=x_px + left, y_px=y_px + top)
        yield pd.concat([found, answer.reset_index(drop=True)], axis=1)


def list_regions(shape: tuple[int, int], overview: Overview, side: int) -> list[Region]:
    """List the regions of a grid in which there is tissue, or right around which."""
    height, width = shape
    scale = overview.tissue.shape[0] / height
    border = max(1, round(_BORDER_PX * scale))
    regions = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows, columns = (
                slice(max(0, int(start * scale) - border), int((start + side) * scale) + border + 1)
                for start in (top, left)
            )
            if overview.tissue[rows, columns].any():
                sides = min(side, height - top), min(side, width - left)
                regions.append(Region(top, left, *sides))
    return regions


def read_with_halo(
    slide: Slide, region: Region, halo_px: int
) -> tuple[UInt8[np.ndarray, "height width 3"], int, int]:
    """Read a region and what lies around it; also its first row and column."""
    height, width = slide.shapes[0]
    top, left = max(0, region.top - halo_px), max(0, region.left - halo_px)
    bottom = min(height, region.top + region.height + halo_px)
    right = min(width, region.left + region.width + halo_px)
    return slide.read_region(top, left, bottom - top, right - left), top, left


class _Seams:
    """Nuclei right at the borders of regions, which two of them may find."""

    def __init__(self) -> None:
        self._places = np.empty((0, 2))

    def keep(self, found: pd.DataFrame, region: Region, top: int, left: int) -> pd.DataFrame:
        """Keep the nuclei of a region that no other region has; places are from `top, left`."""
        places = found[["x_px", "y_px"]].to_numpy(dtype=float) + np.array([left, top])
        first = np.array([region.left, region.top], float)
        last = first + np.array([region.width, region.height])
        mine = np.all((places >= first - _SEAM_PX) & (places < last + _SEAM_PX), axis=1)
        inner = np.all((places >= first + _SAME_PX) & (places < last - _SAME_PX), axis=1)
        near = np.flatnonzero(mine & ~inner)
        mine[near[self._are_known(places[near])]] = False
        self._places = np.concatenate([self._places, places[near][mine[near]]])
        return found.loc[mine].reset_index(drop=True)

    def _are_known(self, places: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        from scipy.spatial import KDTree

        if not len(self._places) or not len(places):
            return np.zeros(len(places), dtype=bool)
        return KDTree(self._places).query(places, distance_upper_bound=_SAME_PX)[0] < _SAME_PX


def choose_normaliser(name: str, slide: Slide, regions: Sequence[Region]) -> Prepare:
    """Choose what normalises regions: by the stains of the slide, not each by its own."""
    if find_normaliser(name) is None or not regions:
        return lambda pixels: pixels
    chosen = np.linspace(0, len(regions) - 1, min(len(regions), _SAMPLED_REGIONS)).astype(int)
    parts = []
    for region in (regions[n] for n in chosen):
        height, width = min(region.height, _SAMPLED_PX), min(region.width, _SAMPLED_PX)
        top = region.top + (region.height - height) // 2
        left = region.left + (region.width - width) // 2
        parts.append(slide.read_region(top, left, height, width).reshape(1, -1, 3))
    fit = fit_stain_matrix(np.concatenate(parts, axis=1))
    return (lambda pixels: pixels) if fit is None else partial(normalise, fit=fit)
