"""QuPath's GeoJSON in its dialects, and what is written for QuPath."""

import json

import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.data.geojson import make_nuclei, make_region, read_objects, write_features

COLOURS = {"mitosis": (213, 94, 0), "tumour": (0, 114, 178)}


def feature(kind="Point", coordinates=(3.5, 4.25), **properties):
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def read(content, folder):
    path = folder / "a.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return read_objects(path)


def square(left, top, side):
    right, bottom = left + side, top + side
    return [[left, top], [left, bottom], [right, bottom], [right, top], [left, top]]


@pytest.mark.parametrize(
    ("wrap"),
    [
        lambda one: one,
        lambda one: [one],
        lambda one: {"type": "FeatureCollection", "features": [one]},
    ],
)
@pytest.mark.parametrize(
    "properties",
    [
        {
            "classification": {"name": "Tumor", "colorRGB": -3670016},
            "measurements": [{"name": "Area", "value": 12.5}],
        },
        {
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "measurements": {"Area": 12.5},
        },
        {
            "classification": {"names": ["Tumor"]},
            "color": [200, 0, 0],
            "measurements": {"Area": 12.5},
        },
    ],
)
def test_all_dialects_say_the_same(wrap, properties, tmp_path):
    row = read(wrap(feature(**properties)), tmp_path).table.iloc[0]
    assert (row["x_px"], row["y_px"], row["class_name"]) == (3.5, 4.25, "Tumor")
    assert row["colour"] == (200, 0, 0)
    assert row["measurements"] == {"Area": 12.5}


def test_points_polygons_and_cells_become_points(tmp_path):
    far = 26_000.0
    hole = [square(far, far, 10), square(far + 5, far, 5)]
    cell = feature("Polygon", [square(0, 0, 100)], objectType="cell")
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": [square(10, 20, 4)]}
    found = read(
        [
            feature("MultiPoint", [[1, 2], [3, 4]]),
            feature("Polygon", [square(far, far, 10)]),
            feature("Polygon", hole),
            feature("MultiPolygon", [[square(0, 0, 2)], [square(8, 0, 2)]]),
            cell,
            feature("Polygon", [[[7, 8], [7, 8], [7, 8]]]),
        ],
        tmp_path,
    ).table
    expected = [
        (1, 2), (3, 4), (far + 5, far + 5),
        (far + (500 - 187.5) / 75, far + (500 - 62.5) / 75),
        (5, 1), (12, 22), (7, 8),
    ]  # fmt: skip
    assert found[["x_px", "y_px"]].to_numpy() == pytest.approx(np.array(expected))
    assert found["feature"].tolist() == [1, 1, 2, 3, 4, 5, 6]


