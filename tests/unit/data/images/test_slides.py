"""Slides read by region, and patches cut out of them, against the same pixels read whole."""

import gc
import sys
import weakref

import numpy as np
import pandas as pd
import pytest
import tifffile

from histofuse.core.errors import InputError
from histofuse.data import cutting
from histofuse.data.brecahad import ANNOTATIONS
from histofuse.data.cutting import cut_windows, write_patches
from histofuse.data.images import slides
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.images.slides import OpenSlideSlide, TiffSlide, open_picture, order_by_tile
from histofuse.data.images.tiff import read_rgb
from histofuse.data.patches import PatchMeta, load_index, read_patches

HEIGHT, WIDTH, TILE = 2500, 3000, 256


def write_pyramid(path, compression="deflate", tile=(TILE, TILE), **options):
    """Write a slide of two levels, smooth enough for JPEG to be quick; return its pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), np.uint8)
    pixels = coarse.repeat(20, 0).repeat(20, 1)
    how = {"tile": tile, "photometric": "rgb", "compression": compression} | options
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, subifds=1, **how)
        writer.write(pixels[::2, ::2], subfiletype=1, **how)
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages.first.asarray()


def make_points(count=300, files=("Case_1-01",)):
    """Points all over a slide, its corners and borders among them."""
    rng = np.random.default_rng(1)
    points = rng.random((count, 2)) * (WIDTH, HEIGHT)
    points[:5] = [(0, 0), (WIDTH, HEIGHT), (WIDTH, 0), (0, HEIGHT), (WIDTH / 2, 3)]
    rows = [(frame, "Case_1", x, y, "tumour", "tumor") for frame in files for x, y in points]
    return pd.DataFrame(rows, columns=list(ANNOTATIONS.columns))


def cut(folder, annotations, side=96, **options):
    names = annotations["frame_id"].unique()
    frames = pd.DataFrame({"frame_id": names, "file": [f"{name}.tif" for name in names]})
    meta = PatchMeta(side, 0, side, ["tumour"], "simulated", "none")
    out = folder / "patches"
    how = {"reading": UNKNOWN, "shard_patches": 70} | options
    write_patches(annotations, frames, folder, out, meta=meta, **how)
    return read_patches(out, load_index(out))


def cut_whole(pixels, annotations, side=96):
    expected = np.empty((len(annotations), side, side, 3), np.uint8)
    cut_windows(pixels, annotations["x_px"].to_numpy(), annotations["y_px"].to_numpy(), expected)
    return expected


@pytest.mark.parametrize(("compression", "tile"), [("deflate", (256, 256)), ("jpeg", (240, 512))])
def test_patches_of_a_slide_are_those_of_its_pixels_read_whole(compression, tile, tmp_path):
    pixels = write_pyramid(tmp_path / "Case_1-01.tif", compression, tile)
    annotations = make_points()
    np.testing.assert_array_equal(cut(tmp_path, annotations), cut_whole(pixels, annotations))


def test_bands_cut_by_several_workers_are_as_one(tmp_path, monkeypatch):
    pixels = write_pyramid(tmp_path / "Case_1-01.tif")
    monkeypatch.setattr(cutting, "_LARGE_FILE_BYTES", 1000)
    monkeypatch.setattr(cutting, "_BUFFER_BYTES", 10 * 96 * 96 * 3)
    monkeypatch.setattr(slides, "_BAND_PX", 600)
    jobs = []
    monkeypatch.setattr(cutting, "_cut_points", spy(cutting._cut_points, jobs))
    annotations = make_points()
    np.testing.assert_array_equal(cut(tmp_path, annotations), cut_whole(pixels, annotations))
    assert len(jobs) == 5  # of 512 rows


def test_tiles_are_decoded_about_once(tmp_path, monkeypatch):
    write_pyramid(tmp_path / "Case_1-01.tif")
    monkeypatch.setattr(slides, "_CACHE_BYTES", 30 * TILE * TILE * 3)  # of 120 tiles
    decoded = []
    monkeypatch.setattr(TiffSlide, "_decode", spy(TiffSlide._decode, decoded))
    cut(tmp_path, make_points(3000))
    assert len(decoded) == len({args[1:] for args in decoded}) == 120


def test_decoded_tiles_go_with_the_slide(tmp_path):
    write_pyramid(tmp_path / "slide.tif")
    with open_picture(tmp_path / "slide.tif", UNKNOWN) as slide:
        slide.read_region(0, 0, 600, 600)
        tile = weakref.ref(slide._decode_tile(0, 1, 1))
        assert tile() is not None
        gc.disable()
    try:
        assert tile() is None
    finally:
        gc.enable()


def spy(function, calls):
    def called(*args, **options):
        calls.append(args)
        return function(*args, **options)

    return called


def test_windows_are_ordered_by_band_then_column_of_tiles():
    tops, lefts = np.array([5000, 0, 10, 4095, -3]), np.array([0, 300, 0, 700, 900])
    order, bands = order_by_tile(tops, lefts, (256, 256))
    assert bands.tolist() == [1, 0, 0, 0, 0]
    assert order.tolist() == [2, 1, 3, 4, 0]


def test_a_region_of_any_level_is_the_slice_of_it(tmp_path):
    pixels = write_pyramid(tmp_path / "slide.tif", "lzw")
    with open_picture(tmp_path / "slide.tif", UNKNOWN) as slide:
        assert slide.shapes == ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2))
        assert slide.tile_px == (TILE, TILE)
        np.testing.assert_array_equal(
            slide.read_region(200, 900, 600, 300), pixels[200:800, 900:1200]
        )
        np.testing.assert_array_equal(
            slide.read_region(1240, 1490, 10, 10, level=1), pixels[2480:2500:2, 2980:3000:2]
        )
        with pytest.raises(ValueError, match="rows 2490 to 2510, columns 0 to 9 reach beyond"):
            slide.read_region(2490, 0, 20, 9)


def test_openslide_reads_the_same_pixels(tmp_path):
    pytest.importorskip("openslide")
    pixels = write_pyramid(tmp_path / "slide.tif")
    slide = OpenSlideSlide(tmp_path / "slide.tif", UNKNOWN)
    try:
        assert slide.shapes[0] == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(
            slide.read_region(200, 900, 300, 600), pixels[200:500, 900:1500]
        )
    finally:
        slide.close()


def test_formats_of_openslide_are_opened_by_it(tmp_path, monkeypatch):
    pytest.importorskip("openslide")
    (tmp_path / "slide.mrxs").write_bytes(b"no slide")
    with (
        pytest.raises(InputError, match=r"slide\.mrxs: cannot be read"),
        open_picture(tmp_path / "slide.mrxs", UNKNOWN),
    ):
        pass
    monkeypatch.setitem(sys.modules, "openslide", None)
    with (
        pytest.raises(InputError, match=r"pip install 'histofuse\[slides\]'"),
        open_picture(tmp_path / "slide.mrxs", UNKNOWN),
    ):
        pass


def test_frames_stay_frames(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    tifffile.imwrite(tmp_path / "striped.tif", pixels, photometric="rgb")
    tifffile.imwrite(tmp_path / "tiled.tif", pixels, photometric="rgb", tile=(16, 16))
    for name in ("striped.tif", "tiled.tif"):
        with open_picture(tmp_path / name, UNKNOWN) as picture:
            np.testing.assert_array_equal(picture, pixels)


def test_slides_that_cannot_be_read_are_named(tmp_path):
    for n in (1, 2, 3):
        write_pyramid(tmp_path / f"Case_1-0{n}.tif")
    whole = (tmp_path / "Case_1-01.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "Case_1-01.tif") as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[7], page.databytecounts[7]
    (tmp_path / "Case_1-01.tif").write_bytes(whole[:-1000])
    zeroed = whole[:offset] + bytes(count) + whole[offset + count :]
    (tmp_path / "Case_1-02.tif").write_bytes(zeroed)
    names = ("Case_1-01", "Case_1-02", "Case_1-03")
    with pytest.raises(InputError) as caught:
        cut(tmp_path, make_points(files=names))
    cut_short, damaged = caught.value.faults
    assert (cut_short.where.name, damaged.where.name) == ("Case_1-01.tif", "Case_1-02.tif")
    assert cut_short.problem.startswith("cut short")
    assert damaged.problem.startswith("cannot be decoded")


def test_a_slide_is_normalised_whole_or_refused(tmp_path, monkeypatch):
    pixels = write_pyramid(tmp_path / "Case_1-01.tif")
    annotations = make_points(20)
    inverted = cut(tmp_path, annotations, normalise=lambda rgb: 255 - rgb)
    np.testing.assert_array_equal(inverted, 255 - cut_whole(pixels, annotations))
    monkeypatch.setattr(cutting, "LARGEST_PICTURE_BYTES", 2**20)
    with pytest.raises(InputError, match=r"3000 x 2500 pixels cannot be normalised at once"):
        cut(tmp_path, annotations, normalise=lambda rgb: 255 - rgb)


def test_sixteen_bits_and_alpha_are_brought_to_rgb_as_in_frames(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (300, 300, 4), np.uint16)
    pixels[..., 3] = 65535
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        how = {"tile": (64, 64), "photometric": "rgb", "extrasamples": ["unassalpha"]}
        writer.write(pixels, subifds=1, **how)
        writer.write(pixels[::2, ::2], subfiletype=1, **how)
    with open_picture(tmp_path / "slide.tif", UNKNOWN) as slide:
        region = slide.read_region(0, 0, 300, 300)
    np.testing.assert_array_equal(region, read_rgb(tmp_path / "slide.tif", UNKNOWN).rgb)


def write_slide(path, pixels, **options):
    with tifffile.TiffWriter(path) as writer:
        how = {"tile": (64, 64), "photometric": "rgb"} | options
        writer.write(pixels, subifds=1, **how)
        writer.write(pixels[::2, ::2], subfiletype=1, **how)


def read_all(path, **frames):
    with open_picture(path, UNKNOWN.model_copy(update=frames)) as slide:
        return slide.read_region(0, 0, 300, 300)


def test_what_a_slide_leaves_open_is_settled_as_for_frames(tmp_path):
    path = tmp_path / "slide.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    write_slide(path, pixels, extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(InputError, match=r"slide\.tif: has orientation 6"):
        read_all(path)
    np.testing.assert_array_equal(read_all(path, orientation="stored"), pixels)
    with pytest.raises(InputError, match=r"slide\.tif: is displayed turned"):
        read_all(path, orientation="displayed")

    camera = pixels.astype(np.uint16) * 16  # of 12 bits
    write_slide(path, camera)
    with pytest.raises(InputError, match=r"slide\.tif: holds 16 bits, of which 12 are used"):
        read_all(path)
    np.testing.assert_array_equal(read_all(path, bits=12), np.rint(camera * (255 / 4095)))
    write_slide(path, camera, extratags=[(281, "H", 1, 4095, True)])
    np.testing.assert_array_equal(read_all(path), np.rint(camera * (255 / 4095)))


def test_a_tile_whose_header_tells_of_more_pixels_is_not_decoded(tmp_path):
    path = tmp_path / "Case_1-01.tif"
    write_pyramid(path, "jpeg")
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0\x00\x11\x08") + 5
    content[at : at + 4] = (65_500).to_bytes(2) * 2
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"17,161,000,000 values in place of 262,144"):
        cut(tmp_path, make_points())


def test_a_slide_of_which_all_patches_are_black_is_named(tmp_path):
    path = tmp_path / "Case_1-01.tif"
    dark = np.random.default_rng(0).integers(0, 16, (HEIGHT, WIDTH, 3), np.uint8)
    write_slide(path, dark)
    with pytest.raises(InputError, match=r"Case_1-01\.tif: is nearly black"):
        cut(tmp_path, make_points(20))


def test_several_scans_in_one_file_are_refused(tmp_path):
    path = tmp_path / "slide.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with tifffile.TiffWriter(path, ome=True) as writer:
        for _ in range(2):
            writer.write(pixels, subifds=1, tile=(64, 64), photometric="rgb")
            writer.write(pixels[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb")
    with pytest.raises(InputError, match=r"slide\.tif: holds several scans"):
        read_all(path)
