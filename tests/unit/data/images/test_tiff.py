"""Decoding TIFF frames."""

import re
import time

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.Image import Transpose

from histofuse.core.errors import InputError
from histofuse.data.images.pixels import UNKNOWN, settle_orientation
from histofuse.data.images.tiff import read_rgb, read_size
from histofuse.params.data import FrameParams

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
        {"compression": "lzw", "tile": (32, 48)},
        {"compression": "zlib", "tile": (16, 48)},
        {"compression": "zstd"},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
)
def test_lossless_layouts_give_the_same_pixels(layout, path):
    tifffile.imwrite(path, RGB, photometric="rgb", **layout)
    decoded = read_rgb(path, UNKNOWN)
    np.testing.assert_array_equal(decoded.rgb, RGB)
    assert decoded.changes == ()


def test_planar_pixels_are_brought_together(path):
    planes = np.moveaxis(RGB, 2, 0)
    for compression in (None, "lzw"):
        how = {"planarconfig": "separate", "compression": compression}
        tifffile.imwrite(path, planes, photometric="rgb", **how)
        np.testing.assert_array_equal(read_rgb(path, UNKNOWN).rgb, RGB)


def test_alpha_is_dropped_and_said(path):
    rgba = np.concatenate((RGB, np.full_like(RGB[..., :1], 255)), axis=2)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    decoded = read_rgb(path, UNKNOWN)
    np.testing.assert_array_equal(decoded.rgb, RGB)
    assert decoded.changes == ("alpha dropped",)


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha", "unspecified"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_pixels_are_refused(kind, dtype, path):
    rgba = np.full((70, 90, 4), np.iinfo(dtype).max, dtype)
    rgba[..., :3] = RGB
    rgba[3, 3, 3] = 1000 if dtype == np.uint16 else 254
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=[kind])
    with pytest.raises(InputError, match=r"Case_1-01\.tif: holds transparent pixels"):
        read_rgb(path, FrameParams(orientation="refuse", bits=16))


def to_camera(bits):
    """The same pixels as a camera of some bits gives them, in 16."""
    return ((RGB.astype(np.uint32) * (2**bits - 1) + 127) // 255).astype(np.uint16)


def tag(code, dtype, value):
    return {"extratags": [(code, dtype, 1, value, True)]}


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bits_are_scaled(byteorder, compression, path):
    how = {"byteorder": byteorder, "compression": compression}
    tifffile.imwrite(path, to_camera(16), photometric="rgb", **how)
    decoded = read_rgb(path, UNKNOWN)
    np.testing.assert_array_equal(decoded.rgb, RGB)
    assert decoded.changes == ("16 bits scaled to 8",)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_the_range_of_a_camera_is_told_by_tags_bits_or_params(bits, path):
    told_by_tags = [tag(281, "H", 2**bits - 1), tag(341, "H", 2**bits - 1)]
    for options in (*told_by_tags, {"bitspersample": bits}):
        tifffile.imwrite(path, to_camera(bits), photometric="rgb", **options)
        decoded = read_rgb(path, UNKNOWN)
        np.testing.assert_array_equal(decoded.rgb, RGB)
        assert decoded.changes == (f"{bits} bits scaled to 8",)
    tifffile.imwrite(path, to_camera(bits), photometric="rgb")
    params = FrameParams(orientation="refuse", bits=bits)
    np.testing.assert_array_equal(read_rgb(path, params).rgb, RGB)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
@pytest.mark.parametrize("options", [{}, tag(281, "H", 65535), tag(281, "H", 900)])
def test_a_range_that_is_not_told_is_refused_with_what_to_do(bits, options, path):
    tifffile.imwrite(path, to_camera(bits), photometric="rgb", **options)
    with pytest.raises(InputError, match=rf"of which {bits} are used.*Set data\.frames\.bits"):
        read_rgb(path, UNKNOWN)


def test_values_beyond_the_range_are_refused(path):
    tifffile.imwrite(path, to_camera(12), photometric="rgb")
    with pytest.raises(InputError, match="holds the value 4,095; expected at most 1,023"):
        read_rgb(path, FrameParams(orientation="refuse", bits=10))


# Source: Pillow's ImageOps.exif_transpose.
UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_refused_or_understood_as_the_params_say(orientation, path):
    tifffile.imwrite(path, RGB, photometric="rgb", **tag(274, "H", orientation))
    with pytest.raises(InputError, match=rf"\.tif: has orientation {orientation}; .*data\.frames"):
        read_rgb(path, UNKNOWN)
    with pytest.raises(InputError, match=f"has orientation {orientation}"):
        read_size(path, UNKNOWN)
    stored, displayed = (FrameParams(orientation=o, bits="file") for o in ("stored", "displayed"))
    np.testing.assert_array_equal(read_rgb(path, stored).rgb, RGB)
    assert read_size(path, stored) == (90, 70)
    expected = np.asarray(Image.fromarray(RGB).transpose(UPRIGHT[orientation]))
    decoded = read_rgb(path, displayed)
    np.testing.assert_array_equal(decoded.rgb, expected)
    assert decoded.changes == (f"turned upright from orientation {orientation}",)
    assert read_size(path, displayed) == expected.shape[1::-1]


def test_orientation_in_xmp_counts_and_must_not_contradict_the_tag(path):
    packet = b'<rdf:Description tiff:Orientation="8"/>'
    xmp = (700, "B", len(packet), packet, True)
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[xmp])
    with pytest.raises(InputError, match="has orientation 8"):
        read_rgb(path, UNKNOWN)
    displayed = FrameParams(orientation="displayed", bits="file")
    assert read_rgb(path, displayed).rgb.shape == (90, 70, 3)
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[xmp, (274, "H", 1, 3, True)])
    with pytest.raises(InputError, match="has orientation 3 and 8; expected one orientation"):
        read_rgb(path, displayed)


