"""Decoding TIFF frames."""

import numpy as np
import pytest
import tifffile

from histofuse.core.errors import InputError
from histofuse.data.tiff import read_rgb

RGB = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "Case_1-01.tif"


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"rowsperstrip": 7},
        {"tile": (32, 32)},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "tile": (16, 48)},
        {"compression": "zstd"},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
)
def test_lossless_layouts_give_the_same_pixels(layout, path):
    tifffile.imwrite(path, RGB, photometric="rgb", **layout)
    decoded = read_rgb(path)
    np.testing.assert_array_equal(decoded.rgb, RGB)
    assert decoded.changes == ()


def test_planar_pixels_are_brought_together(path):
    tifffile.imwrite(path, np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_rgb(path).rgb, RGB)


def test_alpha_is_dropped_and_said(path):
    rgba = np.concatenate((RGB, RGB[..., :1]), axis=2)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    decoded = read_rgb(path)
    np.testing.assert_array_equal(decoded.rgb, RGB)
    assert decoded.changes == ("alpha dropped",)


def test_sixteen_bits_are_scaled(path):
    wide = np.array([[[0, 65535, 257 * 100]]], np.uint16).repeat(4, 0).repeat(4, 1)
    tifffile.imwrite(path, wide, photometric="rgb")
    decoded = read_rgb(path)
    assert (decoded.rgb == [0, 255, 100]).all()
    assert decoded.changes == ("16 bits scaled to 8",)


def test_jpeg_is_decoded_to_rgb(path):
    smooth = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    tifffile.imwrite(path, smooth, photometric="rgb", compression="jpeg")
    assert np.abs(read_rgb(path).rgb.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (RGB[..., 0], {"photometric": "minisblack"}, "minisblack pixels"),
        (RGB.astype(np.float32), {"photometric": "rgb"}, "type float32"),
        (RGB.astype(np.uint32), {"photometric": "rgb"}, "type uint32"),
        (np.stack([RGB, RGB]), {"photometric": "rgb"}, "2 pages"),
        (
            RGB[..., 0],
            {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
            "palette pixels",
        ),
    ],
)
def test_other_pixels_are_refused_with_what_is_accepted(pixels, options, message, path):
    tifffile.imwrite(path, pixels, **options)
    with pytest.raises(InputError, match=rf"{message}.*one RGB or RGBA image"):
        read_rgb(path)


@pytest.mark.parametrize(
    "options",
    [{}, {"tile": (32, 32)}, {"compression": "zlib", "rowsperstrip": 8}, {"compression": "jpeg"}],
)
@pytest.mark.parametrize("share", [0.0, 0.005, 0.3, 0.98])
def test_a_truncated_file_is_refused(options, share, path):
    tifffile.imwrite(path, RGB, photometric="rgb", **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"Case_1-01\.tif: (cut short|cannot be decoded)"):
        read_rgb(path)


def test_a_file_that_is_no_tiff_is_refused(path):
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match="cannot be decoded"):
        read_rgb(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"Case_1-01\.tif: no such file"):
        read_rgb(path)
