"""``histofuse predict --slide``: nuclei of whole slides, with a detector that sees dark discs."""

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.ndimage import gaussian_filter, maximum_filter

from histofuse.commands.prediction import predict as predict_module
from histofuse.commands.prediction import slides as slides_module
from histofuse.commands.prediction.predict import Request, predict
from histofuse.core.artifacts import digest_file, load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import Fault, InputError, RegistryError
from histofuse.data.geojson import read_objects
from histofuse.detection.finder import NucleusFinder
from histofuse.evaluation.mitotic_counts import MitosisErrors, estimate_count
from histofuse.params.base import load_seed
from histofuse.serving.pictures import finding

MPP = 0.25
APERIO = "Aperio Image Library v11\n{0}x{1} (256x256) JPEG/RGB Q=70|AppMag = 40|MPP = {2}"


class DiscFinder:
    """Finds dark discs; depends on nothing but the pixels around them."""

    mpp = MPP
    context_px = 32
    step_px = 64

    def find(self, pixels):
        dark = gaussian_filter(255.0 - pixels[..., 0], 3, mode="nearest")
        rows, columns = np.nonzero((dark == maximum_filter(dark, 15)) & (dark > 70))
        return pd.DataFrame({"x_px": columns + 0.5, "y_px": rows + 0.5, "score": 0.9})

    def require_mpp(self, mpp, where):
        if mpp != self.mpp:
            raise InputError([Fault(str(where), f"has {mpp:g} µm per pixel", f"{self.mpp:g}")])


def draw_tissue(height, width, places, radius=6):
    """Pink tissue with dark discs."""
    rng = np.random.default_rng(0)
    pixels = np.array([225, 150, 200]) + rng.normal(0, 4, (height, width, 1))
    y, x = np.mgrid[:height, :width] + 0.5
    for px, py in places:
        pixels[np.hypot(x - px, y - py) < radius] = (90, 60, 130)
    return pixels.clip(0, 255).astype(np.uint8)


def write_slide(path, pixels, mpp=MPP, **options):
    height, width, _ = pixels.shape
    told = APERIO.format(width, height, mpp) if mpp else "Aperio Image Library v11\nnothing|Q = 1"
    more = {"photometric": "rgb", "tile": (256, 256), "metadata": None} | options
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, description=told, **more)
        tiff.write(pixels[:32, :32], photometric="rgb", metadata=None)
        label = {"description": "Aperio Image Library\nlabel 32x32", "subfiletype": 1}
        tiff.write(pixels[:32, :32], photometric="rgb", metadata=None, **label)
    return path


@pytest.fixture
def places():
    """A grid of discs, some of them right on the seams of regions."""
    return [(x + 0.5, y + 0.5) for y in range(30, 680, 41) for x in range(20, 600, 59)] + [
        (256.0, 501.0),
        (512.0, 256.0),
    ]


@pytest.fixture
def project(small_project, monkeypatch):
    """The small project, its models at a resolution, and the detector of discs."""
    monkeypatch.setattr(NucleusFinder, "load", lambda _: DiscFinder())
    slides_module._load_model.cache_clear()
    slides_module._load_detector.cache_clear()
    set_resolution(Path("models/simple_cnn"), 16 * MPP)
    shutil.copytree("models/simple_cnn", "discs")
    change_config(Path("discs"), lambda config: config.update(kind="detector"))
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("region_px: 1024", "region_px: 256"), "utf-8")
    return small_project


def set_resolution(bundle, patch_um):
    change_config(bundle, lambda config: config["architecture"].update(patch_um=patch_um))


def change_config(bundle, change):
    config = load_json(bundle / "config.json")
    change(config)
    write_json(config, bundle / "config.json")
    manifest = load_json(bundle / "manifest.json")
    manifest["files"]["config.json"] = digest_file(bundle / "config.json")
    write_json(manifest, bundle / "manifest.json")


def ask(slide, out="out", **more):
    values = dict.fromkeys(("frames", "points", "patients", "crosswalk"))
    values |= {"model": "models/simple_cnn", "detector": "discs", "batch": 64} | more
    return slides_module.predict_slides(Request(out=Path(out), slide=Path(slide), **values))