@pytest.mark.parametrize(
    "packet",
    [
        '<d xmlns:t="http://ns.adobe.com/tiff/1.0/" t:Orientation="6"/>',
        "<t:Orientation>6</t:Orientation>",
        "<d tiff:Orientation = '6'/>",
        "<t:Orientation rdf:datatype='integer'>6</t:Orientation>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
def test_orientation_in_xmp_is_found_in_any_spelling(packet, encoding, path):
    content = packet.encode(encoding)
    xmp = (700, "B", len(content), content, True)
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[xmp])
    with pytest.raises(InputError, match="has orientation 6"):
        read_rgb(path, UNKNOWN)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_cannot_be_displayed(orientation, path):
    tifffile.imwrite(path, RGB, photometric="rgb", **tag(274, "H", orientation))
    with pytest.raises(InputError, match=f"has orientation {orientation}; expected one"):
        read_rgb(path, FrameParams(orientation="displayed", bits="file"))


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (RGB // 16, "is nearly black"),  # 12 bits cut to 8 at the wrong end
        (RGB // 4, "is nearly black"),  # 14 bits
        (230 + RGB // 12, "is nearly white"),
        (150 + RGB // 128, "is constant"),
        (0 * RGB, "is nearly black"),
    ],
)
def test_pixels_that_show_nothing_are_refused(pixels, problem, path):
    tifffile.imwrite(path, pixels.astype(np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=rf"Case_1-01\.tif: {problem} \(mean \d+ of 255\)"):
        read_rgb(path, UNKNOWN)


@pytest.mark.parametrize("label", [np.s_[60:62, 5:20], np.s_[:20, :25]])  # 0.5 and 8 %
def test_a_black_frame_with_a_white_label_is_black(label, path):
    dark = RGB // 16
    dark[label] = 255
    tifffile.imwrite(path, dark, photometric="rgb")
    with pytest.raises(InputError, match="is nearly black"):
        read_rgb(path, UNKNOWN)


def overwrite(path, old, new):
    """Write some bytes over those that begin at the only place of `old`."""
    content = path.read_bytes()
    at = content.index(old)
    path.write_bytes(content[:at] + new + content[at + len(new) :])


def write_huge_tile(path):
    tile = (16, 16)
    tifffile.imwrite(path, RGB[:16, :16], photometric="rgb", tile=tile, compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("TileWidth", "TileLength"):
            tiff.pages.first.tags[name].overwrite(26_752)


def write_huge_frame(path):
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib", rowsperstrip=70)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[name].overwrite(60_000)


def write_large_frame(path):
    write_huge_frame(path)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[name].overwrite(15_000)


def write_huge_jpeg(path, tile=(32, 48)):
    tifffile.imwrite(path, RGB, photometric="rgb", compression="jpeg", tile=tile)
    header = b"\xff\xc0\x00\x11\x08"
    overwrite(path, header, header + (65_500).to_bytes(2) * 2)


def write_huge_jpeg_2000(path):
    tifffile.imwrite(path, RGB, photometric="rgb", compression="jpeg2000", tile=(32, 48))
    header = next(re.finditer(rb"\xff\x4f\xff\x51.{4}", path.read_bytes(), re.DOTALL)).group()
    overwrite(path, header, header + (60_000).to_bytes(4) * 2)


def write_coded(path, edit, side=2048):
    """Write a tile of JPEG 2000 whose headers were edited."""
    plain = np.full((side, side, 3), 130, np.uint8)
    data = edit(imagecodecs.jpeg2k_encode(plain, level=0, codecformat="j2k"))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter([data]), shape=plain.shape, dtype="uint8", tile=(side, side),
            photometric="rgb", compression="jpeg2000",
        )  # fmt: skip


def write_many_components(path):
    def edit(data):
        at, count = data.index(b"\xff\x51"), 3000
        size, components = (38 + 3 * count).to_bytes(2), count.to_bytes(2)
        each = data[at + 40 : at + 43] * count
        return data[: at + 2] + size + data[at + 4 : at + 38] + components + each + data[at + 49 :]

    write_coded(path, edit, side=512)


def write_small_precincts(path, layers=1, exponent=1):
    def edit(data):
        at = data.index(b"\xff\x52")
        body = bytearray(data[at + 4 : at + 14])
        body[0], body[2:4] = body[0] | 1, layers.to_bytes(2)
        body += bytes([exponent * 17]) * (body[5] + 1)
        return data[: at + 2] + (len(body) + 2).to_bytes(2) + bytes(body) + data[at + 14 :]

    write_coded(path, edit)


def write_many_layers(path):
    write_small_precincts(path, layers=65_535, exponent=7)


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (write_many_components, r"holds a part of 786,432,000 values in place of 1,048,576"),
        (write_small_precincts, r"holds a part of 1,397,760 packets"),
        (write_many_layers, r"holds a part of 22,\d+,\d+ packets"),
        (write_huge_tile, r"is of 16 x 16 px in tiles of 26752 x 26752; expected at most 64 MiB"),
        (write_huge_frame, r"is of 60000 x 60000 px; expected at most 1024 MiB once decoded"),
        (write_large_frame, r"is of 15000 x 15000 px; expected at most 18 MiB once decoded"),
        (write_huge_jpeg, r"holds a part of 17,161,000,000 values in place of 6,144"),
        (write_huge_jpeg_2000, r"holds a part of 10,800,000,000 values in place of 6,144"),
    ],
)
def test_what_decoding_would_take_is_known_before(write, problem, path, monkeypatch):
    write(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda _: pytest.fail("decoded"))
    with pytest.raises(InputError, match=rf"Case_1-01\.tif: {problem}"):
        read_rgb(path, UNKNOWN)


@pytest.mark.parametrize("name", ["ImageWidth", "BitsPerSample"])
@pytest.mark.parametrize("dtype", [b"\2", b"\7", b"\x0c"])  # of a tag: text, bytes, float
def test_tags_of_odd_types_are_faults_of_the_file(name, dtype, path):
    tifffile.imwrite(path, RGB, photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[name].offset + 2
    content = path.read_bytes()
    path.write_bytes(content[:at] + dtype + content[at + 1 :])
    for read in (read_rgb, read_size):
        with pytest.raises(InputError, match=r"\.tif: (cannot be decoded|holds|cut short)"):
            read(path, UNKNOWN)


def test_strips_that_were_left_out_are_named(path):
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages.first.tags["StripByteCounts"]
        counts.overwrite([*counts.value[:5], 0, 0])
    with pytest.raises(InputError, match="lacks 2 of 7 strips or tiles"):
        read_rgb(path, UNKNOWN)


def test_jpeg_is_decoded_to_rgb(path):
    smooth = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    tifffile.imwrite(path, smooth, photometric="rgb", compression="jpeg")
    assert np.abs(read_rgb(path, UNKNOWN).rgb.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (RGB[..., 0], {"photometric": "minisblack"}, "minisblack pixels"),
        (RGB.astype(np.float32), {"photometric": "rgb"}, "type float32"),
        (RGB.astype(np.uint32), {"photometric": "rgb"}, "type uint32"),
        (RGB.astype(np.int16), {"photometric": "rgb"}, "type int16"),
        (RGB // 16, {"photometric": "rgb", "bitspersample": 4}, "4 bits a channel"),
        (RGB, {"photometric": "ycbcr"}, "YCbCr pixels that are not compressed as JPEG"),
        (RGB, {"photometric": "cielab"}, "cielab pixels"),
        (RGB[..., 0], {"photometric": "miniswhite"}, "miniswhite pixels"),
        (RGB[..., 0] > 9, {"photometric": "minisblack"}, "minisblack pixels"),
        (np.dstack([RGB, RGB[..., 0]]), {"photometric": "separated"}, "separated pixels"),
        (np.dstack([RGB, RGB]), {"photometric": "rgb"}, "6 channels"),
        (RGB, {"photometric": "rgb", "compression": "lzma"}, "compression LZMA"),
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
        read_rgb(path, UNKNOWN)


@pytest.mark.parametrize(
    "options",
    [{}, {"tile": (32, 32)}, {"compression": "zlib", "rowsperstrip": 8}, {"compression": "jpeg"}],
)
@pytest.mark.parametrize("share", [0.0, 0.005, 0.3, 0.98])
def test_a_truncated_file_is_refused(options, share, path):
    tifffile.imwrite(path, RGB, photometric="rgb", **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"Case_1-01\.tif: (cut short|cannot be decoded|is empty)"):
        read_rgb(path, UNKNOWN)


@pytest.mark.parametrize("content", [b"<html>not found</html>", "JPEG", "PNG"])
def test_a_file_that_is_no_tiff_is_refused(content, path):
    if isinstance(content, str):
        Image.fromarray(RGB).save(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a TIFF file.*Save it as TIFF\."):
        read_rgb(path, UNKNOWN)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"Case_1-01\.tif: no such file"):
        read_rgb(path, UNKNOWN)


def test_a_hostile_packet_of_xmp_takes_no_time():
    started = time.process_time()
    assert settle_orientation(1, b":Orientation" * 100_000, UNKNOWN, "a frame") == 1
    assert time.process_time() - started < 2


def test_what_is_no_file_of_pixels_is_said_without_the_errors_of_decoders(path, caplog, capfd):
    for write, said in (
        (path.mkdir, "cannot be read (Is a directory)"),
        (lambda: path.write_bytes(b""), "is empty"),
        (
            lambda: Image.fromarray(RGB).save(path, compression="jpeg"),
            "cannot be decoded (damaged)",
        ),
    ):
        write()
        if path.is_file() and (raw := path.read_bytes()):
            path.write_bytes(raw[: len(raw) * 2 // 3])  # the directory of pages stands at the end
        with pytest.raises(InputError) as caught:
            read_rgb(path, UNKNOWN)
        assert caught.value.faults[0].problem == said
        path.rmdir() if path.is_dir() else path.unlink()
    assert not caplog.records