def test_what_is_no_nucleus_is_counted(tmp_path):
    ignored = read(
        [
            feature("LineString", [[0, 0], [1, 1]]),
            feature("Polygon", [square(0, 0, 9)], objectType="tile"),
            feature("Polygon", [square(0, 0, 9)], classification={"name": "Ignore*"}),
            feature(),
        ],
        tmp_path,
    )
    assert ignored.ignored == {"LineString": 1, "tile": 1, "Ignore*": 1}
    assert len(ignored.table) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is JSON, but no GeoJSON"),
        ('{"mitosis": [{"x": 0.5, "y": 0.5}]}', "is JSON, but no GeoJSON"),
        ("not JSON", "not JSON"),
        ("[1]", "feature 1: is no Feature with a geometry"),
        ('[{"type": "Feature", "geometry": null}]', "feature 1: is no Feature"),
        ([feature("Point", ["3", "4"])], "coordinates that cannot be read"),
        ([feature("Polygon", [[[0, 0], [1]]])], "coordinates of a Polygon, in pixels"),
        ([feature(), feature("Point", None)], "feature 2: holds coordinates"),
        ([feature("MultiPolygon", [[]])], "coordinates that cannot be read"),
        ([feature("Point", [float("nan"), 1])], "coordinates that cannot be read"),
        ([{**feature(), "geometry": {"type": "Point"}}], "coordinates that cannot be read"),
        ([feature("point")], "geometry of type 'point'; expected one of Point"),
        ([{**feature(), "properties": "none"}], "is no Feature with a geometry and properties"),
        ([{**feature(), "nucleusGeometry": "none"}], "is no Feature with a geometry"),
    ],
)
def test_what_is_no_geojson_is_named(content, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read(content, tmp_path)


def test_measurements_that_qupath_could_not_take_are_read(tmp_path):
    measured = feature(measurements={"Nucleus: Area": 12.5, "Cell: OD std dev": float("nan")})
    row = read([measured], tmp_path).table.iloc[0]
    assert (row["x_px"], row["measurements"]["Nucleus: Area"]) == (3.5, 12.5)
    assert np.isnan(row["measurements"]["Cell: OD std dev"])


@pytest.mark.parametrize(
    "held",
    [{"names": ["Tumor", "Positive"]}, {"names": "Tumor: Positive"}, {"name": "Tumor: Positive"}],
)
def test_names_of_derived_classes_are_joined(held, tmp_path):
    found = read([feature(classification=held)], tmp_path).table
    assert found["class_name"].tolist() == ["Tumor: Positive"]


def test_nuclei_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"x_px": rng.uniform(0, 1e5, 50), "y_px": rng.uniform(0, 1e5, 50)})
    table["prediction"] = rng.choice(list(COLOURS), 50)
    table["probability_mitosis"] = rng.uniform(size=50)
    table["probability_tumour"] = 1 - table["probability_mitosis"]
    nuclei = list(make_nuclei(table, {"mitosis": ["Mitosis"]}, COLOURS, of="a"))
    spot = make_region(np.array(square(0.0, 0.0, 5.0)), "Hot spot", {"Mitoses": 3.0}, of="a")
    write_features([*nuclei, spot], tmp_path / "out.geojson")

    objects = read_objects(tmp_path / "out.geojson")
    back = objects.table
    assert objects.ignored == {"Region*": 1}
    assert np.abs(back[["x_px", "y_px"]] - table[["x_px", "y_px"]]).to_numpy().max() < 0.01
    names = table["prediction"].replace("mitosis", "Mitosis")
    assert back["class_name"].tolist() == names.tolist()
    assert back["colour"].tolist() == [COLOURS[name] for name in table["prediction"]]
    chances = [m["Probability: mitosis"] for m in back["measurements"]]
    assert chances == pytest.approx(table["probability_mitosis"].tolist(), abs=1e-6)
    content = json.loads((tmp_path / "out.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    assert {f["properties"]["objectType"] for f in content["features"]} == {
        "detection",
        "annotation",
    }
    assert len({f["id"] for f in content["features"]}) == 51


def test_files_of_qupath_are_read(real_data):
    counts = {
        path.name: (len(objects.table), objects.ignored.total())
        for path in sorted((real_data / "qupath").iterdir())
        if path.suffix in (".json", ".geojson")
        for objects in [read_objects(path)]
    }
    assert counts == {
        "qupath-brush.json": (1, 0),
        "qupath-ellipse.json": (1, 0),
        "qupath-line.json": (0, 1),
        "qupath-multipoint.json": (3, 0),
        "qupath-point.json": (1, 0),
        "qupath-polygon-cell-classified.json": (4, 0),
        "qupath-polygon.json": (1, 0),
        "qupath-polyline.json": (0, 1),
        "qupath-rectangle.json": (1, 0),
        "qupath-wand.json": (1, 0),
        "qupath05.geojson": (3, 0),
    }
    cells = read_objects(real_data / "qupath" / "qupath-polygon-cell-classified.json").table
    assert cells.iloc[0][["x_px", "y_px"]].tolist() == pytest.approx([17228.5, 20012], abs=0.01)
    assert cells.iloc[0]["class_name"] == "Cell"
    assert cells.iloc[0]["colour"] == (127, 220, 58)
    point = read_objects(real_data / "qupath" / "qupath-point.json").table.iloc[0]
    assert (point["x_px"], point["y_px"]) == (26833.53, 15424.94)