def test_every_nucleus_is_answered_once_whatever_the_regions(project, places):
    pixels = draw_tissue(700, 610, places)
    write_slide("a.svs", pixels)
    said = ask("a.svs")
    table = pd.read_parquet("out/a/nuclei.parquet")
    whole = DiscFinder().find(pixels)
    order = ["x_px", "y_px"]
    found = table[order].sort_values(order).to_numpy()
    np.testing.assert_array_equal(found, whole[order].sort_values(order).to_numpy())
    assert len(table) == len(places)
    assert f"a: {len(places)} nuclei" in said

    # As if the points had been given with the frame.
    tifffile.imwrite("frames.tif", pixels, photometric="rgb")
    Path("frames").mkdir()
    Path("frames.tif").rename("frames/a.tif")
    table.assign(frame_id="a")[["frame_id", *order]].to_csv("points.csv", index=False)
    values = {"frames": Path("frames"), "points": Path("points.csv"), "patients": None}
    values |= {"crosswalk": None, "model": "models/simple_cnn", "batch": 64, "mpp": MPP}
    predict(Request(out=Path("frames.parquet"), **values))
    answer = pd.read_parquet("frames.parquet").set_index(order)
    again = table.set_index(order).loc[answer.index]
    for name in ("probability_mitosis", "probability_tumour"):
        assert answer[name].to_numpy() == pytest.approx(again[name].to_numpy(), abs=1e-5)


def test_a_slide_is_brought_to_the_resolution_of_the_model(project, places):
    doubled = np.repeat(np.repeat(draw_tissue(700, 610, places), 2, axis=0), 2, axis=1)
    write_slide("a.svs", doubled, mpp=MPP / 2)
    ask("a.svs")
    table = pd.read_parquet("out/a/nuclei.parquet")
    assert len(table) == len(places)
    gaps = np.abs(table[["x_px", "y_px"]].to_numpy()[:, None] - 2 * np.array(places)).max(axis=2)
    assert gaps.min(axis=1).max() <= 3
    summary = load_json(Path("out/a/summary.json"))
    assert summary["mpp"] == MPP / 2
    assert summary["tissue_mm2"] == pytest.approx(700 * 610 * MPP**2 / 1e6, rel=0.02)


def test_files_of_a_slide_open_and_agree(project, places, monkeypatch):
    monkeypatch.setattr(slides_module, "load_errors", lambda *_: MitosisErrors(30, 10, 10))
    write_slide("a.svs", draw_tissue(700, 610, places))
    said = ask("a.svs")
    table = pd.read_parquet("out/a/nuclei.parquet")
    nuclei = read_objects(Path("out/a/nuclei.geojson")).table
    assert nuclei[["x_px", "y_px"]].to_numpy() == pytest.approx(
        table[["x_px", "y_px"]].to_numpy(), abs=0.01
    )
    summary = load_json(Path("out/a/summary.json"))
    spot = summary["hot_spot"]
    counts = table["prediction"].value_counts()
    assert summary["counts"] == {c: counts.get(c, 0) for c in summary["counts"]}
    assert spot["mitoses"] <= counts.get("mitosis", 0)
    low, high = spot["interval"]["mitoses_per_mm2"]
    assert low <= spot["interval"]["estimate_per_mm2"] <= high
    assert "95% interval" in said
    outlines = json.loads(Path("out/a/nuclei.geojson").read_text())["features"]
    assert len(outlines) == len(table) + (spot["mitoses"] > 0)
    assert Path("out/a/thumbnail.png").stat().st_size > 1000
    assert pd.read_csv("out/summary.csv")["nuclei"].tolist() == [len(table)]


def test_the_work_on_a_slide_travels_to_other_processes(project, places, monkeypatch):
    def map_elsewhere(function, jobs, *, engine, workers):
        assert (engine, workers) == ("tcp://host:8786", 1)
        return [pickle.loads(pickle.dumps(function))(job) for job in jobs]

    monkeypatch.setattr(slides_module, "map_jobs", map_elsewhere)
    write_slide("a.svs", draw_tissue(300, 300, places[:9]))
    assert "wrote out: 1 of 1 slide" in ask("a.svs", engine="tcp://host:8786")
    job_paths = [p for p in Path("out").iterdir() if p.name.startswith(".model")]
    assert job_paths == []


def test_a_registered_model_is_named_after_the_slides(project, places, monkeypatch):
    def pull(model, scratch):
        return shutil.copytree(model, scratch / "pulled"), None

    monkeypatch.setattr(slides_module, "locate_model", pull)
    write_slide("a.svs", draw_tissue(300, 300, places[:9]))
    assert "simple_cnn" in ask("a.svs")
    assert not list(Path("out").glob(".model*"))


