"""``histofuse predict`` on a small project: what the pipeline said, and every rule beside it."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn_patients import ENCODING, draw_bags, make_params
from matplotlib.colors import to_rgb
from PIL import Image

from histofuse.commands.prediction.predict import Request, predict
from histofuse.core.artifacts import digest_file, load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import BundleError, InputError
from histofuse.data.cutting import cut_windows
from histofuse.data.geojson import read_objects
from histofuse.evaluation.drawing import CLASS_COLOURS
from histofuse.models.backbones import load_image_model
from histofuse.patients.train import PatientCohort, train_patients
from histofuse.serving.predict import open_predictor
from histofuse.training.recorder import Recorder

WIDTH, HEIGHT = 96, 64
FEATURES = ["age_years", "metastatic", "albumin", "insurance"]


@pytest.fixture
def frames(small_project):
    """Three frames of two cases in BreCaHAD's layout, their points at the border included."""
    return make_frames(small_project.root / "incoming")


def make_frames(folder):
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "groundTruth").mkdir()
    points = [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.3, 0.8), (0.97, 0.1)]
    for name in ("Case_1-01", "Case_1-02", "Case_2-01"):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        tifffile.imwrite(folder / "images" / f"{name}.tif", pixels, photometric="rgb")
        truth = {"tumor": [{"x": x, "y": y} for x, y in points]}
        (folder / "groundTruth" / f"{name}.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture
def patients(small_project):
    """The first two patients of the cohort, and whose tissue the cases are."""
    table = pd.read_parquet("data/ehr/features.parquet").head(2)
    table.to_parquet("patients.parquet")
    pd.DataFrame({"case_id": ["Case_1"], "subject_id": table["subject_id"].head(1)}).to_csv(
        "crosswalk.csv", index=False
    )
    return Path("patients.parquet")


def ask(frames=None, model="models/simple_cnn", out="out.parquet", batch=4, **more):
    values = dict.fromkeys(("points", "patients", "crosswalk")) | more
    said = predict(Request(frames=frames, model=model, out=Path(out), batch=batch, **values))
    read = pd.read_parquet if out.endswith(".parquet") else pd.read_csv
    return said, read(out)


def cut(frames, name, xs, ys, side):
    patches = np.empty((len(xs), side, side, 3), np.uint8)
    frame = tifffile.imread(frames / "images" / f"{name}.tif")
    cut_windows(frame, np.asarray(xs), np.asarray(ys), patches)
    return patches


def turn_frames(frames, orientation):
    """Store all frames turned, so that their tag brings them back."""
    back = {3: lambda a: a[::-1, ::-1], 6: np.rot90}[orientation]
    for file in (frames / "images").iterdir():
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(file, back(tifffile.imread(file)), photometric="rgb", extratags=[tag])


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("named", ["option", "params"])
def test_dots_on_displayed_pixels_give_the_answers_of_upright_frames(frames, orientation, named):
    _, table = ask(frames)
    points = Path("points.csv")
    table[["frame_id", "x_px", "y_px"]].to_csv(points, index=False)
    turn_frames(frames, orientation)
    for given in (None, points):
        with pytest.raises(InputError) as caught:
            ask(frames, points=given)
        assert len(caught.value.faults) == 3
        assert "data.frames.orientation (predict: --orientation)" in str(caught.value)
    more = {"orientation": "displayed"}
    if named == "params":
        params = Path("params.yaml").read_text()
        Path("params.yaml").write_text(
            params.replace("orientation: refuse", "orientation: displayed")
        )
        more = {}
    for given in (None, points):
        _, again = ask(frames, points=given, **more)
        pd.testing.assert_frame_equal(again, table)


def test_frames_of_a_camera_of_twelve_bits_are_answered_as_those_of_eight(frames):
    _, table = ask(frames)
    for file in (frames / "images").iterdir():
        camera = (tifffile.imread(file).astype(np.uint32) * 4095 + 127) // 255
        tifffile.imwrite(file, camera.astype(np.uint16), photometric="rgb")
    with pytest.raises(InputError, match=r"of which 12 are used.*predict: --bits"):
        ask(frames)
    _, again = ask(frames, bits=12)
    pd.testing.assert_frame_equal(again, table)


def test_every_nucleus_is_answered_as_the_served_model_answers_its_patch(frames):
    said, table = ask(frames)
    assert len(table) == 15
    assert "15 nuclei of 3 frames" in said
    predictor = open_predictor(Path("models/simple_cnn"))
    spec = predictor.model.spec
    columns = [c for c in table.columns if c.startswith("probability_")]
    for name, rows in table.groupby("frame_id"):
        side = spec.patch_px + 2 * spec.margin_px
        alone = predictor.predict(cut(frames, name, rows["x_px"], rows["y_px"], side))
        np.testing.assert_allclose(rows[columns], alone[columns], atol=1e-6)
        assert rows["prediction"].tolist() == alone["prediction"].tolist()
    assert list(table.columns[:4]) == ["case_id", "frame_id", "x_px", "y_px"]


def test_batches_make_no_difference(frames):
    _, few = ask(frames, batch=2)
    _, many = ask(frames, batch=256)
    pd.testing.assert_frame_equal(few, many, rtol=0, atol=1e-6)


def test_fusion_uses_the_record_if_there_is_one(frames, patients):
    said, table = ask(
        frames, "models/fusion_label_blind", patients=patients, crosswalk=Path("crosswalk.csv")
    )
    by = table.groupby("case_id")["answered_by"].unique().map(list).to_dict()
    assert by == {"Case_1": ["fusion"], "Case_2": ["image"]}
    assert "1 of 2 cases without a record, answered by the image alone" in said
    _, alone = ask(frames)
    columns = [c for c in alone.columns if c.startswith("probability_")]
    second = (table["case_id"] == "Case_2").to_numpy()
    np.testing.assert_allclose(table.loc[second, columns], alone.loc[second, columns], atol=1e-6)

    record = pd.read_parquet(patients).iloc[[0] * 10][FEATURES].reset_index(drop=True)
    predictor = open_predictor(Path("models/fusion_label_blind"))
    spec = predictor.image.model.spec
    side = spec.patch_px + 2 * spec.margin_px
    rows = table[~second]
    patches = np.concatenate(
        [cut(frames, n, r["x_px"], r["y_px"], side) for n, r in rows.groupby("frame_id")]
    )
    served = predictor.predict({"image": patches, "patient": record})
    np.testing.assert_allclose(rows[columns], served[columns], atol=1e-6)
    assert set(rows["embedding_version"]) == set(served["embedding_version"])


def name_bundle(model):
    return f"{model} ({open_bundle(Path('models') / model).digest[:12]})"


@pytest.mark.parametrize("out", ["out.parquet", "out.csv"])
def test_the_file_and_the_screen_name_the_model_and_its_data(frames, patients, out):
    for model, given in (("mlp", None), ("simple_cnn", frames), ("fusion_label_blind", frames)):
        said, table = ask(given, f"models/{model}", out, patients=None if given else patients)
        assert set(table["model"]) == {name_bundle(model)}
        assert set(table["trained_on"]) == {"simulated"}
        assert f"model: {name_bundle(model)}, trained on simulated data" in said


def test_a_model_of_simulated_data_is_warned_of_unless_the_input_is_simulated(frames, patients):
    assert "WARNING: the model was trained on simulated data" in ask(frames)[0]
    (frames / "SIMULATED.json").write_text("{}")
    assert "WARNING: the model was" not in ask(frames)[0]
    own = Path("data/ehr/features.parquet")
    assert "WARNING" not in ask(model="models/mlp", patients=own)[0]
    assert "WARNING" in ask(model="models/mlp", patients=patients)[0]


def test_a_fusion_model_of_a_simulated_and_a_restricted_encoder_is_warned_of(frames):
    reseal("models/simple_cnn", source="restricted")
    reseal("models/fusion_label_blind", source="restricted", encoder="models/simple_cnn")
    said, table = ask(frames, "models/fusion_label_blind")
    assert set(table["trained_on"]) == {"restricted + simulated"}
    assert "WARNING" in said


def test_a_registered_model_is_named_with_its_version(published):
    frames = make_frames(published.root / "incoming")
    said, table = ask(frames, "models:/histofuse-simple-cnn/1")
    digest = open_bundle(Path("models/simple_cnn")).digest
    assert set(table["model"]) == {f"histofuse-simple-cnn {digest[:12]} (version 1)"}
    assert f"model: histofuse-simple-cnn {digest[:12]} (version 1)" in said


def test_fusion_without_patients_is_the_image_model(frames):
    _, table = ask(frames, "models/fusion_label_blind")
    assert set(table["answered_by"]) == {"image"}


def test_patients_may_name_their_case_and_idle_ones_are_counted(frames, patients):
    pd.read_parquet(patients).assign(case_id=["Case_2", "Case_9"]).to_csv("p.csv", index=False)
    said, table = ask(frames, "models/fusion_label_blind", patients=Path("p.csv"))
    assert set(table.loc[table["answered_by"] == "fusion", "case_id"]) == {"Case_2"}
    assert "1 record without a frame, not answered (such as Case_9; a frame without a" in said


def test_points_may_come_as_a_table_and_frames_in_any_folder(frames):
    Path("points.csv").write_text("frame_id,x_px,y_px\nCase_2-01,10,20\nCase_1-01,48,32\n")
    said, table = ask(frames / "images", points=Path("points.csv"), out="out.csv")
    assert table["frame_id"].tolist() == ["Case_1-01", "Case_2-01"]
    assert "2 nuclei of 2 frames" in said
    _, whole = ask(frames)
    middle = whole[(whole["frame_id"] == "Case_1-01") & (whole["x_px"] == 48)]
    columns = [c for c in table.columns if c.startswith("probability_")]
    np.testing.assert_allclose(table.loc[[0], columns], middle[columns], atol=1e-6)


def test_frames_without_points_and_pictures_of_other_kinds_are_said_to_be_left_out(frames, capsys):
    Path("points.csv").write_text("frame_id,x_px,y_px\nCase_1-01,48,32\n")
    (frames / "images/Case_3-01.svs").touch()
    ask(frames / "images", points=Path("points.csv"))
    said = "".join(capsys.readouterr())
    assert "2 frames without points, left out: Case_1-02, Case_2-01" in said
    assert "1 .svs file left out: no frames" in said


def test_health_records_alone_go_through_a_tabular_model(small_project):
    features = pd.read_parquet("data/ehr/features.parquet")
    said, table = ask(model="models/mlp", patients=Path("data/ehr/features.parquet"))
    assert f"{len(features)} records" in said
    stored = pd.read_parquet("models/mlp/predictions.parquet").set_index(["subject_id", "hadm_id"])
    mine = table.set_index(["subject_id", "hadm_id"])["probability_mortality_1y"]
    np.testing.assert_allclose(mine, stored.loc[mine.index, "probability"], atol=1e-6)


def test_what_is_not_used_of_a_table_is_counted_and_said_in_its_row(small_project):
    features = pd.read_parquet("data/ehr/features.parquet").head(3)
    odd = features.assign(
        albumin=[41.0, 3.5, np.inf],
        age_years=[22_645.0, 50.0, 60.0],
        insurance=["MEDICARE", "Tricare", None],
    )
    odd.to_parquet("odd.parquet")
    said, table = ask(model="models/mlp", patients=Path("odd.parquet"))
    assert "not used: 1 age_years outside 0 to 120 years" in said
    assert "2 albumin outside 0.3 to 8 g/dL, 1 insurance unknown to the model" in said
    assert table["warnings"].tolist() == [
        "age_years 22645.0 is outside its range, taken as missing; "
        "albumin 41.0 is outside its range, taken as missing",
        "insurance 'Tricare' is unknown to the model",
        "albumin inf is outside its range, taken as missing",
    ]
    missing = odd.assign(albumin=[None, 3.5, None], age_years=[None, 50.0, 60.0])
    missing.to_parquet("missing.parquet")
    _, plain = ask(model="models/mlp", patients=Path("missing.parquet"))
    columns = [c for c in table if c.startswith("probability")]
    pd.testing.assert_frame_equal(table[columns], plain[columns])


def test_fusion_says_what_it_does_not_use_of_a_record(frames, patients):
    pd.read_parquet(patients).assign(albumin=41.0, insurance="Tricare").to_parquet("p.parquet")
    said, table = ask(
        frames,
        "models/fusion_label_blind",
        patients=Path("p.parquet"),
        crosswalk=Path("crosswalk.csv"),
    )
    assert "not used: 1 albumin outside 0.3 to 8 g/dL, 1 insurance unknown to the model" in said
    warned = table.groupby("case_id")["warnings"].unique().map(list).to_dict()
    assert warned["Case_2"] == [""]
    assert warned["Case_1"] == [
        "albumin 41.0 is outside its range, taken as missing; "
        "insurance 'Tricare' is unknown to the model"
    ]


def test_text_among_the_numbers_of_a_csv_is_named_by_itself(small_project):
    features = pd.read_parquet("data/ehr/features.parquet").head(3)
    features.assign(albumin=["3.5", ">4", "4.1"]).to_csv("p.csv", index=False)
    with pytest.raises(InputError, match=r"p\.csv, row 1, albumin: is '>4'; expected a finite"):
        ask(model="models/mlp", patients=Path("p.csv"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace(b",", b";"), "Separate the columns with commas"),
        (lambda text: text.partition(b"\n")[0] + b"\n", r"p\.csv: no rows"),
        (lambda text: b"", r"p\.csv: .*empty"),
        (lambda text: text.replace(b"Other", b"M\xfcll", 1), r"p\.csv, line \d+: is not UTF-8"),
        (lambda text: text + b"1,2,3,4,5,6,7\n", r"p\.csv, line 42: 7 cells under 6 columns"),
    ],
)
def test_a_table_of_patients_that_is_none_is_refused_by_name(small_project, change, problem):
    features = pd.read_parquet("data/ehr/features.parquet").head(40)
    Path("p.csv").write_bytes(change(features.to_csv(index=False).encode()))
    with pytest.raises(InputError, match=problem):
        ask(model="models/mlp", patients=Path("p.csv"))


