"""TIFF frames -> 8-bit RGB, refusing what cannot be one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofuse.core.errors import Fault, InputError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

ACCEPTED = (
    "one RGB or RGBA image of 8 or 16 bits a channel (striped, tiled or planar; uncompressed, LZW, "
    "Deflate, JPEG, JPEG 2000 or Zstandard)"
)
_COLOUR = {"RGB", "YCBCR"}
_MENDING = "Copy the file again: it is incomplete or damaged."


class Decoded(NamedTuple):
    """A decoded frame.

    Attributes:
        rgb: (height, width, 3) RGB.
        changes: What was done to the pixels to get there, such as "alpha dropped".
    """

    rgb: NDArray[np.uint8]
    changes: tuple[str, ...]


def read_rgb(path: Path) -> Decoded:
    """Decode a TIFF file.

    Alpha is dropped, not blended; 16 bits are scaled to 8 by 255 / 65535.

    Raises:
        InputError: If the file is missing, damaged or cut short, or holds anything but `ACCEPTED`.
    """
    import tifffile

    with naming_file(path), tifffile.TiffFile(path) as tiff:
        return decode_whole(tiff, path)


def decode_whole(tiff: TiffFile, path: Path) -> Decoded:
    """Decode an open TIFF file of one image, as `read_rgb` does."""
    page = tiff.pages.first
    require_accepted(page, path, pages=len(tiff.pages))
    return to_rgb(page.asarray(), planar=page.planarconfig == 2)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turn what tifffile and its decoders raise in the block into a fault of the file.

    Raises:
        InputError: If the file is missing, damaged or no TIFF.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError([Fault(path, "no such file", ACCEPTED)]) from None
    except InputError:
        raise
    except (OSError, ValueError, IndexError, RuntimeError, KeyError, struct.error) as error:
        # tifffile and imagecodecs raise subclasses of ValueError and RuntimeError on damaged files.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        problem = f"cannot be decoded ({reason})"
        raise InputError([Fault(path, problem, ACCEPTED, _MENDING)]) from None


def require_accepted(page: TiffPage, path: Path, *, pages: int) -> None:
    """Refuse a page that is not `ACCEPTED`, is not the only one, or is incomplete.

    Raises:
        InputError: Says what the page holds.
    """
    if refusal := _find_refusal(page, pages):
        raise InputError([Fault(path, refusal, ACCEPTED)])
    if cut := _find_cut(page, path):
        raise InputError([Fault(path, cut, "a whole TIFF", _MENDING)])


def _find_refusal(page: TiffPage, pages: int) -> str:
    """Say what the file holds that is not accepted; empty if nothing."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    found = []
    if pages > 1:
        found.append(f"{pages} pages")
    if photometric not in _COLOUR:
        found.append(f"{photometric.lower()} pixels")
    elif page.samplesperpixel not in (3, 4):
        found.append(f"{page.samplesperpixel} channels")
    if page.dtype not in (np.uint8, np.uint16):
        found.append(f"pixels of type {page.dtype}")
    if page.imagedepth > 1:
        found.append(f"a volume of {page.imagedepth} planes")
    return f"holds {' and '.join(found)}" if found else ""


def _find_cut(page: TiffPage, path: Path) -> str:
    """Say what is missing at the end; JPEG decoders fill it with grey in silence."""
    end = max(
        (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0
    )
    size = path.stat().st_size
    return f"cut short: {size:,} of {end:,} bytes" if end > size else ""


def to_rgb(pixels: NDArray[np.integer], *, planar: bool) -> Decoded:
    """Bring decoded pixels of an accepted page to 8-bit RGB."""
    changes = []
    if planar:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape[-1] == 4:
        pixels = pixels[..., :3]
        changes.append("alpha dropped")
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        changes.append("16 bits scaled to 8")
    return Decoded(np.ascontiguousarray(pixels, dtype=np.uint8), tuple(changes))
