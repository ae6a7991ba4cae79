"""Whole slides read by region: tiled TIFF and SVS with tifffile, other formats with OpenSlide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from histofuse.core.errors import InputError
from histofuse.data.images.pixels import Image, require_content, to_8_bits
from histofuse.data.images.tiff import (
    APERIO_YCC,
    LZW,
    decode_lzw,
    decode_whole,
    find_bits,
    find_turn,
    naming_file,
    require_accepted,
    require_size,
    require_tile,
)
from histofuse.params.data import FrameParams

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

# What OpenSlide reads and tifffile does not tile.
_OPENSLIDE_SUFFIXES: Final = {".bif", ".mrxs", ".ndpi", ".scn", ".svslide", ".vms", ".vmu"}
SLIDE_SUFFIXES: Final = {".tif", ".tiff", ".svs", *_OPENSLIDE_SUFFIXES}
_OPENSLIDE_TILE_PX: Final[tuple[int, int]] = (256, 256)
_LARGEST_FRAME_BYTES: Final = 2**26  # decoded; a tiled TIFF beyond it is read by region
_CACHE_BYTES: Final = 2**26  # of decoded tiles, an open slide
_BAND_PX: Final = 4096  # height of the bands in which a slide is cut
_TILES_LOOKED_AT: Final = 16  # for the range of a slide of 16 bits


@runtime_checkable
class Slide(Protocol):
    """A slide open for reading: (height, width) of each level, finest first, and of a tile."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]: ...  # noqa: D102

    @property
    def tile_px(self) -> tuple[int, int]: ...  # noqa: D102

    def read_region(self, top: int, left: int, height: int, width: int, level: int = 0) -> Image:
        """Read a rectangle, in pixels of its level, that lies inside the slide.

        Raises InputError if the file is damaged there, ValueError if it reaches beyond the slide.
        """
        ...