def test_blank_lines_and_patients_without_an_id_are_read(small_project):
    features = pd.read_parquet("data/ehr/features.parquet").head(3)
    lines = features.to_csv(index=False).splitlines()
    lines[2] = lines[2].removeprefix(str(features["subject_id"][1]))
    Path("p.csv").write_text("\n\n".join(lines) + "\n\n")
    _, table = ask(model="models/mlp", patients=Path("p.csv"))
    assert table["subject_id"].isna().tolist() == [False, True, False]


def test_what_is_known_of_no_patient_is_said(small_project):
    features = pd.read_parquet("data/ehr/features.parquet").head(3)
    features.assign(albumin=None).to_csv("p.csv", index=False)
    said, _ = ask(model="models/mlp", patients=Path("p.csv"))
    assert "known of no record: albumin" in said
    features.assign(albumin=None, age_years=None, metastatic=None, insurance=None).to_csv("q.csv")
    _, table = ask(model="models/mlp", patients=Path("q.csv"))
    assert set(table["warnings"]) == {"nothing of the record is known"}


def test_points_given_as_fractions_are_refused(frames):
    rows = [f"Case_1-01,{x / 10},{x / 20}" for x in range(1, 10)]
    Path("points.csv").write_text("\n".join(["frame_id,x_px,y_px", *rows]))
    with pytest.raises(InputError, match=r"points\.csv: all 9 points .*fractions"):
        ask(frames, points=Path("points.csv"))


