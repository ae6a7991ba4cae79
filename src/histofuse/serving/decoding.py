"""Patches as clients send them -> uint8 arrays as the pipeline stores them."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from histofuse.core.errors import InputError, collect_faults
from histofuse.core.naming import show_count
from histofuse.data.images.pixels import (
    UNKNOWN,
    find_blank,
    settle_bits,
    settle_orientation,
    to_8_bits,
)
from histofuse.data.images.tiff import decode_whole
from histofuse.tracking.interface import IMAGE

FORMATS: Final = ("PNG", "JPEG")  # of Pillow; TIFFs are read as those of frames
_TIFF: Final = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
# Upper limit of the size of an encoded patch.
_BYTES_A_PIXEL: Final = 8
_BYTES_OVERHEAD: Final = 65_536
_LONGEST_PX: Final = 4096  # side of a frame; larger pictures are slides
_ORIENTATION: Final = 274  # in EXIF
_NAMES: Final = "PNG, JPEG or TIFF"
_WHOLE: Final = "whole numbers from 0 to 255"


@dataclass(frozen=True)
class PatchSize:
    """Sides of the patches that a network takes, with or without a stored margin."""

    patch_px: int
    margin_px: int

    @property
    def stored_px(self) -> int:
        """Side of a patch with its margin."""
        return self.patch_px + 2 * self.margin_px

    @property
    def most_bytes(self) -> int:
        """Size above which an encoded image is not read."""
        return _BYTES_A_PIXEL * self.stored_px**2 + _BYTES_OVERHEAD

    @property
    def most_tiff_bytes(self) -> int:
        """Size above which a TIFF is not decoded: its tiles may be larger than the patch."""
        return 2**22

    def accepts(self, height: int, width: int) -> bool:
        """Tell whether an image is a patch, with or without margin."""
        return height == width and width in (self.patch_px, self.stored_px)

    def __str__(self) -> str:
        side, stored = self.patch_px, self.stored_px
        alone = f"{side} x {side} px"
        return f"{alone}, or {stored} x {stored} px with the margin" if self.margin_px else alone


@dataclass(frozen=True)
class FrameSize(PatchSize):
    """Sides of whole frames: any, up to `patch_px`."""

    patch_px: int = _LONGEST_PX
    margin_px: int = 0

    @property
    def most_tiff_bytes(self) -> int:
        """Size above which a TIFF is not decoded."""
        return 4 * self.patch_px**2

    def accepts(self, height: int, width: int) -> bool:
        """Tell whether an image is small enough."""
        return 0 < height <= self.patch_px and 0 < width <= self.patch_px

    def __str__(self) -> str:
        return f"at most {self.patch_px} px a side"


def read_frames(cells: Any) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Read whole frames, each given as a patch is to `read_patches`.

    Raises InputError with every row that is no such image.
    """
    frames = []
    with collect_faults() as faults:
        for row, cell in _number_rows(cells):
            with faults.catching():
                frames.append(_read_cell(cell, f"row {row}, {IMAGE}", FrameSize()))
    return frames


def read_patches(
    inputs: Any, patch_px: int, margin_px: int
) -> UInt8[np.ndarray, "n stored stored 3"]:
    """Check patches and bring them to the side they are stored with, uint8.

    `inputs` are an array (n, side, side, 3), or a sequence with a patch each: an encoded image
    (bytes, or base64 as text), or (side, side, 3) as array or nested lists. Numbers are whole and
    from 0 to 255. A patch without the margin stored around it is reflected. Raises InputError with
    every row that is no such patch.
    """
    size = PatchSize(patch_px, margin_px)
    if isinstance(inputs, np.ndarray) and inputs.dtype != object:
        pixels = _check_pixels(inputs, "patches", "n", size)
        with collect_faults() as faults:
            for row, patch in enumerate(pixels):
                faults.faults += find_blank(patch, f"row {row}, {IMAGE}")
        return _add_margin(pixels, size)
    rows = list(_number_rows(inputs))
    patches = np.zeros((len(rows), size.stored_px, size.stored_px, 3), np.uint8)
    with collect_faults() as faults:
        for position, (row, cell) in enumerate(rows):
            with faults.catching():
                where = f"row {row}, {IMAGE}"
                patch = _read_cell(cell, where, size)
                faults.faults += find_blank(patch, where)
                patches[position] = _add_margin(patch[None], size)[0]
    return patches


