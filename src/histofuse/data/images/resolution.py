"""Micrometres per pixel: what files say, what is taken, and pictures brought to a model's own."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import ParseError

import numpy as np

from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.data.images.pixels import Image
from histofuse.data.images.slides import FrameSlide, Slide, needs_openslide

if TYPE_CHECKING:
    from tifffile import TiffFile

LEAST_MPP, LARGEST_MPP = 0.05, 2.0  # beyond it no nucleus can be classified
_SAME: Final = 0.01  # relative; resampling would blur more than it mends
_SQUARE: Final = 0.05  # most that the two sides of a pixel differ
_PRINTED_MPP: Final = 10.0  # 72 to 1200 dots an inch are for paper, not of a scanner
_APERIO: Final = re.compile(r"\|\s*MPP\s*=\s*([^\s|]+)")
_UM: Final = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}
_UNIT_UM: Final = {2: 25_400.0, 3: 10_000.0}  # TIFF's ResolutionUnit
_SUPPORT: Final = 4  # pixels around a region that its resampling reads, times the reduction
_REMEDY = "Name it with --mpp (training: data.mpp), as the scanner's software shows it."


def read_mpp(path: Path) -> float | None:
    """Read the micrometres per pixel of the finest level that a file says; None if it does not.

    Source: Aperio's image description, OME-XML's PhysicalSize, OpenSlide's properties, or TIFF's
    resolution, unless that is one for printing. Raises InputError if pixels are not square.
    """
    x, y = _read_openslide(path) if needs_openslide(path) else _read_tiff(path)
    if x is None or y is None:
        return None
    if abs(x - y) > _SQUARE * x:
        raise InputError.of(path, f"has pixels of {x:.3f} by {y:.3f} µm", "square ones")
    return (x + y) / 2


def settle_mpp(path: Path, given: float | None) -> float:
    """Take what a file says or, where it says nothing usable, what the user gave.

    Raises InputError if neither is known, or the file's shows no nuclei.
    """
    told = read_mpp(path)
    if told is not None and LEAST_MPP <= told <= LARGEST_MPP:
        return told
    if given is not None:
        if told is not None:
            report(f"{path.name}: says {told:.4g} µm per pixel, {given:g} is taken")
        return given
    if told is None:
        raise InputError.of(path, "does not say its mpp", "µm per pixel", _REMEDY)
    problem = f"has {told:.4g} µm per pixel{', as a thumbnail has' if told > LARGEST_MPP else ''}"
    remedy = "Use the scan itself; if the file is wrong, name its mpp with --mpp."
    raise InputError.of(path, problem, describe_range(), remedy)


def check_mpp(given: float | None, faults: FaultList) -> None:
    """Note a resolution that a user gave, and at which no nuclei can be seen."""
    if given is not None and not LEAST_MPP <= given <= LARGEST_MPP:
        faults.add("--mpp", f"is {given:g}", describe_range())


def find_factors(
    paths: Mapping[str, Path], mpp: float | None, given: float | None
) -> dict[str, float]:
    """Find how many times as many pixels a side each frame gets to have the resolution `mpp`.

    None leaves all frames as they are; `given` is that of files that do not say. Raises InputError
    with the frames whose resolution is not known.
    """
    if mpp is None:
        return dict.fromkeys(paths, 1.0)
    settled: dict[str, float] = {}
    with collect_faults() as faults:
        for frame, path in paths.items():
            with faults.catching():
                settled[frame] = settle_mpp(path, given)
    if given is not None and (other := sum(taken != given for taken in settled.values())):
        of = f"{other:,} of {show_count(len(settled), 'frames')}"
        report(f"{of}: the µm per pixel of the file are taken, not {given:g}")
    factors = {frame: taken / mpp for frame, taken in settled.items()}
    return {frame: 1.0 if abs(f - 1) <= _SAME else f for frame, f in factors.items()}


def describe_range() -> str:
    """Say which resolutions nuclei can be seen at."""
    return f"{LEAST_MPP:g} to {LARGEST_MPP:g} µm per pixel, at which nuclei can be told apart"


def resample(picture: Image | Slide, factor: float) -> Slide:
    """Bring a picture to `factor` times as many pixels a side; a factor near 1 leaves it as is."""
    slide = FrameSlide(picture) if isinstance(picture, np.ndarray) else picture
    return slide if abs(factor - 1) <= _SAME else ResampledSlide(slide, factor)


class ResampledSlide:
    """A `Slide` of one level at another resolution.

    A region is computed from the coarsest level that is fine enough, with what lies around it, so
    that any two regions agree where they overlap.
    """

    def __init__(self, slide: Slide, factor: float) -> None:
        height, width = slide.shapes[0]
        self.shapes = ((math.floor(height * factor), math.floor(width * factor)),)
        if min(self.shapes[0]) < 1:
            raise ValueError(f"{width} x {height} pixels times {factor:g} are none")
        self._slide = slide
        reductions = [height / h for h, _ in slide.shapes]
        fit = (n for n, reduction in enumerate(reductions) if reduction <= 1 / factor * (1 + _SAME))
        self._level = max(fit, default=0)
        level_height, level_width = slide.shapes[self._level]
        self._scale = level_height / (height * factor), level_width / (width * factor)
        tile_height, tile_width = (max(1, round(side * factor)) for side in slide.tile_px)
        self.tile_px = tile_height, tile_width

    def read_region(self, top: int, left: int, height: int, width: int, level: int = 0) -> Image:
        """Read a rectangle, as `Slide` says; the colours beyond the border are its own."""
        from PIL import Image as Pictures

        if level:
            raise ValueError("a resampled slide has one level")
        y0, y1, first, last = self._span(top, height, 0)
        x0, x1, begin, end = self._span(left, width, 1)
        source = self._slide.read_region(first, begin, last - first, end - begin, self._level)
        box = (x0 - begin, y0 - first, x1 - begin, y1 - first)
        picture = Pictures.fromarray(source)
        return np.asarray(picture.resize((width, height), Pictures.Resampling.BICUBIC, box=box))

    def _span(self, start: int, length: int, axis: int) -> tuple[float, float, int, int]:
        """Bounds of a side in pixels of the level, and the whole pixels to read for it."""
        scale, limit = self._scale[axis], self._slide.shapes[self._level][axis]
        low, high = start * scale, min((start + length) * scale, limit)
        support = math.ceil(_SUPPORT * max(1.0, scale))
        return low, high, max(0, math.floor(low) - support), min(limit, math.ceil(high) + support)


def _read_tiff(path: Path) -> tuple[float | None, float | None]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            return _find_mpp(tiff)
    except FileNotFoundError:
        raise InputError.of(path, "no such file", "a slide") from None
    except Exception:  # tifffile raises many types of errors; whoever reads pixels names them
        return None, None


def _find_mpp(tiff: "TiffFile") -> tuple[float | None, float | None]:
    page = tiff.pages.first
    if tiff.is_svs:
        match = _APERIO.search(page.description)
        mpp = _parse_length(match[1]) if match else None
        return mpp, mpp
    if tiff.is_ome and (sizes := _read_ome(tiff.ome_metadata or "")):
        return sizes
    unit = _UNIT_UM.get(int(page.tags.valueof(296, default=1)))
    ratios = [page.tags.valueof(code) for code in (282, 283)]
    if unit is None or not all(ratio and all(ratio) for ratio in ratios):
        return None, None
    x, y = (unit * below / above for above, below in ratios)
    return (None, None) if x > _PRINTED_MPP else (x, y)


def _read_ome(text: str) -> tuple[float, float] | None:
    from xml.etree import ElementTree

    try:
        pixels = ElementTree.fromstring(text).find(".//{*}Pixels")
    except ParseError:
        return None
    if pixels is None:
        return None
    names = ("PhysicalSizeX", "PhysicalSizeY")
    units = [_UM.get(pixels.get(f"{name}Unit", "µm"), 0) for name in names]
    x, y = (_parse_length(pixels.get(name)) for name in names)
    return (x * units[0], y * units[1]) if x and y and all(units) else None


def _read_openslide(path: Path) -> tuple[float | None, float | None]:
    from histofuse.data.images.slides import import_openslide

    openslide = import_openslide(path)
    try:
        with openslide.OpenSlide(path) as slide:
            names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
            x, y = (_parse_length(slide.properties.get(name)) for name in names)
    except openslide.OpenSlideError:
        return None, None
    return x, y


def _parse_length(text: str | None) -> float | None:
    """Read a number, which scanners write with a point or a comma; None if it is no length."""
    try:
        length = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return length if 0 < length < math.inf else None
