"""Micrometres per pixel: read, given or refused, and pictures resampled to a model's own."""

import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from histofuse.core.errors import FaultList, InputError
from histofuse.data.cutting import cut_windows, write_patches
from histofuse.data.images import resolution
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.images.resolution import check_mpp, find_factors, read_mpp, resample, settle_mpp
from histofuse.data.images.slides import open_picture
from histofuse.data.patches import PatchMeta, load_index, read_patches


def make_pixels(height=700, width=600):
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    smooth = gaussian_filter(noise, (3, 3, 0))
    return (128 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def write(path, pixels, **options):
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **options)
    return path


def write_levels(path, pixels, **options):
    options = {"tile": (256, 256), "photometric": "rgb"} | options
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, subifds=1, **options)
        tiff.write(pixels[::2, ::2], subfiletype=1, **options)
    return path


def test_files_say_their_resolution(tmp_path):
    pixels = make_pixels(32, 32)
    aperio = "Aperio Image Library v11\n32x32 |AppMag = 20|MPP = 0.4990|Left = 1"
    assert read_mpp(write(tmp_path / "a.svs", pixels, description=aperio)) == 0.499
    centimetres = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    assert read_mpp(write(tmp_path / "cm.tif", pixels, **centimetres)) == 0.25
    inches = {"resolution": (50_800, 50_800), "resolutionunit": "INCH"}
    assert read_mpp(write(tmp_path / "inch.tif", pixels, **inches)) == 0.5
    nanometres = {"axes": "YXS", "PhysicalSizeX": 230.0, "PhysicalSizeXUnit": "nm"}
    nanometres |= {"PhysicalSizeY": 230.0, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", metadata=nanometres)
    assert read_mpp(tmp_path / "a.ome.tif") == pytest.approx(0.23)


@pytest.mark.parametrize(
    ("said", "mpp"),
    [("0,2520", 0.252), ("2.5e-1", 0.25), ("0.5.1", None), ("0", None), ("NaN", None)],
)
def test_numbers_are_read_as_scanners_write_them(said, mpp, tmp_path):
    pixels, aperio = make_pixels(32, 32), f"Aperio Image Library v11\n|AppMag = 20|MPP = {said}|"
    assert read_mpp(write(tmp_path / "a.svs", pixels, description=aperio)) == mpp
    sizes = {"axes": "YXS", "PhysicalSizeX": said, "PhysicalSizeY": said}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", metadata=sizes)
    assert read_mpp(tmp_path / "a.ome.tif") == mpp


@pytest.mark.parametrize("dots", [72, 96, 300, 1200])
def test_resolutions_for_printing_are_none(dots, tmp_path):
    printed = {"resolution": (dots, dots), "resolutionunit": "INCH"}
    assert read_mpp(write(tmp_path / "a.tif", make_pixels(32, 32), **printed)) is None


def test_a_resolution_is_read_given_or_refused(tmp_path, capsys):
    pixels = make_pixels(32, 32)
    unknown = write(tmp_path / "none.tif", pixels)
    with pytest.raises(InputError, match=r"none\.tif: does not say its mpp; .* --mpp"):
        settle_mpp(unknown, None)
    assert settle_mpp(unknown, 0.25) == 0.25
    for given in (3.0, 0.01, float("nan")):
        check_mpp(given, faults := FaultList())
        assert str(faults.faults[0]).startswith(f"--mpp: is {given:g}; expected 0.05 to 2 µm")
    check_mpp(0.25, faults := FaultList())
    assert not faults.faults
    small = {"resolution": (2_500, 2_500), "resolutionunit": "CENTIMETER"}
    thumbnail = write(tmp_path / "small.tif", pixels, **small)
    with pytest.raises(InputError, match="has 4 µm per pixel, as a thumbnail has"):
        settle_mpp(thumbnail, None)
    assert settle_mpp(thumbnail, 0.25) == 0.25
    assert "small.tif: says 4 µm per pixel, 0.25 is taken" in capsys.readouterr().err
    known = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    assert settle_mpp(write(tmp_path / "known.tif", pixels, **known), 0.5) == 0.25
    oblong = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}
    with pytest.raises(InputError, match=r"pixels of 0\.250 by 0\.500 µm"):
        settle_mpp(write(tmp_path / "oblong.tif", pixels, **oblong), None)