@pytest.mark.parametrize("layout", ["bare", "images only"])
def test_a_folder_of_images_without_points_is_told_how_to_give_them(frames, layout):
    shutil.rmtree(frames / "groundTruth")
    with pytest.raises(InputError) as caught:
        ask(frames / "images" if layout == "bare" else frames)
    said = str(caught.value)
    assert "3 frames, and no points of nuclei; expected --points FILE" in said
    assert "FILE is a CSV of frame_id,x_px,y_px" in said
    assert "fetch" not in said


def test_a_folder_of_other_images_is_told_what_it_holds(frames):
    for file in (frames / "images").iterdir():
        file.rename(file.with_suffix(".png"))
    with pytest.raises(InputError, match=r"no frames, but 3 \.png files; expected <frame>\.tif"):
        ask(frames)


def test_classes_are_counted_by_frame_and_case_on_the_screen(frames, monkeypatch):
    said, table = ask(frames)
    classes = [c.removeprefix("probability_") for c in table if c.startswith("probability_")]
    lines = [line.split() for line in said.splitlines()]
    assert ["case", "frame"] in lines
    for keys, name in ((["frame_id"], "Case_1-02"), (["case_id"], "Case_1")):
        rows = table[table[keys[0]] == name]
        counts = [str((rows["prediction"] == c).sum()) for c in classes]
        key = "all" if keys == ["case_id"] else name
        *_, a, b, c, distance = next(line for line in lines if key in line)
        assert [a, b, c] == counts
        assert float(distance) == pytest.approx(rows["distance"].median(), abs=1e-3)
    monkeypatch.setattr("histofuse.commands.prediction.predict._MOST_FRAMES", 2)
    assert "Case_1-02" not in ask(frames)[0]


