"""What decoding a JPEG 2000 codestream takes, as its headers tell.

Source: ISO/IEC 15444-1, annex A.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_START: Final = b"\xff\x4f\xff\x51"  # SOC and SIZ
_BOX: Final = b"jp2c"  # of a codestream in a JP2 file
_COD, _COC, _SOT, _SOD, _EOC = 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
_SEGMENTS: Final = range(0xFF50, 0xFF70)


class Demand(NamedTuple):
    """What decoding takes."""

    area: int  # width times height, in pixels
    samples: int  # pixels times components
    packets: int  # precincts times layers of a component; each takes memory, even if it is empty


def measure_codestream(data: bytes) -> Demand:
    """Read what decoding takes. Raises ValueError if the headers cannot be followed."""
    start = 0 if data.startswith(_START) else data.find(_BOX) + len(_BOX)
    if (start and data.count(_BOX) != 1) or data[start : start + 4] != _START:
        raise ValueError("no JPEG 2000 codestream")
    width, height = struct.unpack_from(">II", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    layers = precincts = 1
    for marker, body in _list_segments(data, start + 2):
        if marker == _COD:
            layers = max(layers, int.from_bytes(body[2:4]))
            precincts = max(precincts, _count_precincts(body[0], body[5:], width, height))
        elif marker == _COC:
            rest = body[1 if components < 257 else 2 :]
            precincts = max(precincts, _count_precincts(rest[0], rest[1:], width, height))
    return Demand(width * height, width * height * components, layers * precincts)


def _list_segments(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    end = 0  # of the tile part
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _EOC or (marker == _SOD and not end):
            return
        if marker == _SOD:
            at, end = end, 0
            continue
        body = data[at + 4 : at + 2 + length]
        if marker == _SOT and len(body) == 8:
            size = int.from_bytes(body[2:6])
            end = at + size if size else 0
        if length < 2 or not (marker in _SEGMENTS or marker == _SOT) or 0 < end <= at + length:
            raise ValueError(f"marker {marker:04x} at byte {at} of a JPEG 2000 codestream")
        yield marker, body
        at += 2 + length


def _count_precincts(style: int, coding: bytes, width: int, height: int) -> int:
    """Count the precincts of a component, whose sizes are powers of two, in all resolutions."""
    levels = coding[0]
    sizes = coding[5 : 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    scales = range(levels, -1, -1)  # the lowest resolution first
    return sum(
        (-width >> scale + (size & 15)) * (-height >> scale + (size >> 4))
        for scale, size in zip(scales, sizes, strict=True)
    )
