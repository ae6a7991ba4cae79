"""What holds for pixels of any format: orientation, range, transparency, size, blankness."""

import re
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from histofuse.core.errors import Fault, InputError
from histofuse.params.data import FrameParams

Image = NDArray[np.uint8]  # (height, width, 3) RGB

LARGEST_PICTURE_BYTES: Final = 2**30  # decoded; of what is held whole
LARGEST_TILE_BYTES: Final = 2**26  # decoded; of what a file can only give at once

# As files come: neither orientation nor range can be assumed.
UNKNOWN: Final = FrameParams(orientation="refuse", bits="file")

_UPRIGHT: Final = 1
# As an attribute or an element; any prefix may stand for the name space.
_XMP_ORIENTATION: Final = re.compile(rb""":Orientation\b(?:\s*=\s*["']|[^<>]{0,200}>)\s*(\d+)""")
_SAMPLE_PX: Final = 300_000  # pixels looked at, about
_QUANTILES: Final = (0.001, 0.9, 0.999)  # dark; bright, but for a label burnt in; brightest
_SAME: Final = 4  # levels between dark and bright
_BLACK: Final = 64
_WHITE: Final = 224


def settle_orientation(
    tag: int | None, xmp: bytes | str | None, frames: FrameParams, where: object
) -> int:
    """Find the orientation to bring upright with `turn`; 1 if the stored pixels are meant.

    `tag` is TIFF's 274 or the same from EXIF, and the XMP packet may hold it too. Raises InputError
    if the file is shown otherwise than stored, and `frames` does not say which of the two is meant.
    """
    packet = xmp.encode() if isinstance(xmp, str) else xmp or b""
    # UTF-16 and UTF-32 are the same letters with zeros between them.
    told = {int(match) for match in _XMP_ORIENTATION.findall(packet.replace(b"\0", b""))}
    if tag is not None:
        told.add(tag)
    turned = told - {_UPRIGHT}
    if not turned or frames.orientation == "stored":
        return _UPRIGHT
    named = " and ".join(map(str, sorted(told)))
    if frames.orientation == "displayed" and len(told) == 1 and told <= _TURNS.keys():
        return turned.pop()
    expected = "orientation 1: whether stored or displayed pixels are meant cannot be known"
    if frames.orientation == "displayed":
        expected = "one orientation from 1 to 8"
    remedy = "Store it upright, or set data.frames.orientation (predict: --orientation)."
    raise InputError.of(str(where), f"has orientation {named}", expected, remedy)


# Source: TIFF 6.0, tag Orientation: which side of the picture the first row and column are. Beyond
# 4, width and height change places.
_TURNS: Final = {
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.swapaxes(0, 1),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: rgb[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def turn(rgb: Image, orientation: int) -> Image:
    """Bring stored pixels upright."""
    return np.ascontiguousarray(_TURNS[orientation](rgb))


def settle_bits(
    bits: int, tag: int | None, largest: Callable[[], int], frames: FrameParams, where: object
) -> int:
    """Decide how many bits of a sample are used.

    `tag` is the largest value that tags give (MaxSampleValue): if it is no power of two less one,
    it is the largest found, not the largest possible. `largest` measures that of the pixels, if
    needed. Raises InputError if a file of 16 bits leaves open how many are used.
    """
    if bits != 16:
        return bits
    if isinstance(frames.bits, int):
        return frames.bits
    if tag is not None and (tag & (tag + 1)) == 0 and 8 <= tag.bit_length() < 16:
        return tag.bit_length()
    found = largest()
    if found.bit_length() == 16:
        return 16
    problem = f"holds 16 bits, of which {found.bit_length()} are used (largest value {found:,})"
    expected = "values that use all 16 bits, or a tag MaxSampleValue of 1023, 4095 or 16383"
    remedy = "Set data.frames.bits (predict: --bits) to the bits of the camera."
    raise InputError.of(str(where), problem, expected, remedy)


def to_8_bits(pixels: NDArray[np.unsignedinteger], bits: int, where: object) -> Image:
    """Scale samples of `bits` used bits to 8; RGBA must be opaque, and loses its alpha.

    Raises InputError if values lie beyond the range, or pixels are transparent.
    """
    top = 2**bits - 1
    if pixels.dtype != np.uint8 or bits < 8:
        if (found := int(pixels.max())) > top:
            expected = f"at most {top:,}, for {bits} bits"
            raise InputError.of(str(where), f"holds the value {found:,}", expected)
        levels = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
        # Row by row: an index takes eight bytes a sample.
        pixels = np.stack([levels[row] for row in pixels])
    if pixels.shape[-1] == 4:
        if pixels[..., 3].min() < 255:
            raise InputError.of(str(where), "holds transparent pixels", "opaque ones")
        pixels = pixels[..., :3]
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def find_blank(rgb: NDArray[np.uint8], where: object) -> list[Fault]:
    """Name (..., 3) RGB that shows nothing, nearly black, white or constant: one fault, or none."""
    sample = rgb.reshape(-1, 3)
    sample = sample[:: max(1, len(sample) // _SAMPLE_PX)]
    counts = np.bincount(sample.ravel(), minlength=256).cumsum()
    dark, bright, brightest = np.searchsorted(counts, np.array(_QUANTILES) * counts[-1])
    flaws = {"nearly black": bright < _BLACK, "nearly white": dark > _WHITE}
    flaws["constant"] = brightest - dark <= _SAME
    flaw = next((flaw for flaw, found in flaws.items() if found), None)
    if flaw is None:
        return []
    problem = f"is {flaw} (mean {sample.mean():.0f} of 255)"
    expected = "stained tissue on a bright background"
    remedy = "Check how it was exported: pictures look so if the range of a camera is mistaken."
    return [Fault(str(where), problem, expected, remedy)]


def require_light(rgb: NDArray[np.uint8], where: object) -> bool:
    """Tell whether pixels show anything but glass; InputError if they are nearly black."""
    faults = find_blank(rgb, where)
    if any("black" in fault.problem for fault in faults):
        raise InputError(faults)
    return not faults


def require_content(rgb: NDArray[np.uint8], where: object) -> None:
    """Refuse pixels that show nothing, as `find_blank` says."""
    if faults := find_blank(rgb, where):
        raise InputError(faults)