def test_frames_unlike_the_training_patches_are_said(frames):
    said, table = ask(frames)  # frames of noise
    medians = table.groupby("frame_id")["distance"].median()
    assert (medians > 1).all()
    expected = "3 of 3 frames unlike the training patches, by a median distance above 1"
    assert f"WARNING: {expected}" in said
    assert f"at most {medians.max():.1f} ({medians.idxmax()})" in said


def test_an_overlay_shows_a_dot_of_its_class_at_each_nucleus(frames):
    _, table = ask(frames, overlay=Path("drawn"))
    assert sorted(p.name for p in Path("drawn").iterdir()) == [
        f"{name}.png" for name in ("Case_1-01", "Case_1-02", "Case_2-01")
    ]
    classes = [c.removeprefix("probability_") for c in table if c.startswith("probability_")]
    drawn = np.asarray(Image.open("drawn/Case_1-02.png").convert("RGB"))
    assert drawn.shape[:2] == (HEIGHT + 64, WIDTH)
    inside = table[(table["frame_id"] == "Case_1-02") & table["x_px"].between(20, 60)]
    for row in inside.itertuples():
        colour = to_rgb(CLASS_COLOURS[classes.index(row.prediction)])
        assert np.abs(drawn[int(row.y_px), int(row.x_px)] / 255 - colour).max() < 0.02
    Path("file").write_text("")
    with pytest.raises(InputError, match="--overlay: file is a file; expected a folder"):
        ask(frames, overlay=Path("file"))
    with pytest.raises(InputError, match="FRAMES: nothing; expected a folder of frames"):
        ask(model="models/simple_cnn", overlay=Path("d"))


@pytest.mark.parametrize("option", ["overlay", "geojson", "report"])
def test_a_model_of_records_draws_nothing(frames, patients, option):
    with pytest.raises(InputError, match=f"--{option}: given; .* answers about records"):
        ask(frames, model="models/mlp", patients=patients, **{option: Path("d")})


def test_answers_open_in_qupath_and_come_back_as_points(frames):
    _, answer = ask(frames, geojson=Path("out"))
    _, again = ask(frames / "images", points=Path("out"))
    names = ["case_id", "frame_id", "x_px", "y_px", "prediction"]
    pd.testing.assert_frame_equal(again[names], answer[names], atol=0.01)
    objects = read_objects(Path("out") / "Case_1-01.geojson").table
    first = answer[answer["frame_id"] == "Case_1-01"]
    assert objects["measurements"].map(lambda m: m["Probability: mitosis"]).tolist() == (
        pytest.approx(first["probability_mitosis"].tolist(), abs=1e-5)
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("Case_1-01,60,90\nCase_1-01,5,70\n", "With x and y exchanged all points lie inside."),
        ("Case_1-01,,20\n", "line 2, x_px: is empty; expected a number from 0 to 96"),
        ("Case_1-01,500,20\n" * 50, "points: 30 more such x_px; expected places inside"),
        ("Case_1-01.tif,5,20\n", "expected the name of a frame, such as 'Case_1-01'"),
    ],
)
def test_points_that_cannot_be_are_explained(frames, rows, said):
    Path("points.csv").write_text(f"frame_id,x_px,y_px\n{rows}")
    with pytest.raises(InputError, match=re.escape(said)):
        ask(frames, points=Path("points.csv"))


