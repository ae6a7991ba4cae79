import base64
import io
import struct
import zlib

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from histofuse.core.errors import InputError
from histofuse.serving.decoding import read_patches

SIDE, MARGIN = 16, 4
PATCH = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
STORED = np.pad(PATCH, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="reflect")


def encode(array, kind="PNG", mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, format=kind, **options)
    return file.getvalue()


def tiff_of(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="rgb", **options)
    return file.getvalue()


def to_text(data):
    return base64.b64encode(data).decode()


def read(*cells):
    return read_patches(list(cells), SIDE, MARGIN)


@pytest.mark.parametrize(
    "cell",
    [
        encode(PATCH),
        encode(PATCH, "TIFF"),
        encode(PATCH, mode="RGBA"),
        to_text(encode(PATCH)),
        base64.encodebytes(encode(PATCH)).decode(),
        PATCH,
        PATCH.tolist(),
        PATCH.astype(int),
        encode(STORED),
        STORED,
        imagecodecs.png_encode(PATCH.astype(np.uint16) * 257),
        tiff_of(PATCH.astype(np.uint16) * 257, byteorder=">"),
        tiff_of(PATCH.astype(np.uint16) * 16 + PATCH // 16, bitspersample=12),
        tiff_of(np.moveaxis(PATCH, 2, 0), planarconfig="separate"),
    ],
    ids=[
        "png",
        "tiff",
        "opaque",
        "base64",
        "lines",
        "array",
        "lists",
        "int",
        "margin",
        "stored",
        "png16",
        "tiff16",
        "tiff12",
        "planar",
    ],
)
def test_one_patch_in_many_forms(cell):
    np.testing.assert_array_equal(read(cell)[0], STORED)


def test_jpeg_is_close_to_the_original():
    smooth = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    found = read(encode(smooth, "JPEG", quality=95))[0]
    assert np.abs(found.astype(int) - smooth[0, 0]).max() < 4


def test_forms_may_be_mixed():
    np.testing.assert_array_equal(read(PATCH, encode(STORED)), np.stack([STORED, STORED]))


def test_an_array_of_patches():
    many = np.stack([PATCH, PATCH])
    np.testing.assert_array_equal(read_patches(many, SIDE, MARGIN)[1], STORED)
    np.testing.assert_array_equal(read_patches(many.tolist(), SIDE, MARGIN)[1], STORED)


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (None, "is missing"),
        (float("nan"), "is missing"),
        (7, "is a int"),
        ("§", "is no base64: '§'"),
        (to_text(b"hello"), "cannot be read as an image"),
        (encode(PATCH)[:200], "cannot be read as an image"),
        (encode(PATCH, "GIF", "P"), "cannot be read as an image"),
        (encode(PATCH[:8, :8]), "is of 8 x 8 px"),
        (encode(PATCH[:8]), "is of 16 x 8 px"),
        (encode(PATCH, mode="L"), "is of mode L"),
        (encode(np.dstack([PATCH, PATCH[..., :1]]), mode="RGBA"), "holds transparent pixels"),
        (encode(PATCH, "TIFF", save_all=True, append_images=[Image.fromarray(PATCH)]), "2 pages"),
        (b"x" * 10**6, "is of 1,000,000 bytes"),
        ("x" * 10**6, "is a text of 1,000,000 characters"),
        (PATCH[:8], r"of shape \(8, 16, 3\)"),
        (PATCH / 255, "of type float64"),
        (PATCH.astype(int) + 1000, "from 1000 to 12"),
        (PATCH.astype(int) - 300, "from -300 to"),
        ([[1, 2], [3]], "rows of unequal lengths"),
        (PATCH.astype(str).tolist(), "of type <U"),
        (encode(PATCH, "PNG", save_all=True, append_images=[Image.fromarray(PATCH)]), "2 images"),
        (encode(PATCH, transparency=(0, 0, 0)), "is transparent"),
        (encode(PATCH, "JPEG", "CMYK"), "is of mode CMYK"),
        (encode(PATCH, "TIFF", "LAB"), "cielab pixels"),
        (encode(PATCH, mode="P"), "is of mode P"),
        (encode(PATCH, mode="1"), "is of mode 1"),
        (PATCH // 16, "is nearly black"),
        (encode(PATCH // 16), "is nearly black"),
        (encode(230 + PATCH // 12), "is nearly white"),
        (np.zeros_like(PATCH), "is nearly black"),
        (np.full_like(PATCH, 128), "is constant"),
        (imagecodecs.png_encode(PATCH.astype(np.uint16) * 16), "of which 12 are used"),
        (tiff_of(PATCH.astype(np.uint16) * 16), "of which 12 are used"),
        (tiff_of(np.dstack([PATCH, PATCH[..., :1]]), extrasamples=[1]), "holds transparent"),
        (tiff_of(PATCH, compression="zlib", tile=(1264, 1264)), "in tiles of 1264 x 1264"),
    ],
)
def test_what_is_no_patch_is_named_by_its_row(cell, problem):
    with pytest.raises(InputError, match=f"row 1, image: .*{problem}"):
        read(PATCH, cell)


def give_orientation(kind, orientation, place):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"exif": exif}
    if place == "xmp":
        packet = f'<x tiff:Orientation="{orientation}"/>'
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet)
        options = {"xmp": packet.encode()} if kind == "JPEG" else {"pnginfo": text}
    return encode(PATCH, kind, **options)


@pytest.mark.parametrize(
    ("kind", "place"),
    [("TIFF", "exif"), ("JPEG", "exif"), ("JPEG", "xmp"), ("PNG", "exif"), ("PNG", "xmp")],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_patches_must_be_stored_upright(kind, place, orientation):
    data = give_orientation(kind, orientation, place)
    if orientation == 1:
        assert read(data).shape == (1, *STORED.shape)
        return
    with pytest.raises(InputError, match=f"row 1, image: has orientation {orientation}"):
        read(PATCH, data)


def test_blank_patches_of_an_array_are_named_by_their_rows():
    with pytest.raises(InputError) as error:
        read_patches(np.stack([PATCH, PATCH // 16, PATCH]), SIDE, MARGIN)
    assert [fault.where for fault in error.value.faults] == ["row 1, image"]


def test_faulty_rows_are_named_by_their_labels():
    cells = pd.Series([PATCH, None, b"no"], index=["a", "b", "c"], dtype=object)
    with pytest.raises(InputError) as error:
        read_patches(cells, SIDE, MARGIN)
    assert [fault.where for fault in error.value.faults] == ["row b, image", "row c, image"]


def test_a_decompression_bomb_is_refused_by_its_header():
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
    with pytest.raises(InputError, match=r"row 0, image: (is of 60000 x|cannot be read)"):
        read(bomb)


@pytest.mark.parametrize(
    "array",
    [np.stack([PATCH])[:, :8], np.stack([PATCH]) / 255, PATCH, np.stack([PATCH]).astype(int) + 300],
    ids=["side", "fractions", "one", "above"],
)
def test_an_array_that_is_no_patches(array):
    with pytest.raises(InputError, match="patches"):
        read_patches(array, SIDE, MARGIN)


def test_what_is_no_list_is_refused():
    with pytest.raises(InputError, match="is a int"):
        read_patches(3, SIDE, MARGIN)