class TiffSlide:
    """A `Slide` in a tiled TIFF; tiles that are read again soon are decoded once."""

    def __init__(self, tiff: TiffFile, path: Path, frames: FrameParams) -> None:
        levels = tiff.series[0].levels
        if any(series.size >= tiff.series[0].size for series in tiff.series[1:]):
            raise InputError.of(path, "holds several scans", "one scan and its levels")
        self._path = path
        self._pages: list[TiffPage] = [level.keyframe for level in levels]
        for page, level in zip(self._pages, levels, strict=True):
            require_accepted(page, path, pages=len(level.pages))
            if page.planarconfig == 2:
                raise InputError.of(path, "stores each channel separately", "tiles of RGB pixels")
            _require_upright(page, path, frames)
        self.shapes = tuple((page.imagelength, page.imagewidth) for page in self._pages)
        self.tile_px = _tile_of(self._pages[0])
        self._decode_tile = lru_cache(_CACHE_BYTES // (3 * math.prod(self.tile_px)) or 1)(
            self._decode
        )
        first = self._pages[0]
        self._bits = find_bits(first, lambda: self._find_largest(first), frames, path)

    def read_region(self, top: int, left: int, height: int, width: int, level: int = 0) -> Image:
        """Read a rectangle, as `Slide` says."""
        _require_inside(self.shapes[level], top, left, height, width)
        tile_height, tile_width = _tile_of(self._pages[level])
        region = np.empty((height, width, 3), np.uint8)
        for row in range(top // tile_height, -(-(top + height) // tile_height)):
            for column in range(left // tile_width, -(-(left + width) // tile_width)):
                tile = self._decode_tile(level, row, column)
                y, x = row * tile_height - top, column * tile_width - left
                part = tile[max(0, -y) : height - y, max(0, -x) : width - x]
                y, x = max(0, y), max(0, x)
                region[y : y + part.shape[0], x : x + part.shape[1]] = part
        return region

    def close(self) -> None:
        """Let go of the decoded tiles, which a cycle of references would keep for a while."""
        self._decode_tile.cache_clear()

    def _decode(self, level: int, row: int, column: int) -> Image:
        page = self._pages[level]
        tile = self._decode_raw(page, row * -(-page.imagewidth // page.tilewidth) + column)
        height, width = self.shapes[level]
        shape = height - row * page.tilelength, width - column * page.tilewidth
        if tile is None:  # a tile left out stands for the page's background
            return np.full((*np.minimum(shape, _tile_of(page)), 3), page.nodata, np.uint8)
        return to_8_bits(tile[: shape[0], : shape[1]], self._bits, self._path)

    def _decode_raw(self, page: TiffPage, number: int) -> NDArray[np.unsignedinteger] | None:
        with naming_file(self._path):
            page.parent.filehandle.seek(page.dataoffsets[number])
            data = page.parent.filehandle.read(page.databytecounts[number]) or None
            require_size(data, page, self._path)
            if page.compression == LZW and data:
                return decode_lzw(data, page)
            tile, _, shape = page.decode(data, number, jpegtables=page.jpegtables)
        return None if tile is None else tile[0, : shape[1], : shape[2]]

    def _find_largest(self, page: TiffPage) -> int:
        numbers = np.linspace(0, len(page.dataoffsets) - 1, _TILES_LOOKED_AT).astype(int)
        tiles = (self._decode_raw(page, number) for number in np.unique(numbers).tolist())
        return max((int(tile.max()) for tile in tiles if tile is not None), default=0)


class OpenSlideSlide:
    """A `Slide` in any format of OpenSlide; pixels that were not scanned are white."""

    def __init__(self, path: Path, frames: FrameParams) -> None:
        openslide = import_openslide(path)
        if not path.is_file():
            raise InputError.of(path, "no such file", "a slide")
        _require_plain(path, frames)
        self._path = path
        self._error = openslide.OpenSlideError
        try:
            self._slide = openslide.OpenSlide(path)
        except self._error as error:
            raise self._fault(error) from None
        self.shapes = tuple((height, width) for width, height in self._slide.level_dimensions)
        self.tile_px = _OPENSLIDE_TILE_PX

    def read_region(self, top: int, left: int, height: int, width: int, level: int = 0) -> Image:
        """Read a rectangle, as `Slide` says."""
        _require_inside(self.shapes[level], top, left, height, width)
        scale = self._slide.level_downsamples[level]
        origin = round(left * scale), round(top * scale)
        try:
            rgba = np.asarray(self._slide.read_region(origin, level, (width, height)))
        except self._error as error:
            raise self._fault(error) from None
        return np.where(rgba[..., 3:] == 0, np.uint8(255), rgba[..., :3])

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def _fault(self, error: Exception) -> InputError:
        problem = f"cannot be read ({error})"
        return InputError.of(self._path, problem, "a slide that OpenSlide reads")


class FrameSlide:
    """A `Slide` of one level, held whole."""

    def __init__(self, frame: Image) -> None:
        self.shapes = (frame.shape[:2],)
        self.tile_px = frame.shape[:2]
        self._frame = frame

    def read_region(self, top: int, left: int, height: int, width: int, level: int = 0) -> Image:
        """Read a rectangle, as `Slide` says."""
        _require_inside(self.shapes[level], top, left, height, width)
        return self._frame[top : top + height, left : left + width]


def import_openslide(path: Path) -> Any:
    """Import OpenSlide, which is optional. Raises InputError if it is not installed."""
    try:
        import openslide
    except ImportError:
        remedy = "Run pip install 'histofuse[slides]'."
        raise InputError.of(path, "OpenSlide is not installed", "it", remedy) from None
    return openslide


def needs_openslide(path: Path) -> bool:
    """Tell by its name whether a slide is one that only OpenSlide reads."""
    return path.suffix.lower() in _OPENSLIDE_SUFFIXES


@contextmanager
def open_picture(path: Path, frames: FrameParams, *, look: bool = True) -> Iterator[Slide | Image]:
    """Open a slide for reading by region; any other file is a frame, and decoded whole.

    `look` at whether a frame shows anything, and refuse it if not. Raises InputError as
    `tiff.read_rgb`, or if OpenSlide is missing or refuses the slide.
    """
    import tifffile

    with ExitStack() as stack:
        if needs_openslide(path):
            yield stack.enter_context(closing(OpenSlideSlide(path, frames)))
            return
        with naming_file(path):
            tiff = stack.enter_context(tifffile.TiffFile(path))
            if tiff.pages.first.compression == APERIO_YCC:
                picture = stack.enter_context(closing(OpenSlideSlide(path, frames)))
            elif _is_slide(tiff):
                picture = stack.enter_context(closing(TiffSlide(tiff, path, frames)))
            else:
                picture = decode_whole(tiff, path, frames).rgb
                if look:
                    require_content(picture, path)
        # Outside, so that faults of whoever uses the pixels are not put down to the file.
        yield picture


def find_tile(path: Path) -> tuple[int, int] | None:
    """Find height and width of a slide's tiles; None if it is a frame, or cannot be opened."""
    import tifffile

    if needs_openslide(path):
        return _OPENSLIDE_TILE_PX
    try:
        with naming_file(path), tifffile.TiffFile(path) as tiff:
            return _tile_of(tiff.pages.first) if _is_slide(tiff) else None
    except InputError:
        return None


def order_by_tile(
    tops: NDArray[np.int64], lefts: NDArray[np.int64], tile_px: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Order windows by their (n,) first rows and columns so that a tile is soon done with.

    The slide falls into bands of whole rows of tiles, and a band into columns of tiles. Tiles of
    two columns of a band are in use at a time; those at the seam of two bands are decoded twice.
    Returns (n,) positions in that order, and (n,) the band of each window, in the order given.
    """
    band_px = max(1, _BAND_PX // tile_px[0]) * tile_px[0]
    # What lies beyond the border is mirrored: such windows need the first tiles.
    bands = np.maximum(tops, 0) // band_px
    return np.lexsort((tops, np.maximum(lefts, 0) // tile_px[1], bands)), bands


def _is_slide(tiff: TiffFile) -> bool:
    page = tiff.pages.first
    if not page.is_tiled:
        return False
    large = page.imagelength * page.imagewidth * 3 > _LARGEST_FRAME_BYTES
    return large or bool(tiff.is_svs) or len(tiff.series[0].levels) > 1


def _require_plain(path: Path, frames: FrameParams) -> None:
    """Hold a slide that OpenSlide opens, if it is a TIFF, to what holds for other TIFFs."""
    import tifffile

    with naming_file(path), suppress(tifffile.TiffFileError), tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            require_tile(page.aspage(), path)
            _require_upright(page.aspage(), path, frames)


def _require_upright(page: TiffPage, path: Path, frames: FrameParams) -> None:
    if find_turn(page, frames, path) != 1:
        expected, remedy = "a slide that is displayed as stored", "Store it upright, or cut frames"
        raise InputError.of(path, "is displayed turned", expected, f"{remedy} out of it.")


def _tile_of(page: TiffPage) -> tuple[int, int]:
    return page.tilelength, page.tilewidth


def _require_inside(shape: tuple[int, int], top: int, left: int, height: int, width: int) -> None:
    if min(top, left) < 0 or top + height > shape[0] or left + width > shape[1]:
        region = f"rows {top} to {top + height}, columns {left} to {left + width}"
        raise ValueError(f"{region} reach beyond a level of {shape[0]} x {shape[1]} pixels")