def test_points_named_after_another_picture_are_said_to_be_taken_for_the_only_one(frames, capsys):
    for name in ("Case_1-02", "Case_2-01"):
        (frames / "images" / f"{name}.tif").unlink()
    _, answer = ask(frames / "images", points=write_point("Case_7-07.geojson"))
    assert set(answer["frame_id"]) == {"Case_1-01"}
    assert "Case_7-07.geojson: taken for Case_1-01, the only frame" in capsys.readouterr().err


def write_point(name):
    point = {"type": "Point", "coordinates": [20, 30]}
    Path(name).write_text(json.dumps({"type": "Feature", "geometry": point, "properties": {}}))
    return Path(name)


def test_a_folder_of_folders_is_said_to_be_one(small_project):
    Path("above/frames").mkdir(parents=True)
    with pytest.raises(InputError, match="above: no frames, but 1 folder; expected"):
        ask(Path("above"))


def test_all_faults_of_points_are_listed_at_once(frames):
    Path("points.csv").write_text(
        "frame_id,x_px,y_px\nCase_1-01,10,20\nCase_1-01,97,20\nCase_1-01,x,20\nCase_7-01,1,1\n"
    )
    with pytest.raises(InputError) as caught:
        ask(frames, points=Path("points.csv"))
    said = str(caught.value)
    assert "line 3, x_px: is 97; expected a number from 0 to 96" in said
    assert "line 4, x_px: is x" in said
    assert "unknown frame_id 'Case_7-01'" in said
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"out": "out.xlsx"}, r"--out: is out\.xlsx"),
        ({"out": "a_folder.csv"}, r"--out: a_folder\.csv is a folder; expected a file"),
        ({"frames": None}, "FRAMES: nothing"),
        ({"frames": Path("params.yaml")}, r"params\.yaml: is a file; .* of a slide, --slide"),
        ({"model": "models/mlp"}, "--patients: nothing"),
        (
            {"frames": None, "model": "models/mlp", "patients": Path("none.csv")},
            r"none\.csv: no such file",
        ),
        ({"frames": Path("nowhere")}, "no such folder"),
        ({"points": Path("none.csv")}, r"none\.csv: no such file"),
        ({"frames": None, "model": "models/mlp", "patients": Path("data")}, "data: is a folder"),
    ],
)
def test_missing_inputs_are_named(frames, arguments, said):
    Path("a_folder.csv").mkdir()
    with pytest.raises(InputError, match=said):
        ask(**{"frames": frames, **arguments})


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"detector": "nope"}, ["--detector"]),
        ({"detector": "nope", "points": Path("points.csv")}, ["--detector"]),
        ({"mpp": 0.5}, ["--mpp"]),
        ({"patients": Path("p.csv"), "crosswalk": Path("c.csv")}, ["--patients", "--crosswalk"]),
        ({"model": "models/fusion_label_blind", "crosswalk": Path("c.csv")}, ["--crosswalk"]),
        ({"engine": "tcp://host:8786"}, ["--engine"]),
        (
            {"model": "models/mlp", "patients": Path("p.csv"), "points": Path("a"), "bits": 12},
            ["FRAMES", "--points", "--bits"],
        ),
    ],
)
def test_options_that_are_not_read_are_refused(frames, arguments, options):
    with pytest.raises(InputError) as caught:
        ask(**{"frames": frames, **arguments})
    assert sorted(fault.where for fault in caught.value.faults) == sorted(options)
    assert all(f.problem == "given" for f in caught.value.faults)
    assert not Path("out.parquet").exists()


def test_a_failed_prediction_leaves_no_folder(frames):
    reseal("models/simple_cnn", stain_normalisation=None)
    with pytest.raises(BundleError, match=r"simple_cnn \(\w{12}\): config\.json has no stain"):
        ask(frames, out="new/folder/out.csv")
    assert not Path("new").exists()


def test_patients_must_name_each_case_once(frames, patients):
    model = "models/fusion_label_blind"
    with pytest.raises(InputError, match="no column 'case_id'"):
        ask(frames, model, patients=patients)
    pd.read_parquet(patients).assign(case_id="Case_1").to_parquet("twice.parquet")
    with pytest.raises(InputError, match="several records for case 'Case_1'"):
        ask(frames, model, patients=Path("twice.parquet"))


def test_the_answer_names_the_patient_of_each_nucleus(frames, patients):
    _, table = ask(
        frames, "models/fusion_label_blind", patients=patients, crosswalk=Path("crosswalk.csv")
    )
    subject = pd.read_parquet(patients)["subject_id"].iloc[0]
    of_case = table.groupby("case_id")["subject_id"]
    assert of_case.get_group("Case_1").eq(subject).all()
    assert of_case.get_group("Case_2").isna().all()


def test_a_crosswalk_may_name_the_admission_of_some_cases_only(frames, patients):
    first, second = pd.read_parquet(patients)[["subject_id", "hadm_id"]].to_numpy()
    Path("some.csv").write_text(
        f"case_id,subject_id,hadm_id\nCase_1,{first[0]},{first[1]}\nCase_2,{second[0]},\n"
    )
    _, table = ask(
        frames, "models/fusion_label_blind", patients=patients, crosswalk=Path("some.csv")
    )
    assert set(table["answered_by"]) == {"fusion"}
    hadm = table.groupby("case_id")["hadm_id"].first()
    assert hadm.to_dict() == {"Case_1": first[1], "Case_2": second[1]}


