"""TIFF frames -> 8-bit RGB, refusing what cannot be one."""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofuse.core.errors import InputError
from histofuse.core.naming import show_count
from histofuse.data.images.jpeg2000 import measure_codestream
from histofuse.data.images.pixels import (
    LARGEST_PICTURE_BYTES,
    LARGEST_TILE_BYTES,
    Image,
    require_content,
    settle_bits,
    settle_orientation,
    to_8_bits,
    turn,
)
from histofuse.params.data import FrameParams

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

ACCEPTED = (
    "one RGB or RGBA image of 8 to 16 bits a channel (striped, tiled or planar; uncompressed, "
    "PackBits, LZW, Deflate, JPEG, JPEG 2000 or Zstandard)"
)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it logs, an error says too
_MENDING = "Copy the file again: it is incomplete or damaged."
LZW: Final = 5
_JPEG: Final = 7
APERIO_YCC: Final = 33003  # JPEG 2000 that holds YCbCr, but does not say so
_JPEG_2000: Final = {33004, 33005, 34712}
# Decoders of these take no more than a tile or strip needs; others do not let one know.
_COMPRESSIONS: Final = {1, 8, 32773, 32946, 34926, 50000, LZW, _JPEG, *_JPEG_2000}
_MOST_PACKETS: Final = 4096  # of JPEG 2000, or more if their average is as large as
_LEAST_PACKET_PX: Final = 64
_LARGEST_RATIO: Final = 1000  # decoded to encoded
_ORIENTATION, _XMP = 274, 700
_LARGEST_VALUES: Final = (341, 281)  # SMaxSampleValue, MaxSampleValue


class Decoded(NamedTuple):
    """A decoded frame."""

    rgb: Image  # (height, width, 3) RGB
    changes: tuple[str, ...]  # what was done to the pixels to get there, such as "alpha dropped"


def read_rgb(path: Path, frames: FrameParams, *, look: bool = True) -> Decoded:
    """Decode a TIFF file; opaque alpha is dropped, more than 8 bits are scaled to 8.

    Raises InputError if the file is missing, damaged or cut short, holds anything but `ACCEPTED`,
    leaves open what `frames` does not settle, would take too much memory, or, with `look`, is
    nearly black, nearly white or constant.
    """
    import tifffile

    with naming_file(path), tifffile.TiffFile(path) as tiff:
        decoded = decode_whole(tiff, path, frames)
        if look:
            require_content(decoded.rgb, path)
        return decoded


def read_size(path: Path, frames: FrameParams) -> tuple[int, int]:
    """Read the width and height that `read_rgb` gives, without decoding."""
    import tifffile

    with naming_file(path), tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        require_accepted(page, path, pages=len(tiff.pages))
        width, height = page.imagewidth, page.imagelength
        return (height, width) if find_turn(page, frames, path) > 4 else (width, height)


def decode_whole(
    tiff: TiffFile, where: Path | str, frames: FrameParams, most_bytes: int = LARGEST_PICTURE_BYTES
) -> Decoded:
    """Decode an open TIFF file of one image, as `read_rgb` does, if it takes `most_bytes`."""
    page = tiff.pages.first
    require_accepted(page, where, pages=len(tiff.pages))
    decoded = max(page.size * _item_bytes(page), _tile_bytes(page))
    if decoded > most_bytes:
        raise _refuse_size(page, where, most_bytes)
    # What holds tissue takes a hundredth at least; a file of a few kB could fill the memory.
    if decoded > LARGEST_TILE_BYTES and decoded > _LARGEST_RATIO * sum(page.databytecounts):
        raise _refuse_size(page, where, _LARGEST_RATIO * sum(page.databytecounts))
    orientation = find_turn(page, frames, where)
    _require_parts(page, where)
    pixels = _decode(page)
    if page.planarconfig == 2:
        pixels = np.moveaxis(pixels, 0, -1)
    bits = find_bits(page, lambda: int(pixels.max()), frames, where)
    rgb = turn(to_8_bits(pixels, bits, where), orientation)
    changes = {
        "alpha dropped": page.samplesperpixel == 4,
        f"{bits} bits scaled to 8": bits > 8,
        f"turned upright from orientation {orientation}": orientation != 1,
    }
    return Decoded(rgb, tuple(change for change, made in changes.items() if made))