def _number_rows(cells: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(cells, pd.Series):
        return iter(cells.items())
    if isinstance(cells, list | tuple | np.ndarray):
        return iter(enumerate(cells))
    raise InputError.of("patches", f"is a {type(cells).__name__}", "an array, or a list of images")


def _read_cell(cell: Any, where: str, size: PatchSize) -> np.ndarray:
    match cell:
        case str():
            return _decode_image(_decode_text(cell, where, size), where, size)
        case bytes() | bytearray():
            return _decode_image(bytes(cell), where, size)
        case list() | tuple():
            try:
                array = np.array(cell)
            except ValueError:
                raise InputError.of(
                    where, "holds rows of unequal lengths", "(side, side, 3)"
                ) from None
            return _check_pixels(array, where, "", size)
        case np.ndarray():
            return _check_pixels(cell, where, "", size)
        case None | float():
            raise InputError.of(where, "is missing", f"a {_NAMES} file, or an array of pixels")
        case _:
            expected = "an encoded image, or an array of pixels"
            raise InputError.of(where, f"is a {type(cell).__name__}", expected)


def _decode_text(text: str, where: str, size: PatchSize) -> bytes:
    expected = f"the base64 of a {_NAMES} file"
    if len(text) > 2 * size.most_bytes:
        raise InputError.of(where, f"is a text of {len(text):,} characters", expected)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise InputError.of(where, f"is no base64: {text[:20]!r}", expected) from None


def _decode_image(data: bytes, where: str, size: PatchSize) -> np.ndarray:
    """Decode an image if its header is that of a patch; others are not decompressed."""
    if len(data) > size.most_bytes:
        raise InputError.of(where, f"is of {len(data):,} bytes", f"at most {size.most_bytes:,}")
    try:
        decode = _decode_tiff if data[:4] in _TIFF else _decode_png_or_jpeg
        return decode(data, where, size)
    except InputError:
        raise
    # Readers raise many types of errors on broken bytes.
    except Exception:
        expected = f"a {_NAMES} file, RGB, {size}"
        raise InputError.of(where, "cannot be read as an image", expected) from None


def _decode_tiff(data: bytes, where: str, size: PatchSize) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages.first
        _require_patch(page.imagewidth, page.imagelength, where, size)
        return decode_whole(tiff, where, UNKNOWN, size.most_tiff_bytes).rgb


def _decode_png_or_jpeg(data: bytes, where: str, size: PatchSize) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _require_patch(image.width, image.height, where, size)
        if problem := _find_problem(image):
            raise InputError.of(where, problem, "opaque RGB pixels")
        return _load(image, data, where)


def _require_patch(width: int, height: int, where: str, size: PatchSize) -> None:
    if not size.accepts(height, width):
        raise InputError.of(where, f"is of {width} x {height} px", str(size))


def _find_problem(image: Any) -> str:
    if getattr(image, "n_frames", 1) != 1:
        return f"holds {show_count(image.n_frames, 'images')}"
    if "transparency" in image.info:
        return "is transparent"
    return "" if image.mode in ("RGB", "RGBA") else f"is of mode {image.mode}"


def _load(image: Any, data: bytes, where: str) -> np.ndarray:
    import imagecodecs

    image.load()  # first: EXIF and XMP may follow the pixels
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    settle_orientation(image.getexif().get(_ORIENTATION), xmp, UNKNOWN, where)
    if image.format != "PNG":
        return to_8_bits(np.asarray(image), 8, where)
    pixels = imagecodecs.png_decode(data)  # Pillow would cut 16 bits down to the upper 8
    bits = settle_bits(8 * pixels.itemsize, None, lambda: int(pixels.max()), UNKNOWN, where)
    return to_8_bits(pixels, bits, where)


def _check_pixels(array: np.ndarray, where: str, first: str, size: PatchSize) -> np.ndarray:
    """Check the shape and values of pixels; `first` names the axis before height, if any."""
    sides = array.shape[1:3] if first else array.shape[:2]
    if array.ndim != (4 if first else 3) or array.shape[-1] != 3 or not size.accepts(*sides):
        shape = f"({first}, side, side, 3)" if first else "(side, side, 3)"
        raise InputError.of(where, f"of shape {array.shape}", f"{shape}, {size}")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError.of(where, f"of type {array.dtype}", _WHOLE)
    if array.dtype != np.uint8 and array.size and not 0 <= array.min() <= array.max() <= 255:
        raise InputError.of(where, f"from {array.min()} to {array.max()}", _WHOLE)
    return array.astype(np.uint8, copy=False)


def _add_margin(patches: np.ndarray, size: PatchSize) -> np.ndarray:
    missing = (size.stored_px - patches.shape[1]) // 2
    if not missing:
        return np.ascontiguousarray(patches)
    around = (missing, missing)
    return np.pad(patches, ((0, 0), around, around, (0, 0)), mode="reflect")