def test_ids_of_patients_may_be_text(frames, patients):
    table = pd.read_parquet(patients).drop(columns="hadm_id")
    table.assign(subject_id=["TCGA-A1", "TCGA-B2"]).to_csv("named.csv", index=False)
    Path("links.csv").write_text("case_id,subject_id\nCase_1,tcga a1\n")
    more = {"patients": Path("named.csv"), "crosswalk": Path("links.csv")}
    _, answer = ask(frames, "models/fusion_label_blind", **more)
    of_case = answer.groupby("case_id")["subject_id"]
    assert of_case.get_group("Case_1").eq("TCGA-A1").all()
    assert of_case.get_group("Case_2").isna().all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case_id,subject_id,hadm_id\n", "no rows"),
        ("case_id\nCase_1\n", "no column 'subject_id'"),
        ("case_id,subject_id\nCase_1,abc\n", "line 2, subject_id: is 'abc'"),
        ("case_id,subject_id\nCase_1,1\nCase_1,2\n", "line 3: case_id 'Case_1' again"),
    ],
)
def test_a_crosswalk_that_links_nothing_is_refused(frames, patients, text, said):
    Path("bad.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        ask(frames, "models/fusion_label_blind", patients=patients, crosswalk=Path("bad.csv"))


def test_cases_frames_and_patients_are_compared_as_what_they_mean(frames, patients):
    model = "models/fusion_label_blind"
    _, table = ask(frames, model, patients=patients, crosswalk=Path("crosswalk.csv"))
    subject = pd.read_parquet(patients)["subject_id"].iloc[0]
    Path("spelt.csv").write_text(f"\ufeffSubject_ID,case_id\r\n0{subject}.0,CASE 01")
    rows = table[["frame_id", "x_px", "y_px"]].assign(
        frame_id=table["frame_id"].str.replace("Case_1-0", "case-001-").add(" ")
    )
    pd.concat([rows, rows.head(1)]).to_csv("points.csv", index=False)
    pd.read_parquet(patients).astype({"subject_id": float}).to_csv("p.csv", index=False)
    more = {"points": Path("points.csv"), "crosswalk": Path("spelt.csv")}
    _, spelt = ask(frames, model, patients=Path("p.csv"), **more)
    pd.testing.assert_frame_equal(spelt, table)


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace(",,", ",NULL,").replace(",,", ", n/a ,"),
        lambda text: text.replace(",", " , "),
    ],
)
def test_a_csv_of_patients_is_read_whatever_wrote_it(small_project, spell):
    features = pd.read_parquet("data/ehr/features.parquet").head(20)
    features.loc[3, ["albumin", "insurance"]] = None
    features.to_parquet("p.parquet")
    _, table = ask(model="models/mlp", patients=Path("p.parquet"))
    text = features.astype({"subject_id": float}).to_csv(index=False)
    Path("p.csv").write_text(spell(text), newline="")
    _, again = ask(model="models/mlp", patients=Path("p.csv"))
    pd.testing.assert_frame_equal(again, table)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("subject_id,age_years\n1,2\n".encode("utf-16"), "is UTF-16 text"),
        (b"subject_id,age_years,age_years\n1,2,3\n", "column 'age_years' more than once"),
        (b"", "no column|cannot be read"),
    ],
)
def test_a_csv_of_patients_that_cannot_be_read_says_why(small_project, raw, said):
    Path("p.csv").write_bytes(raw)
    with pytest.raises(InputError, match=said):
        ask(model="models/mlp", patients=Path("p.csv"))


def test_two_spellings_of_a_case_are_two_records_of_it(frames, patients):
    names = ["Case_1", "case_01"]
    pd.read_parquet(patients).assign(case_id=names).to_parquet("twice.parquet")
    with pytest.raises(InputError, match="several records for case 'case_01'"):
        ask(frames, "models/fusion_label_blind", patients=Path("twice.parquet"))


def test_two_files_of_one_frame_are_refused(frames):
    image = frames / "images" / "Case_2-01.tif"
    (frames / "images" / "case_2-1.tiff").write_bytes(image.read_bytes())
    Path("points.csv").write_text("frame_id,x_px,y_px\nCase_2-01,10,20\n")
    with pytest.raises(InputError, match=r"case_2-1.tiff: the same frame as Case_2-01.tif"):
        ask(frames, points=Path("points.csv"))


def test_a_case_named_by_a_number_keeps_its_zero(frames, patients):
    (frames / "images" / "Case_2-01.tif").rename(frames / "images" / "07-01.tif")
    Path("points.csv").write_text("frame_id,x_px,y_px\n07-01,10,20\n")
    pd.read_parquet(patients).head(1).assign(case_id="07").to_csv("p.csv", index=False)
    _, table = ask(
        frames, "models/fusion_label_blind", points=Path("points.csv"), patients=Path("p.csv")
    )
    assert table["answered_by"].tolist() == ["fusion"]