@pytest.mark.parametrize("factor", [0.3, 0.5, 1.7])
def test_regions_of_a_resampled_slide_agree_and_keep_their_places(factor, tmp_path):
    pixels = make_pixels()
    with open_picture(write_levels(tmp_path / "a.tif", pixels), UNKNOWN) as slide:
        resampled = resample(slide, factor)
        height, width = resampled.shapes[0]
        assert (height, width) == (int(700 * factor), int(600 * factor))
        whole = resampled.read_region(0, 0, height, width)
        for top, left in ((0, 0), (height // 3, width // 4), (height - 60, width - 50)):
            region = resampled.read_region(top, left, 60, 50)
            assert np.abs(region.astype(int) - whole[top : top + 60, left : left + 50]).max() <= 1


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.9, 1.7])
def test_places_stay_where_they_are(factor):
    y, x = np.mgrid[:300, :280] + 0.5
    blob = 200 * np.exp(-((x - 171.3) ** 2 + (y - 88.6) ** 2) / (2 * 12**2))
    picture = resample(np.repeat(blob[..., None], 3, axis=2).astype(np.uint8), factor)
    height, width = picture.shapes[0]
    light = picture.read_region(0, 0, height, width)[..., 0].astype(float)
    rows, columns = np.mgrid[:height, :width] + 0.5
    centre = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    assert np.divide(centre, factor) == pytest.approx((171.3, 88.6), abs=0.1)


@pytest.mark.parametrize("kind", ["frame", "slide"])
@pytest.mark.parametrize("factor", [0.5, 1.6])
def test_patches_are_cut_at_the_resolution_of_the_model(kind, factor, tmp_path):
    pixels = make_pixels()
    path = tmp_path / "a.tif"
    (write if kind == "frame" else write_levels)(path, pixels)
    rng = np.random.default_rng(1)
    points = pd.DataFrame({"x_px": rng.uniform(0, 600, 40), "y_px": rng.uniform(0, 700, 40)})
    points = points.assign(frame_id="a", case_id="a", label="tumour")
    meta = PatchMeta(16, 4, 24, ["tumour"], "published", "none")
    frames = pd.DataFrame({"frame_id": ["a"], "file": ["a.tif"]})
    how = {"meta": meta, "reading": UNKNOWN, "shard_patches": 100, "factors": {"a": factor}}
    write_patches(points, frames, tmp_path, tmp_path / "out", **how)
    cut = read_patches(tmp_path / "out", load_index(tmp_path / "out"))

    expected = np.empty_like(cut)
    with open_picture(path, UNKNOWN) as picture:
        x, y = (points[axis].to_numpy() * factor for axis in ("x_px", "y_px"))
        cut_windows(resample(picture, factor), x, y, expected)
    assert np.abs(cut.astype(int) - expected).max() <= 1


def test_frames_get_the_factor_of_their_resolution(tmp_path):
    pixels = make_pixels(32, 32)
    known = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    paths = {
        "a": write(tmp_path / "a.tif", pixels, **known),
        "b": write(tmp_path / "b.tif", pixels),
    }
    assert find_factors(paths, 0.25, 0.125) == {"a": 2.0, "b": 0.5}
    assert find_factors(paths, None, None) == {"a": 1.0, "b": 1.0}
    with pytest.raises(InputError, match=r"b\.tif: does not say its mpp; .* data\.mpp"):
        find_factors(paths, 0.25, None)
    assert PatchMeta(16, 4, 24, [], "published", "none", 4.0, 2.5).window_px == 60


def test_a_resolution_that_is_nearly_the_same_leaves_pixels_as_they_are():
    pixels = make_pixels(40, 30)
    assert (resample(pixels, 1.005).read_region(0, 0, 40, 30) == pixels).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("predictor", [True, False])
def test_damaged_lzw_tiles_are_named_and_others_decoded(dtype, predictor, tmp_path):
    pixels = make_pixels()
    stored = pixels.astype(dtype) * (257 if dtype == np.uint16 else 1)
    path = write_levels(tmp_path / "a.tif", stored, compression="lzw", predictor=predictor)
    with open_picture(path, UNKNOWN) as slide:
        assert (slide.read_region(0, 0, 700, 600) == pixels).all()
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[0], page.databytecounts[0]
    raw = bytearray(path.read_bytes())
    for seed in range(20):
        rng = np.random.default_rng(seed)
        raw[offset : offset + count] = rng.bytes(count)
        path.write_bytes(raw)
        with (
            pytest.raises(InputError, match=r"a\.tif: cannot be decoded"),
            open_picture(path, UNKNOWN) as slide,
        ):
            slide.read_region(0, 0, 100, 100)


def test_slides_that_only_openslide_reads_need_it(tmp_path, monkeypatch):
    path = tmp_path / "a.ndpi"
    path.write_bytes(b"nothing")
    assert read_mpp(path) is None  # whoever reads its pixels says that they cannot be read
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(InputError, match=r"a\.ndpi: OpenSlide is not installed"):
        read_mpp(path)


def test_openslide_says_the_same(real_data, tmp_path, monkeypatch):
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    monkeypatch.setattr(resolution, "needs_openslide", lambda _: True)
    assert read_mpp(slide) == 0.499


def test_slides_of_users_say_theirs(real_data):
    slides = real_data / "slides"
    assert read_mpp(slides / "CMU-1-Small-Region.svs") == 0.499
    assert read_mpp(slides / "OS-1-detail.ome.tif") == pytest.approx(0.2271, abs=1e-4)
    with pytest.raises(InputError, match=r"TCGA.*does not say its mpp"):
        settle_mpp(slides / "TCGA-CR-7395-01A-01-TS1.svs", None)
