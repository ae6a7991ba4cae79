"""Reading BreCaHAD, simulated and real."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histofuse.core.errors import InputError
from histofuse.core.tables import check_table
from histofuse.data.brecahad import ANNOTATIONS, FRAMES, identify_source, read_brecahad
from histofuse.data.images.pixels import UNKNOWN
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, DataParams, FrameParams

CLASSES = ClassesParams.model_validate(
    {"mitosis": ["mitosis"], "tumour": ["tumor"], "non_tumour": ["non_tumor"]}
)
EMPTY = {key: [] for key in ("mitosis", "non_mitosis", "apoptosis", "tumor", "non_tumor")}


def write_frame(folder: Path, frame: str, points: dict, shape=(20, 40), seed=0) -> np.ndarray:
    for part in ("images", "groundTruth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    tifffile.imwrite(folder / "images" / f"{frame}.tif", rgb, photometric="rgb")
    (folder / "groundTruth" / f"{frame}.json").write_text(json.dumps({**EMPTY, **points}))
    return rgb


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_brecahad(folder, CLASSES, UNKNOWN)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


def test_frames_and_annotations_by_value(tmp_path):
    write_frame(tmp_path, "Case_2-01", {"tumor": [{"x": 0, "y": 1}]}, shape=(10, 30), seed=1)
    points = {
        "tumor": [{"x": 0.5, "y": 0.25}, {"x": 0.25, "y": 0.5}],
        "mitosis": [{"x": 1.0, "y": 0.1}],
        "apoptosis": [{"x": 0.3, "y": 0.3}],
        "lumen": [{"x": 0.3, "y": 0.3}],
    }
    rgb = write_frame(tmp_path, "Case_10-03", points)

    data = read_brecahad(tmp_path, CLASSES, UNKNOWN)

    check_table(data.frames, FRAMES, "frames")
    check_table(data.annotations, ANNOTATIONS, "annotations")
    digest = hashlib.sha256(rgb.tobytes()).hexdigest()
    assert data.frames.values.tolist()[0] == [
        "Case_10-03", "Case_10", "images/Case_10-03.tif", 40, 20, digest,
    ]  # fmt: skip
    assert data.annotations.values.tolist() == [
        ["Case_10-03", "Case_10", 40.0, 2.0, "mitosis", "mitosis"],
        ["Case_10-03", "Case_10", 20.0, 5.0, "tumour", "tumor"],
        ["Case_10-03", "Case_10", 10.0, 10.0, "tumour", "tumor"],
        ["Case_2-01", "Case_2", 0.0, 10.0, "tumour", "tumor"],
    ]
    assert data.notes == []


def test_both_spellings_of_keys_mean_the_same(tmp_path):
    classes = ClassesParams.model_validate({"hole": ["tubule"], "solid": ["non_lumen", "tumor"]})
    for folder, hole, solid in (("a", "lumen", "non_lumen"), ("b", "tubule", "non_tubule")):
        points = {hole: [{"x": 0.5, "y": 0.5}], solid: [{"x": 0.1, "y": 0.1}]}
        write_frame(tmp_path / folder, "Case_1-01", points)
    a, b = (read_brecahad(tmp_path / f, classes, UNKNOWN).annotations for f in "ab")
    assert a.values.tolist() == b.values.tolist()
    assert list(a["source_key"]) == ["lumen", "non_lumen"]


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({}, "brecahad"),
        ({"annotations": "geojson"}, "published"),
        ({"images_restricted": True}, "restricted"),
        ({"annotations": "csv", "images_restricted": True}, "restricted"),
    ],
)
def test_the_source_of_frames_is_told_by_marker_and_params(tmp_path, changes, source):
    project = load_section(DataParams, "data", Path(__file__).parents[3] / "params.yaml")
    params = project.model_copy(
        update={"brecahad": str(tmp_path), "images_restricted": False} | changes
    )
    assert identify_source(params) == source
    (tmp_path / "SIMULATED.json").write_text("{}")
    assert identify_source(params) == "simulated"


def test_repeated_points_count_once_and_are_said(tmp_path):
    write_frame(tmp_path, "Case_1-01", {"tumor": [{"x": 0.5, "y": 0.5}] * 3})
    data = read_brecahad(tmp_path, CLASSES, UNKNOWN)
    assert len(data.annotations) == 1
    assert data.notes == ["2 repeated annotations dropped"]


def test_a_point_in_two_keys_of_a_class_counts_once_and_in_two_classes_is_said(tmp_path):
    folded = {"mitosis": ["mitosis"], "other": ["tumor", "apoptosis"]}
    points = [{"x": 0.5, "y": 0.5}]
    write_frame(tmp_path, "Case_1-01", dict.fromkeys(("mitosis", "tumor", "apoptosis"), points))
    data = read_brecahad(tmp_path, ClassesParams.model_validate(folded), UNKNOWN)
    assert data.annotations["label"].tolist() == ["mitosis", "other"]
    assert data.notes == [
        "1 repeated annotation dropped",
        "1 point in several classes, such as in Case_1-01 (mitosis, other)",
    ]


def test_a_key_twice_in_a_file_is_refused_by_name(tmp_path):
    write_frame(tmp_path, "Case_1-01", {})
    text = '{"tumor": [{"x": 0.1, "y": 0.1}], "mitosis": [], "tumor": [{"x": 0.2, "y": 0.2}]}'
    (tmp_path / "groundTruth" / "Case_1-01.json").write_text(text)
    (fault,) = faults_of(tmp_path)
    assert fault.startswith("groundTruth/Case_1-01.json: key 'tumor' more than once")


def test_spellings_of_a_case_are_one_case_and_said(tmp_path):
    point = {"tumor": [{"x": 0.5, "y": 0.5}]}
    for frame in ("Case_10-01", "case_10-02", "Case_010-03", "CASE 10-04", "Case-10-05"):
        write_frame(tmp_path, frame, point)
    write_frame(tmp_path, "Case_1-01", point)
    (tmp_path / "groundTruth/Case_10-01.json").rename(tmp_path / "groundTruth/case_010-1.json")
    data = read_brecahad(tmp_path, CLASSES, UNKNOWN)
    assert data.frames["case_id"].value_counts().to_dict() == {"CASE 10": 5, "Case_1": 1}
    assert data.annotations["case_id"].tolist() == data.frames["case_id"].tolist()
    (note,) = data.notes
    assert "one case in 5 spellings: 'CASE 10' (CASE 10-04.tif)" in note
    assert "'case_10' (case_10-02.tif)" in note


def test_spellings_of_a_frame_are_the_same_frame(tmp_path):
    point = {"tumor": [{"x": 0.5, "y": 0.5}]}
    for frame in ("Case_10-01", "case_10-1"):
        write_frame(tmp_path, frame, point)
    assert faults_of(tmp_path) == [
        f"{part}/case_10-1.{suffix}: the same frame as Case_10-01.{suffix}; "
        "expected one file per frame."
        for part, suffix in (("images", "tif"), ("groundTruth", "json"))
    ]


def test_changes_to_pixels_are_said(tmp_path):
    rgb = write_frame(tmp_path, "Case_1-01", {"tumor": [{"x": 0.5, "y": 0.5}]})
    rgba = np.concatenate((rgb, np.full_like(rgb[..., :1], 255)), axis=2)
    tifffile.imwrite(tmp_path / "images/Case_1-01.tif", rgba, photometric="rgb", extrasamples=[2])
    data = read_brecahad(tmp_path, CLASSES, UNKNOWN)
    assert data.notes == ["alpha dropped in 1 frame"]
    assert data.frames["pixels_sha256"][0] == hashlib.sha256(rgb.tobytes()).hexdigest()


def test_dots_of_a_turned_frame_lie_as_the_params_say(tmp_path):
    """A dot a quarter from the left and three quarters from the top of 40 x 20 stored pixels."""
    rgb = write_frame(tmp_path, "Case_1-01", {"tumor": [{"x": 0.25, "y": 0.75}]})
    file = tmp_path / "images/Case_1-01.tif"
    tifffile.imwrite(file, rgb, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    assert "Case_1-01.tif: has orientation 6" in faults_of(tmp_path)[0]
    placed = {}
    for orientation in ("stored", "displayed"):
        params = FrameParams(orientation=orientation, bits="file")
        data = read_brecahad(tmp_path, CLASSES, params)
        size = data.frames[["width_px", "height_px"]].iloc[0].tolist()
        placed[orientation] = (size, data.annotations[["x_px", "y_px"]].iloc[0].tolist())
    assert placed == {"stored": ([40, 20], [10.0, 15.0]), "displayed": ([20, 40], [5.0, 30.0])}


def test_leavings_of_file_managers_are_passed_over(tmp_path):
    write_frame(tmp_path, "Case_1-01", {"tumor": [{"x": 0.5, "y": 0.5}]})
    (tmp_path / "images" / "._Case_1-01.tif").write_bytes(b"\0")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"\0")
    assert len(read_brecahad(tmp_path, CLASSES, UNKNOWN).frames) == 1


def test_all_faults_of_all_frames_are_listed_at_once(tmp_path):
    good = {"tumor": [{"x": 0.5, "y": 0.5}]}
    for number in range(1, 8):
        write_frame(tmp_path, f"Case_1-0{number}", good)
    truth, images = tmp_path / "groundTruth", tmp_path / "images"
    (truth / "Case_1-01.json").write_text('{\n "tumor": [\n  {"x": 0.5 "y": 0.5}]}')
    (truth / "Case_1-02.json").write_text(
        json.dumps({"tumor": [{"x": 0.5, "y": 0.5}, {"x": 1.25, "y": -0.5}]})
    )
    (truth / "Case_1-03.json").unlink()
    (images / "Case_1-04.tif").unlink()
    (truth / "Case_1-05.json").write_text('{"tumour": []}')
    whole = (images / "Case_1-06.tif").read_bytes()
    (images / "Case_1-06.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(images / "Case_1-07.tif", np.zeros((9, 9), np.uint8))

    faults = faults_of(tmp_path)

    assert len(faults) == 8
    for start, content in (
        ("images/Case_1-03.tif: no annotation file", "groundTruth/Case_1-03.json"),
        ("groundTruth/Case_1-04.json: no frame for it", "images/Case_1-04.tif"),
        ("groundTruth/Case_1-01.json: not JSON", "delimiter: line 3"),
        ("groundTruth/Case_1-02.json, tumor[1].x: is 1.25", "[0, 1]"),
        ("groundTruth/Case_1-02.json, tumor[1].y: is -0.5", "[0, 1]"),
        ("groundTruth/Case_1-05.json: unknown key 'tumour'", "non_tumor, lumen, non_lumen, tubule"),
        ("images/Case_1-06.tif: c", "expected"),
        ("images/Case_1-07.tif: holds minisblack pixels", "RGB"),
    ):
        assert any(f.startswith(start) and content in f for f in faults), (start, faults)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds []"),
        ('{"tumor": {"x": 1}}', "tumor: is"),
        ('{"tumor": [[0.1, 0.2]]}', "tumor[0]: is [0.1, 0.2]"),
        ('{"tumor": [{"x": 0.1}]}', "tumor[0]: is"),
        ('{"tumor": [{"x": "0.1", "y": 0}]}', "tumor[0].x: is '0.1'"),
        ('{"tumor": [{"x": NaN, "y": 0}]}', "NaN is not a finite number"),
        ('{"tumor": [{"x": true, "y": 0}]}', "tumor[0].x: is True"),
        ('{"tumor": [{"x": 1.0000001, "y": 0}]}', "tumor[0].x: is 1.0000001"),
        (f'{{"tumor": [{{"x": 1{"0" * 400}, "y": 0}}]}}', f"tumor[0].x: is 1{'0' * 59}; expected"),
    ],
)
def test_malformed_points_are_named(text, message, tmp_path):
    write_frame(tmp_path, "Case_1-01", {})
    (tmp_path / "groundTruth" / "Case_1-01.json").write_text(text)
    (fault,) = faults_of(tmp_path)
    assert message in fault


def test_json_in_another_encoding_is_named(tmp_path):
    write_frame(tmp_path, "Case_1-01", {})
    (tmp_path / "groundTruth" / "Case_1-01.json").write_bytes(b'{"\xff": []}')
    assert "not UTF-8 text" in faults_of(tmp_path)[0]


def test_a_wrong_folder_says_how_to_mend_it(tmp_path):
    assert "histofuse fetch brecahad" in faults_of(tmp_path / "nowhere")[0]
    (tmp_path / "images").mkdir()
    (fault,) = faults_of(tmp_path)
    assert "no folder groundTruth/" in fault
    assert "data.brecahad in params.yaml" in fault
    (tmp_path / "groundTruth").mkdir()
    assert "no frames" in faults_of(tmp_path)[0]


def test_a_name_without_case_and_number_is_refused(tmp_path):
    for name in ("slide", "Case-10", "2020-01-15"):
        write_frame(tmp_path, name, {"tumor": [{"x": 0.5, "y": 0.5}]})
    assert len(faults_of(tmp_path)) == 6


def test_no_annotation_of_any_class_is_a_fault(tmp_path):
    write_frame(tmp_path, "Case_1-01", {"apoptosis": [{"x": 0.5, "y": 0.5}]})
    assert "no annotation of any class" in faults_of(tmp_path)[0]


@pytest.mark.real
def test_counts_on_the_real_frames(real_data):
    data = read_brecahad(real_data / "brecahad", CLASSES, UNKNOWN)
    counts = Counter(zip(data.annotations["case_id"], data.annotations["label"], strict=True))
    assert len(data.frames) == 27
    assert set(data.frames["width_px"]) == {1360}
    assert set(data.frames["height_px"]) == {1024}
    assert data.frames["pixels_sha256"].is_unique
    assert counts == {
        ("Case_10", "mitosis"): 12,
        ("Case_10", "tumour"): 1199,
        ("Case_10", "non_tumour"): 55,
        ("Case_11", "tumour"): 326,
        ("Case_11", "non_tumour"): 48,
        ("Case_12", "mitosis"): 47,
        ("Case_12", "tumour"): 1402,
        ("Case_12", "non_tumour"): 184,
    }


@pytest.mark.real
def test_the_authors_own_files_are_read(real_data, tmp_path):
    for name in ("Case_1-02", "Case_1-03"):
        write_frame(tmp_path, name, {}, shape=(1024, 1360))
        published = (real_data / "brecahad_schema" / f"{name}.json").read_bytes()
        (tmp_path / "groundTruth" / f"{name}.json").write_bytes(published)
    table = read_brecahad(tmp_path, CLASSES, UNKNOWN).annotations
    assert Counter(table["label"]) == {"mitosis": 4, "tumour": 288, "non_tumour": 16}
    first = table.iloc[0]
    assert (first["x_px"], first["y_px"]) == pytest.approx((562.832, 336.858), abs=1e-3)