def test_health_records_known_by_their_case_keep_its_name(small_project):
    features = pd.read_parquet("data/ehr/features.parquet").head(3)
    features = features.drop(columns=["subject_id", "hadm_id"])
    features.assign(case_id=["a", "b", "c"]).to_parquet("p.parquet")
    _, table = ask(model="models/mlp", patients=Path("p.parquet"))
    assert table["case_id"].tolist() == ["a", "b", "c"]


def test_a_frame_that_cannot_be_decoded_leaves_no_file(frames):
    Path("points.csv").write_text("frame_id,x_px,y_px\nCase_1-01,10,20\nCase_2-01,5,5\n")
    whole = (frames / "images" / "Case_2-01.tif").read_bytes()
    (frames / "images" / "Case_2-01.tif").write_bytes(whole[:-500])
    with pytest.raises(InputError, match="Case_2-01"):
        ask(frames, points=Path("points.csv"), batch=1)
    assert not [p for p in Path.cwd().iterdir() if "out.parquet" in p.name]


def reseal(bundle, encoder=None, **changes):
    """Change the config of a bundle, None to leave a key out, and its manifest with it."""
    folder = Path(bundle)
    config = {**load_json(folder / "config.json"), **changes}
    if encoder is not None:
        config["encoders"]["image"]["digest"] = open_bundle(Path(encoder)).digest
    write_json({k: v for k, v in config.items() if v is not None}, folder / "config.json")
    manifest = load_json(folder / "manifest.json")
    manifest["files"]["config.json"] = digest_file(folder / "config.json")
    write_json(manifest, folder / "manifest.json")


def test_a_bundle_that_does_not_say_its_stains_is_refused(frames):
    reseal("models/simple_cnn", stain_normalisation=None)
    with pytest.raises(BundleError, match="stain_normalisation"):
        ask(frames)


RECORDS = {"age": [0.1, 0.2], "albumin": [1.0, None], "lactate": [0.0, 1.0], "sodium": [0, 1]}


@pytest.fixture
def train_patient_model(small_project, monkeypatch):
    """Trains a model at patient level on embeddings of the project's image model."""
    from histofuse.serving import predict as opening

    small_project.train_image()
    bundle = open_bundle(Path("models/simple_cnn"))
    drawn = draw_bags(200, dim=load_image_model(bundle).embedding_dim)
    facts = {"name": bundle.name, "registered": "histofuse-simple-cnn", "digest": bundle.digest}
    cohort = PatientCohort(drawn, "death", "simulated", {}, facts, "simulated")
    monkeypatch.setattr(opening, "_open_encoder", lambda *_: open_bundle(Path("models/simple_cnn")))

    def train(method, **changes):
        path, params = Path("models") / f"patient_{method}", make_params(method, **changes)
        train_patients(cohort, params, ENCODING, 1, Recorder(), path)
        return str(path)

    return train


@pytest.fixture
def patient_model(train_patient_model):
    return train_patient_model("early_logistic")


def write_records(path="records.parquet", cases=("case 1", "Case_9")):
    pd.DataFrame({"case_id": cases, **RECORDS}).to_parquet(path)
    return Path(path)


def test_patients_are_answered_a_case_each_by_what_is_known_of_them(frames, patient_model):
    said, table = ask(frames, patient_model, patients=write_records())

    assert table["case_id"].tolist() == ["Case_1", "Case_2", "Case_9"]
    assert table["answered_by"].tolist() == ["fusion", "image", "record"]
    assert table["nuclei"].tolist() == [10, 5, 0]
    assert "3 patients, 1 by fusion, 1 by image, 1 by record" in said
    _, alone = ask(None, patient_model, patients=Path("records.parquet"))
    assert alone["answered_by"].tolist() == ["record", "record"]
    by_case = alone.set_index("case_id")["probability_death"]
    assert by_case["Case_9"] == pytest.approx(table["probability_death"].iloc[2])


def test_all_cases_of_a_patient_form_one_bag(frames, patient_model):
    records = {"age": [0.1, 0.2], "albumin": [1.0, None], "lactate": [0.0, 1.0], "sodium": [0, 1]}
    pd.DataFrame({"subject_id": [7, 8], **records}).to_parquet("records.parquet")
    Path("links.csv").write_text("case_id,subject_id\nCase_1,7\ncase 2,7\nCase_9,8\n")

    files = {"patients": Path("records.parquet"), "crosswalk": Path("links.csv")}
    said, table = ask(frames, patient_model, **files)

    assert table["case_id"].tolist() == ["Case_1", "Case_2", "Case_9"]
    assert table["nuclei"].tolist() == [15, 15, 0]
    assert table["probability_death"].iloc[0] == table["probability_death"].iloc[1]
    assert "2 patients, 2 by fusion, 1 by record" in said


def test_a_model_of_patients_needs_frames_or_records(patient_model):
    with pytest.raises(InputError, match="FRAMES, a folder of frames, --patients"):
        ask(None, patient_model)


def read_pages(folder="pages"):
    return {page.stem: html.unescape(page.read_text("utf-8")) for page in Path(folder).iterdir()}


