"""Pictures embedded in the page, re-encoded if they are large."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from histofuse.core.artifacts import replacing_file
from histofuse.reporting.blocks import Figure

if TYPE_CHECKING:
    from PIL import Image

CACHE: Final = Path(".histofuse/pictures")
KEPT_BYTES: Final = 40_000  # a PNG up to this size is embedded unchanged
WIDEST_PX: Final = 1100
_QUALITY: Final = 78
_COLOURS: Final = 160
_MIME: Final[Mapping[str, str]] = {".png": "image/png", ".webp": "image/webp"}


def embed_picture(path: Path, alt: str, caption: str, *, photographic: bool = False) -> Figure:
    """Embed a PNG; a large drawing is reduced to a palette, a photograph to WebP."""
    data, suffix = path.read_bytes(), ".png"
    if len(data) > KEPT_BYTES:
        data, suffix = _shrink_once(data, photographic=photographic)
    return _embed(data, suffix, alt, caption)


def embed_array(rgb: UInt8[np.ndarray, "height width 3"], alt: str, caption: str) -> Figure:
    """Embed a photograph, made narrower if it is wide; no copy of it is kept."""
    data = _shrink(_write_png(rgb, compress_level=0), photographic=True)
    return _embed(data, ".webp", alt, caption)


def embed_strip(
    patches: Sequence[UInt8[np.ndarray, "side side 3"]], alt: str, caption: str, gap_px: int = 4
) -> Figure:
    """Embed patches of one size side by side, losslessly."""
    gap = np.full((len(patches[0]), gap_px, 3), 255, np.uint8)
    strip = np.hstack([part for patch in patches for part in (gap, patch)][1:])
    return _embed(_write_png(strip), ".png", alt, caption)


def _write_png(rgb: UInt8[np.ndarray, "height width 3"], **options: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG", **options)
    return file.getvalue()


def _shrink_once(data: bytes, *, photographic: bool) -> tuple[bytes, str]:
    """Shrink a picture, or reuse the cached result: most reports change little."""
    suffix = ".webp" if photographic else ".png"
    settings = f"{WIDEST_PX} {_QUALITY} {_COLOURS}".encode()
    kept = CACHE / f"{hashlib.sha256(settings + data).hexdigest()}{suffix}"
    if not kept.is_file():
        with replacing_file(kept) as temporary:
            temporary.write_bytes(_shrink(data, photographic=photographic))
    return kept.read_bytes(), suffix


def _shrink(data: bytes, *, photographic: bool) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    if picture.width > WIDEST_PX:
        size = WIDEST_PX, round(picture.height * WIDEST_PX / picture.width)
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
    return _encode(picture, photographic=photographic)


def _encode(picture: "Image.Image", *, photographic: bool) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    if photographic:
        picture.save(file, "WEBP", quality=_QUALITY, method=0)
        return file.getvalue()
    method, dither = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    picture.quantize(_COLOURS, method=method, dither=dither).save(file, "PNG")
    return file.getvalue()


def _embed(data: bytes, suffix: str, alt: str, caption: str) -> Figure:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
    address = f"data:{_MIME[suffix]};base64,{base64.b64encode(data).decode('ascii')}"
    return Figure(address, width, height, alt, caption)