def test_slides_of_users_are_answered(project, real_data):
    folder = real_data / "slides"
    with pytest.raises(InputError, match=r"TCGA-CR-7395-01A-01-TS1\.svs: does not say its mpp"):
        ask(folder)
    for name, mpp in (("CMU-1-Small-Region", 0.499), ("OS-1-detail", 0.2271)):
        summary = load_json(Path(f"out/{name}/summary.json"))
        assert summary["mpp"] == pytest.approx(mpp, abs=1e-4)
        assert summary["nuclei"] == len(pd.read_parquet(f"out/{name}/nuclei.parquet")) > 50
        assert len(read_objects(Path(f"out/{name}/nuclei.geojson")).table) == summary["nuclei"]
    assert pd.read_csv("out/summary.csv")["slide"].tolist() == ["CMU-1-Small-Region", "OS-1-detail"]


def test_a_slide_without_tissue_has_no_nuclei_and_says_so(project):
    white = np.random.default_rng(0).integers(236, 244, (300, 300, 1)).repeat(3, axis=2)
    write_slide("a.svs", white.astype(np.uint8))
    assert "a: no tissue found, so no nuclei" in ask("a.svs")
    table = pd.read_parquet("out/a/nuclei.parquet")
    assert len(table) == 0
    assert "probability_mitosis" in table
    assert load_json(Path("out/a/summary.json"))["nuclei"] == 0