def _decode(page: TiffPage) -> NDArray[np.unsignedinteger]:
    if page.compression != LZW:
        return page.asarray()
    import imagecodecs

    # By libtiff: the decoder that tifffile takes ends the process on some damaged files.
    page.parent.filehandle.seek(0)
    return imagecodecs.tiff_decode(page.parent.filehandle.read())


def decode_lzw(data: bytes, page: TiffPage) -> NDArray[np.unsignedinteger]:
    """Decode a tile of a page by libtiff, in a file of its own; TiffError if it is damaged."""
    import imagecodecs
    import tifffile

    file = io.BytesIO()
    shape = (page.tilelength, page.tilewidth, page.samplesperpixel)
    tile: Any = {"shape": shape, "tile": shape[:2], "dtype": page.dtype, "photometric": "rgb"}
    coding: Any = {"compression": LZW, "predictor": page.predictor}
    tifffile.imwrite(file, iter([data]), byteorder=page.parent.byteorder, **tile, **coding)
    return imagecodecs.tiff_decode(file.getvalue())


@contextmanager
def naming_file(path: Path | str) -> Iterator[None]:
    """Turn what tifffile and its decoders raise into an InputError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError.of(path, "no such file", ACCEPTED) from None
    except InputError:
        raise
    except (IsADirectoryError, PermissionError) as error:
        raise InputError.of(path, f"cannot be read ({error.strerror})", ACCEPTED) from None
    # tifffile and imagecodecs raise many types of errors on damaged files.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason.endswith("header=b''"):
            raise InputError.of(path, "is empty", ACCEPTED, _MENDING) from None
        if not any(map(str.isalpha, reason)):  # a bare key or index
            reason = "damaged"
        remedy = "Save it as TIFF." if reason.startswith("not a TIFF") else _MENDING
        raise InputError.of(path, f"cannot be decoded ({reason})", ACCEPTED, remedy) from None


def require_accepted(page: TiffPage, where: Path | str, *, pages: int) -> None:
    """Refuse a page that is not `ACCEPTED`, not the only one, incomplete, or has huge tiles."""
    if refusal := _find_refusal(page, pages):
        raise InputError.of(where, refusal, ACCEPTED)
    require_tile(page, where)
    parts = zip(page.dataoffsets, page.databytecounts, strict=True)
    end, size = max((sum(part) for part in parts), default=0), page.parent.filehandle.size
    if end > size:  # JPEG decoders would fill it with grey in silence
        problem = f"cut short: {size:,} of {end:,} bytes"
        raise InputError.of(where, problem, "a whole TIFF", _MENDING)


def require_tile(page: TiffPage, where: Path | str) -> None:
    """Refuse a page whose tiles take more than `LARGEST_TILE_BYTES` once decoded."""
    if _tile_bytes(page) > LARGEST_TILE_BYTES:
        raise _refuse_size(page, where, LARGEST_TILE_BYTES)


def _find_refusal(page: TiffPage, pages: int) -> str:
    """Say what the file holds that is not accepted; empty if nothing."""
    numbers = (page.imagewidth, page.imagelength, page.samplesperpixel, page.planarconfig)
    if not all(isinstance(number, int) for number in numbers):
        return "holds sizes that are no whole numbers"
    photometric = getattr(page.photometric, "name", str(page.photometric))
    coloured, typed = photometric in ("RGB", "YCBCR"), page.dtype in (np.uint8, np.uint16)
    rgb, bits = page.samplesperpixel in (3, 4), page.bitspersample
    plain_ycc = photometric == "YCBCR" and (page.compression != _JPEG or page.planarconfig == 2)
    refused = {
        f"{pages} pages": pages > 1,
        f"{photometric.lower()} pixels": not coloured,
        f"{page.samplesperpixel} channels": coloured and not rgb,
        # What tifffile leaves as it is.
        "YCbCr pixels that are not compressed as JPEG": coloured and rgb and plain_ycc,
        f"pixels of type {page.dtype}": not typed,
        f"{bits} bits a channel": typed and not (isinstance(bits, int) and 8 <= bits <= 16),
        f"planar configuration {page.planarconfig}": page.planarconfig not in (1, 2),
        "no pixels": 0 in page.shape,
        f"a volume of {page.imagedepth} planes": page.imagedepth > 1,
        f"compression {getattr(page.compression, 'name', page.compression)}": (
            page.compression not in _COMPRESSIONS
        ),
    }
    found = [holds for holds, refusal in refused.items() if refusal]
    return f"holds {' and '.join(found)}" if found else ""


def find_turn(page: TiffPage, frames: FrameParams, where: Path | str) -> int:
    """Find how to `turn` a page, as `settle_orientation` decides."""
    tag, xmp = page.tags.valueof(_ORIENTATION), page.tags.valueof(_XMP)
    return settle_orientation(tag, xmp, frames, where)


def find_bits(
    page: TiffPage, largest: Callable[[], int], frames: FrameParams, where: Path | str
) -> int:
    """Find how many bits of a sample are used, as `settle_bits` decides."""
    told = (page.tags.valueof(code) for code in _LARGEST_VALUES)
    tag = next((int(np.max(value)) for value in told if value is not None), None)
    return settle_bits(page.bitspersample, tag, largest, frames, where)


def _require_parts(page: TiffPage, where: Path | str) -> None:
    """Refuse a page that lacks tiles or strips, or holds larger ones than it says."""
    expected = math.prod(page.chunked)
    missing = expected - sum(count > 0 for count in page.databytecounts[:expected])
    if missing:
        problem = f"lacks {missing} of {show_count(expected, 'strips or tiles')}"
        raise InputError.of(where, problem, "a whole TIFF", _MENDING)
    if page.compression in {_JPEG, *_JPEG_2000}:
        file = page.parent.filehandle
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(offset)
            require_size(file.read(count), page, where)


def require_size(data: bytes | None, page: TiffPage, where: Path | str) -> None:
    """Refuse an encoded tile or strip whose own header tells of more than it may hold.

    Raises InputError saying of how much, ValueError if its header cannot be read.
    """
    if data is None or page.compression not in {_JPEG, *_JPEG_2000}:
        return
    sides = page.chunks[-3:-1] if page.planarconfig == 1 else page.chunks[-2:]
    held = 4 * math.prod(sides)
    problem = ""
    if page.compression == _JPEG:
        samples = 4 * _find_jpeg_area(data)
    else:
        area, samples, packets = measure_codestream(data)
        if packets > max(_MOST_PACKETS, area // _LEAST_PACKET_PX):
            problem = f"holds a part of {packets:,} packets"
    if samples > held and samples * _item_bytes(page) > LARGEST_TILE_BYTES:
        problem = f"holds a part of {samples:,} values in place of {held:,}"
    if problem:
        raise InputError.of(where, problem, ACCEPTED, _MENDING)


def _find_jpeg_area(data: bytes) -> int:
    """Find height times width in a JPEG's frame header; 0 if there is none before the scan."""
    at = 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # filling, or no content
            at += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return math.prod(struct.unpack_from(">HH", data, at + 5))
        elif marker == 0xDA:
            return 0
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0


def _tile_bytes(page: TiffPage) -> int:
    """Bytes of a decoded tile, which may be larger than the picture; 0 in strips."""
    if not page.is_tiled:
        return 0
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    return page.tilelength * page.tilewidth * samples * _item_bytes(page)


def _item_bytes(page: TiffPage) -> int:
    return page.dtype.itemsize if page.dtype else 1


def _refuse_size(page: TiffPage, where: Path | str, most_bytes: int) -> InputError:
    tiles = f" in tiles of {page.tilewidth} x {page.tilelength}" if page.is_tiled else ""
    problem = f"is of {page.imagewidth} x {page.imagelength} px{tiles}"
    return InputError.of(where, problem, f"at most {most_bytes >> 20} MiB once decoded")