def read_rows(page):
    """Read the rows of a page's tables, by their first cell."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page)
    return {name: re.findall(r">([^<]*)</td>", cells) for name, cells in rows}


def test_the_page_of_a_patient_shows_what_carried_the_answer(frames, patient_model):
    _, table = ask(frames, patient_model, patients=write_records(), report=Path("pages"))

    pages = read_pages()
    assert set(pages) == {"Case_1", "Case_2", "Case_9"}
    both, image, record = (pages[f"Case_{n}"] for n in (1, 2, 9))
    for page, row in zip((both, image, record), table.itertuples(), strict=True):
        assert f"<dd>{row.probability_death:.3f}, calibrated</dd>" in page
        decided = row.prediction.replace("_", " ")
        side = "below" if decided == "no death" else "at or above"
        assert f"<dd>{decided}: {side} the threshold of " in page
        assert "The model was trained on simulated data." in page
        assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert [p.count('alt="Nucleus ') for p in (both, image, record)] == [10, 5, 0]
    assert [p.count("with a dot for each nucleus") for p in (both, image, record)] == [2, 1, 0]
    assert ["What the health record adds" in p for p in (both, image, record)] == [
        True,
        False,
        True,
    ]
    rows = read_rows(both)
    _, by_image = ask(frames, patient_model)
    assert rows["Image alone"][0] == f"{by_image['probability_death'].iloc[0]:.3f}"
    _, by_record = ask(None, patient_model, patients=Path("records.parquet"))
    by_record = by_record.set_index("case_id")["probability_death"]
    assert rows["Record alone"][0] == f"{by_record['case 1']:.3f}"
    assert rows["Image and record, the answer"][0] == f"{table['probability_death'].iloc[0]:.3f}"
    assert read_rows(image)["Record alone"] == ["–", "–", "not known"]
    assert rows["albumin"][0] == "1"


def test_the_nuclei_on_a_page_are_those_whose_loss_moves_the_answer_most(frames, patient_model):
    predictor = open_predictor(Path(patient_model))
    ask(frames, patient_model, report=Path("pages"))
    spec = predictor.image.model.spec
    _, places = ask(frames)
    places = places[places["case_id"] == "Case_1"]
    stored = np.concatenate(
        [
            cut(frames, name, rows["x_px"], rows["y_px"], spec.patch_px + 2 * spec.margin_px)
            for name, rows in places.groupby("frame_id", sort=False)
        ]
    )
    patient = pd.DataFrame({"image": [list(stored)]})

    changes = predictor.predict(patient, nucleus_changes=True)["nucleus_changes"].iloc[0]

    first = places.iloc[int(np.abs(changes).argmax())]
    largest = max(changes, key=abs)
    place = f"{first['frame_id']} at {first['x_px']:.0f}, {first['y_px']:.0f}"
    assert f'alt="Nucleus 1: {largest:+.3f} · {place}"' in read_pages()["Case_1"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("image", "Nothing of the record moves this answer."),
        ("record", "No nucleus moves this answer."),
        ("gated", "Attention adds up to 100 %; 10.00% each would be even."),
        ("early_xgboost", "Which nuclei moved the answer"),
    ],
)
def test_every_method_gets_a_page(frames, train_patient_model, method, said):
    short = {"gated": {"epochs": 2}, "early_xgboost": {"rounds": 20}}
    model = train_patient_model(method, **short.get(method, {}))

    ask(frames, model, patients=write_records(), report=Path("pages"))

    assert said in read_pages()["Case_1"]


def test_a_page_shows_a_sample_of_nuclei_that_the_model_reads(frames, train_patient_model):
    model = train_patient_model("gated", epochs=2, most_nuclei=4)

    ask(frames, model, report=Path("pages"))

    page = read_pages()["Case_1"]
    assert "The model reads an even sample of 4 of the 10 nuclei" in page
    assert page.count('alt="Nucleus ') == 4


@pytest.mark.parametrize("marked", [True, False])
def test_pages_with_records_are_their_owners_alone_unless_the_source_is_open(
    frames, patient_model, marked
):
    params = Path("params.yaml").read_text().replace("restricted: true", "restricted: false")
    Path("params.yaml").write_text(params)
    Path("cohort").mkdir()
    write_json({"source": "mimic-iv-demo" if marked else "restricted"}, Path("cohort/meta.json"))
    Path("ehr").mkdir()

    records = write_records("ehr/records.parquet")
    ask(frames, patient_model, patients=records, report=Path("pages"))

    modes = {page.stat().st_mode & 0o777 for page in Path("pages").iterdir()}
    assert modes == {0o644 if marked else 0o600}


@pytest.mark.parametrize("short", [True, False])
def test_a_case_that_cannot_name_a_file_is_refused_before_anything_is_written(patient_model, short):
    records = write_records(cases=("../up", "a\\b" if short else "a" * 201))

    with pytest.raises(InputError) as raised:
        ask(None, patient_model, patients=records, report=Path("pages"))

    assert len(raised.value.faults) == 2
    assert not Path("pages").exists()
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize("option", ["overlay", "geojson"])
def test_a_model_of_patients_draws_no_classes(frames, patient_model, option):
    with pytest.raises(InputError, match=f"--{option}: given; .* answers about patients"):
        ask(frames, patient_model, **{option: Path("d")})