def test_slides_that_cannot_be_read_are_listed_after_the_others(project, places, capsys):
    folder = Path("slides")
    folder.mkdir()
    pixels = draw_tissue(300, 300, places[:5])
    write_slide(folder / "good.svs", pixels)
    write_slide(folder / "silent.svs", pixels, mpp=None)
    (folder / "text.tif").write_text("no slide")
    (folder / "._good.svs").write_text("of a file manager")
    (folder / "overview.png").write_text("none of them")
    write_slide(folder / "small.svs", pixels, mpp=8.0)
    damaged = write_slide(folder / "torn.svs", pixels, compression="lzw")
    with tifffile.TiffFile(damaged) as tiff:
        offset = tiff.pages.first.dataoffsets[0]
    raw = bytearray(damaged.read_bytes())
    raw[offset : offset + 2000] = bytes(range(250)) * 8
    damaged.write_bytes(raw)
    write_slide(folder / "black.svs", pixels // 20)
    with pytest.raises(InputError) as caught:
        ask(folder)
    shown = "".join(capsys.readouterr())
    assert "WARNING: the model was trained on simulated data" in shown
    assert "slides: 1 .png file left out: no slides" in shown
    said = str(caught.value)
    assert "5 faults" in said
    assert "text.tif: cannot be decoded (not a TIFF file" in said
    assert "silent.svs: does not say its mpp; expected µm per pixel" in said
    assert "small.svs: has 8 µm per pixel, as a thumbnail has" in said
    assert "torn.svs: cannot be decoded" in said
    assert "black.svs: is nearly black" in said
    assert sorted(p.name for p in Path("out").iterdir()) == ["good", "summary.csv"]
    with pytest.raises(InputError):
        ask(folder / "silent.svs", out="nothing")
    assert "wrote nothing" not in capsys.readouterr().err
    ask(folder / "silent.svs", mpp=MPP)
    assert load_json(Path("out/silent/summary.json"))["mpp"] == MPP


def test_label_and_overview_pictures_are_never_read(project, places, monkeypatch):
    path = write_slide("a.svs", draw_tissue(300, 300, places[:5]))
    with tifffile.TiffFile(path) as tiff:
        first = min(offset for page in tiff.pages[1:] for offset in page.dataoffsets)
    reached, seek = [], tifffile.FileHandle.seek

    def watch(self, offset, whence=0):
        reached.append(offset)
        return seek(self, offset, whence)

    monkeypatch.setattr(tifffile.FileHandle, "seek", watch)
    ask("a.svs")
    with tifffile.TiffFile(path) as tiff:
        spans = [
            (offset, offset + count)
            for page in tiff.pages[1:]
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    assert first and not any(low <= offset < high for offset in reached for low, high in spans)


def prepare_fusion(case):
    """A fusion model of the encoder with a resolution, and the record of a case."""
    patients = pd.read_parquet("data/ehr/features.parquet").head(1).assign(case_id=case)
    patients.to_parquet("patients.parquet")
    fusion = Path("models/fusion_label_blind")
    digest = open_bundle(Path("models/simple_cnn")).digest
    change_config(fusion, lambda c: c["encoders"]["image"].update(digest=digest))
    return fusion, Path("patients.parquet")


def find_in_frames(**more):
    values = dict.fromkeys(("points", "patients", "crosswalk"))
    values |= {"frames": Path("frames"), "model": "models/simple_cnn", "batch": 64}
    values |= {"detector": "discs"} | more
    said = predict(Request(out=Path("out.parquet"), **values))
    return said, pd.read_parquet("out.parquet")


def draw_glass(side):
    light = np.random.default_rng(0).integers(236, 244, (side, side, 1)).repeat(3, axis=2)
    return light.astype(np.uint8)


def test_frames_without_points_get_the_nuclei_that_are_found(project, places, capsys):
    Path("frames").mkdir()
    doubled = np.repeat(np.repeat(draw_tissue(300, 300, places[:20]), 2, axis=0), 2, axis=1)
    tifffile.imwrite("frames/Case_1-01.tif", doubled, photometric="rgb")
    tifffile.imwrite("frames/Case_1-02.tif", draw_glass(99), photometric="rgb")
    said, table = find_in_frames(mpp=MPP / 2, geojson=Path("qupath"))
    expected = 2 * np.array(places[:20])
    inside = expected[(expected < 600).all(axis=1)]
    assert len(table) == len(inside)
    gaps = np.abs(table[["x_px", "y_px"]].to_numpy()[:, None] - inside).max(axis=2)
    assert gaps.min(axis=1).max() <= 3
    assert f"{len(inside)} nuclei of 2 frames" in said
    assert "Case_1-02.tif: no tissue, so no nuclei" in capsys.readouterr().err
    objects = read_objects(Path("qupath/Case_1-01.geojson")).table
    assert objects["measurements"].iloc[0]["Detection score"] == 0.9


def test_frames_that_say_another_resolution_than_given_are_counted(project, places, capsys):
    Path("frames").mkdir()
    pixels = draw_tissue(200, 200, places[:5])
    more = {"photometric": "rgb", "resolutionunit": "CENTIMETER"}
    tifffile.imwrite("frames/Case_1-01.tif", pixels, resolution=(1e4 / MPP, 1e4 / MPP), **more)
    tifffile.imwrite("frames/Case_1-02.tif", pixels, photometric="rgb")
    find_in_frames(mpp=2 * MPP)
    said = capsys.readouterr().err
    assert "1 of 2 frames: the µm per pixel of the file are taken, not 0.5" in said


def test_a_registered_model_of_another_kind_is_named_as_it_was_given(project, monkeypatch):
    def pull(_, scratch):
        return shutil.copytree("models/simple_cnn", scratch / "pulled"), None

    Path("frames").mkdir()
    tifffile.imwrite("frames/a.tif", draw_tissue(99, 99, []), photometric="rgb")
    write_slide("a.svs", draw_tissue(99, 99, []))
    for module in (predict_module, slides_module):
        monkeypatch.setattr(module, "locate_model", pull)
    for run in (find_in_frames, lambda **more: ask("a.svs", **more)):
        with pytest.raises(InputError) as caught:
            run(detector="models:/some-model/1")
        expected = "--detector: models:/some-model/1 is of kind image; expected a detector"
        assert str(caught.value.faults[0]).startswith(expected)


def test_a_case_gets_a_page_of_its_own(project, places):
    Path("frames").mkdir()
    for name in ("Case_1-01", "Case_1-02", "Case_2-01"):
        pixels = draw_tissue(200, 200, places[:15])
        tifffile.imwrite(f"frames/{name}.tif", pixels, photometric="rgb")
    _, table = find_in_frames(report=Path("pages"))
    assert sorted(p.name for p in Path("pages").iterdir()) == ["Case_1.html", "Case_2.html"]
    for page in Path("pages").iterdir():
        text = page.read_text(encoding="utf-8")
        assert page.stat().st_mode & 0o777 == 0o600
        assert not re.search(r"(src|href)=\"(?!data:|#)", text)
        assert text.count("Patch and map:") == min(10, int((table["case_id"] == page.stem).sum()))
        assert "per mm²" in text
        assert f"nuclei in {'2 frames' if page.stem == 'Case_1' else '1 frame'}<" in text
        assert "The model was trained on simulated data." in text
        assert ">simulated data<" not in text
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("restricted: true", "restricted: false"), "utf-8")
    find_in_frames(report=Path("open"))
    assert Path("open/Case_1.html").stat().st_mode & 0o777 == 0o644


def test_frames_without_nuclei_count_with_their_area(project, places):
    Path("frames").mkdir()
    tifffile.imwrite("frames/Case_1-01.tif", draw_tissue(200, 200, places[:15]), photometric="rgb")
    for name in ("Case_1-02", "Case_2-01"):
        tifffile.imwrite(f"frames/{name}.tif", draw_glass(200), photometric="rgb")
    _, table = find_in_frames(report=Path("pages"), mpp=MPP)
    first, second = (Path(f"pages/Case_{n}.html").read_text("utf-8") for n in (1, 2))
    area, count = 2 * (200 * MPP) ** 2 / 1e6, (table["prediction"] == "mitosis").sum()
    assert f"{count / area:.1f} per mm² ({area:.2g} mm² of frames)" in first
    assert "Corrected" not in first  # the detector's errors were not measured
    assert "nuclei in 2 frames<" in first and "Case_1-02" in first
    assert "0 of 0 nuclei in 1 frame<" in second and "No nuclei." in second


def test_counts_of_found_nuclei_have_an_interval(project, places, monkeypatch):
    errors = MitosisErrors(30, 10, 10)
    monkeypatch.setattr(finding, "load_errors", lambda *_: errors)
    Path("frames").mkdir()
    tifffile.imwrite("frames/Case_1-01.tif", draw_tissue(200, 200, places[:15]), photometric="rgb")
    _, table = find_in_frames(report=Path("pages"), mpp=MPP)
    count = (table["prediction"] == "mitosis").sum()
    _, low, high = estimate_count(int(count), errors, 0.95, load_seed())
    text = Path("pages/Case_1.html").read_text("utf-8")
    assert f"{low:.0f} to {high:.0f} (95% interval)" in text
    area = (200 * MPP) ** 2 / 1e6
    assert f"; corrected {low / area:.1f} to {high / area:.1f}" in text


def test_frames_without_nuclei_get_an_empty_file(project, places):
    Path("frames").mkdir()
    tifffile.imwrite("frames/Case_1-01.tif", draw_tissue(200, 200, places[:15]), photometric="rgb")
    tifffile.imwrite("frames/Case_1-02.tif", draw_glass(200), photometric="rgb")
    find_in_frames(geojson=Path("nuclei"))
    assert len(read_objects(Path("nuclei/Case_1-01.geojson")).table)
    assert json.loads(Path("nuclei/Case_1-02.geojson").read_text("utf-8"))["features"] == []


def test_a_slide_gets_a_page(project, places):
    write_slide("a.svs", draw_tissue(300, 300, places[:9]))
    ask("a.svs", report=Path("pages"))
    text = Path("pages/a.html").read_text(encoding="utf-8")
    assert "hot spot" in text
    assert "Thumbnail with mitoses" in text
    assert Path("pages/a.html").stat().st_mode & 0o777 == 0o600


def test_the_page_of_a_case_with_a_record_shows_what_it_adds(project, places):
    Path("frames").mkdir()
    for name in ("Case_1-01", "Case_2-01"):
        pixels = draw_tissue(200, 200, places[:15])
        tifffile.imwrite(f"frames/{name}.tif", pixels, photometric="rgb")
    fusion, patients = prepare_fusion("Case_1")
    find_in_frames(report=Path("pages"), model=str(fusion), patients=patients)
    first, second = (Path(f"pages/Case_{n}.html").read_text("utf-8") for n in (1, 2))
    assert "What the health record adds" in first
    assert "age years" in first
    assert "What the health record adds" not in second


def test_frames_without_any_nucleus_are_answered_with_none(project):
    Path("frames").mkdir()
    glass = np.random.default_rng(0).integers(236, 244, (99, 99, 1)).repeat(3, axis=2)
    tifffile.imwrite("frames/Case_1-01.tif", glass.astype(np.uint8), photometric="rgb")
    said, table = find_in_frames()
    assert len(table) == 0
    assert "prediction" in table
    assert "0 nuclei of 1 frame\nno nuclei\n" in said


def test_frames_that_cannot_be_searched_are_named(project, places):
    Path("frames").mkdir()
    pixels = draw_tissue(200, 200, places[:5])
    tifffile.imwrite("frames/Case_1-01.tif", pixels // 20, photometric="rgb")
    with pytest.raises(InputError, match=r"Case_1-01\.tif: is nearly black"):
        find_in_frames()
    tifffile.imwrite("frames/Case_1-01.tif", pixels, photometric="rgb")
    with pytest.raises(InputError, match="--detector: nope is no bundle, and no registered"):
        find_in_frames(detector="nope")
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("mpp: 0.25", "mpp: none"), "utf-8")
    with pytest.raises(InputError, match=r"Case_1-01\.tif: does not say its mpp"):
        find_in_frames()
    set_resolution(Path("models/simple_cnn"), 8.0)
    with pytest.raises(InputError, match=r"has 0\.5 µm per pixel; expected 0\.25"):
        find_in_frames(mpp=MPP)


def test_errors_are_those_of_the_same_two_models(project):
    counts = {"found": 20, "missed": 4, "false": 3}
    metrics = {
        "detector": open_bundle(Path("models/simple_cnn")).digest,
        "image_model": "resnet18",
        "regions": {"hot_spots": counts, "elsewhere": counts | {"false": 9}},
    }
    path = Path("reports/detection/metrics.json")
    assert finding.load_errors(Path("models/simple_cnn"), "resnet18") is None
    path.parent.mkdir(parents=True)
    write_json(metrics, path)
    errors = finding.load_errors(Path("models/simple_cnn"), "resnet18")
    assert errors == MitosisErrors(40, 8, 12)
    assert finding.load_errors(Path("models/simple_cnn"), "simple_cnn") is None
    assert finding.load_errors(Path("models/mlp"), "resnet18") is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mpp": 4.0}, r"--mpp: is 4; expected 0\.05 to 2 µm per pixel"),
        ({"out": "a.parquet"}, "--out: is a.parquet; expected a folder"),
        ({"frames": Path("a")}, "FRAMES: given with --slide"),
        ({"slide": "nowhere"}, "nowhere: no such file or folder"),
        ({"detector": "none"}, "--detector: none is no bundle, and no registered"),
        ({"detector": "models/mlp"}, "--detector: models/mlp is of kind tabular"),
        ({"model": "TYPO"}, "models:/histofuse-TYPO@production is not in the registry"),
        ({"patients": Path("p.csv")}, "--patients: given; expected nothing: the model reads no"),
        ({"slide": "models"}, r"models: no slides, but \d+ folders"),
        ({"report": Path("a.svs")}, "--report: a.svs is a file; expected a folder"),
        ({"model": "models/logistic_regression"}, "--model: is of kind tabular"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(project, arguments, said, places):
    write_slide("a.svs", draw_tissue(100, 100, places[:1]))
    Path("slides").mkdir()
    for name in ("a", "b"):
        shutil.copy("a.svs", f"slides/{name}.svs")
    with pytest.raises((InputError, RegistryError), match=said) as caught:
        ask(**{"slide": "slides", "out": "new/out"} | arguments)
    assert str(caught.value).count("--mpp: is 4") == ("mpp" in arguments)
    assert not Path("new").exists()


def test_a_detector_or_model_of_another_resolution_is_refused(project, places):
    write_slide("a.svs", draw_tissue(100, 100, places[:1]))
    set_resolution(Path("models/simple_cnn"), 8.0)
    with pytest.raises(InputError, match=r"has 0\.5 µm per pixel; expected 0\.25"):
        ask("a.svs")
    slides_module._load_model.cache_clear()
    set_resolution(Path("models/simple_cnn"), None)
    said = r"--model: models/simple_cnn does not say the resolution .* patches\.patch_um"
    with pytest.raises(InputError, match=said):
        ask("a.svs")


def test_a_fusion_model_takes_the_records_of_the_slides(project, places, monkeypatch):
    for name in ("a", "b"):
        write_slide(f"{name}.svs", draw_tissue(200, 200, places[:9]))
    slides_module._load_model.cache_clear()
    fusion, patients = prepare_fusion("a")
    Path("slides").mkdir()
    for name in ("a", "b"):
        Path(f"{name}.svs").rename(f"slides/{name}.svs")
    ask("slides", model=str(fusion), patients=patients)
    first, second = (pd.read_parquet(f"out/{name}/nuclei.parquet") for name in ("a", "b"))
    assert set(first["answered_by"]) == {"fusion"}
    assert set(second["answered_by"]) == {"image"}
