"""Annotated frames whose dots were written by QuPath, or as a table."""

import json

import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from histofuse.core.errors import InputError
from histofuse.data.annotations import read_annotations
from histofuse.data.images.pixels import UNKNOWN
from histofuse.data.points import read_points
from histofuse.params.data import ClassesParams, DataParams

CLASSES = ClassesParams.model_validate({"mitosis": ["mitosis"], "tumour": ["tumor"]})
NAMES = {"mitosis": ["Mitosis", "Mitotic figure"], "tumour": ["Tumor"]}
WIDTH, HEIGHT = 60, 40


def make_params(folder, annotations, names=None):
    return DataParams(
        brecahad=str(folder),
        annotations=annotations,
        class_names=names or NAMES,
        images_restricted=False,
        records={"kind": "mimiciv", "path": "none"},
        crosswalk="none",
        mpp="none",
        frames=UNKNOWN,
    )


def point(x, y, name=None):
    held = {"classification": {"name": name}} if name else {}
    geometry = {"type": "Point", "coordinates": [x, y]}
    return {"type": "Feature", "geometry": geometry, "properties": held}


@pytest.fixture
def folder(tmp_path):
    """Frames of two cases, without annotations."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "groundTruth").mkdir()
    for name in ("Case_1-01", "Case_2-01"):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", pixels, photometric="rgb")
    return tmp_path


def write_objects(folder, **objects):
    for name, features in objects.items():
        (folder / "groundTruth" / f"{name}-01.geojson").write_text(json.dumps(features))


def test_objects_of_qupath_become_annotations(folder):
    write_objects(
        folder,
        Case_1=[point(1, 2, "mitotic  FIGURE"), point(3, 4, "Tumor"), point(3, 4, "tumour")],
        Case_2=[point(5, 6, "Stroma"), point(60, 40, "Mitosis"), point(7, 8)],
    )
    data = read_annotations(make_params(folder, "geojson"), CLASSES)
    rows = data.annotations[["frame_id", "case_id", "x_px", "y_px", "label"]].to_numpy().tolist()
    assert rows == [
        ["Case_1-01", "Case_1", 1, 2, "mitosis"],
        ["Case_1-01", "Case_1", 3, 4, "tumour"],
        ["Case_2-01", "Case_2", 60, 40, "mitosis"],
    ]
    assert "2 objects of unknown classes left out: 1 Stroma, 1 no class" in data.notes
    assert "1 repeated annotation dropped" in data.notes


def test_a_table_gives_the_same_annotations(folder):
    text = "frame_id,x_px,y_px,class_name\ncase 1-1,1,2,Mitosis\nCase_2-01,3.5,4,tumour\n"
    (folder / "groundTruth" / "dots.csv").write_text(text)
    data = read_annotations(make_params(folder, "csv"), CLASSES)
    rows = data.annotations[["frame_id", "x_px", "y_px", "label"]].to_numpy().tolist()
    assert rows == [["Case_1-01", 1, 2, "mitosis"], ["Case_2-01", 3.5, 4, "tumour"]]


def test_files_named_as_scripts_of_qupath_name_them_are_read(folder):
    for name in ("Case_1-01.tif.geojson", "Case_2-01.tif.geojson"):
        (folder / "groundTruth" / name).write_text(json.dumps([point(1, 2, "Tumor")]))
    annotations = read_annotations(make_params(folder, "geojson"), CLASSES).annotations
    assert annotations["frame_id"].tolist() == ["Case_1-01", "Case_2-01"]


def test_leavings_of_file_managers_are_passed_over(folder):
    (folder / "groundTruth" / "._dots.csv").write_bytes(b"\0\5")
    dots = folder / "groundTruth" / "dots.CSV"
    dots.write_text("frame_id,x_px,y_px,class_name\nCase_1-01,1,2,Mitosis\n")
    assert len(read_annotations(make_params(folder, "csv"), CLASSES).annotations) == 1
    (folder / "images" / "._Case_1-01.tif").write_bytes(b"\0\5")
    read = read_points(folder / "images", folder / "groundTruth", CLASSES, UNKNOWN)
    assert read.table["frame_id"].tolist() == ["Case_1-01"]


def test_all_faults_are_listed_at_once(folder):
    square = [[[70, 10], [70, 20], [80, 20], [80, 10], [70, 10]]]
    outside = point(0, 0, "Tumor") | {"geometry": {"type": "Polygon", "coordinates": square}}
    write_objects(folder, Case_1=[point(1, 2, "Tumor"), outside], Case_2=[point(5, -0.5, "Tumor")])
    with pytest.raises(InputError) as caught:
        read_annotations(make_params(folder, "geojson"), CLASSES)
    said = str(caught.value)
    assert "Case_1-01.geojson, feature 2, x_px: is 75.00; expected a number from 0 to 60" in said
    assert "Case_2-01.geojson, feature 1, y_px: is -0.50; expected a number from 0 to 40" in said


def test_a_frame_without_a_file_and_the_reverse_are_named(folder):
    write_objects(folder, Case_1=[], Case_3=[])
    with pytest.raises(InputError) as caught:
        read_annotations(make_params(folder, "geojson"), CLASSES)
    assert "Case_2-01.tif: no annotation file; expected groundTruth/Case_2-01.geojson" in str(
        caught.value
    )
    assert "Case_3-01.geojson: no frame for it" in str(caught.value)


def test_objects_of_unknown_classes_alone_are_refused(folder):
    write_objects(folder, Case_1=[point(1, 2, "Stroma")], Case_2=[])
    with pytest.raises(InputError, match=r"none of a known class.*data\.class_names .*1 Stroma"):
        read_annotations(make_params(folder, "geojson"), CLASSES)


def test_a_name_belongs_to_one_class(folder):
    with pytest.raises(ValidationError, match="each name in one class only, but tumor"):
        make_params(folder, "geojson", {"mitosis": ["tumor"], "tumour": ["Tumor"]})


@pytest.mark.parametrize("name", ["Case_1-01.geojson", "Case_1-01.tif.json", "case 01-1.geojson"])
def test_points_to_predict_come_from_geojson(folder, name):
    (folder / "dots").mkdir()
    (folder / "dots" / name).write_text(json.dumps([point(2.25, 3), point(1, 2, "Stroma")]))
    for points in (folder / "dots", folder / "dots" / name):
        table = read_points(folder / "images", points, CLASSES, UNKNOWN).table
        assert table.to_numpy().tolist() == [
            ["Case_1", "Case_1-01", 2.25, 3],
            ["Case_1", "Case_1-01", 1, 2],
        ]
