import json
import shutil

import numpy as np
import pandas as pd
import pytest

from histofuse.core.bundle import open_bundle
from histofuse.core.errors import BundleError, RegistryError
from histofuse.serving.predict import open_predictor
from histofuse.tracking.interface import describe_interface
from histofuse.tracking.packaging import digest_package, stage_model
from histofuse.tracking.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store(f"sqlite:///{tmp_path}/mlflow.db")


def stage(made, store, folder, *, row_level=True):
    stage_model(made.bundle, store, folder, row_level=row_level)
    return folder


def load(folder):
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(folder))


def describe(folder):
    """Read a signature as whoever looks at the model in MLflow sees it."""
    from mlflow.models import Model

    signature = Model.load(str(folder)).signature
    assert signature.inputs is not None
    assert signature.outputs is not None
    params = signature.params.to_dict() if signature.params else []
    return (
        signature.inputs.input_names(),
        {spec.name: (str(spec.type), spec.required) for spec in signature.outputs.inputs},
        {param["name"]: (param["type"], param["default"]) for param in params},
    )


def test_a_registered_fusion_model_needs_neither_registry_nor_project(
    fusion, store, tmp_path, patches, patients
):
    expected = open_predictor(fusion.path, fusion.encoders).predict(
        {"image": patches, "patient": patients}
    )
    moved = stage(fusion, store, tmp_path / "saved").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "models")
    (tmp_path / "mlflow.db").unlink(missing_ok=True)

    answer = load(moved).predict(patients.assign(image=[*patches]))

    pd.testing.assert_frame_equal(answer, expected)
    assert not list(moved.rglob("*.pkl"))
    assert "torch==" in (moved / "requirements.txt").read_text()


def test_the_signature_names_what_goes_in_and_comes_out(fusion, image, tabular, store, tmp_path):
    probabilities = {
        f"probability_{c}": ("DataType.double", True) for c in fusion.bundle.config["classes"]
    }
    inputs, outputs, params = describe(stage(fusion, store, tmp_path / "fusion"))
    assert inputs == ["image", "age_years", "metastatic", "albumin", "insurance"]
    assert outputs == {
        **probabilities,
        "prediction": ("DataType.string", True),
        "prediction_set": ("DataType.string", True),
        "model": ("DataType.string", True),
        "trained_on": ("DataType.string", True),
        "distance": ("DataType.double", True),
        "answered_by": ("DataType.string", True),
        "embedding_version": ("DataType.string", True),
        "warnings": ("DataType.string", True),
        "gradcam": ("DataType.string", False),
        "shap": ("Map(str -> DataType.double)", False),
        "shap_base": ("DataType.double", False),
    }
    assert params == {"gradcam": ("boolean", False), "shap": ("boolean", False)}
    inputs, outputs, params = describe(stage(image, store, tmp_path / "image"))
    assert (inputs, [*params]) == (["image"], ["gradcam"])
    assert [*outputs] == [
        *probabilities,
        "prediction",
        "prediction_set",
        "model",
        "trained_on",
        "distance",
        "warnings",
        "gradcam",
    ]
    inputs, outputs, params = describe(stage(tabular, store, tmp_path / "tabular"))
    assert (inputs, [*params]) == (["age_years", "metastatic", "albumin", "insurance"], ["shap"])


@pytest.mark.parametrize("kind", ["fusion", "image", "tabular"])
def test_the_example_shows_no_patient_and_is_answered(request, kind, store, tmp_path, patients):
    folder = stage(request.getfixturevalue(kind), store, tmp_path / "saved")
    text = (folder / "serving_input_example.json").read_text()
    split = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    example = pd.DataFrame(**split["dataframe_split"])
    if kind != "image":
        typical = example[["age_years", "metastatic", "insurance"]].iloc[0].to_list()
        assert typical == [50.0, 0, "medicare"]
        assert not (patients["albumin"] == example["albumin"].iloc[0]).all()
    answer = load(folder).predict(example)
    inputs, outputs, _ = describe(folder)
    assert [*example] == inputs
    assert [*answer] == [name for name, (_, required) in outputs.items() if required]


def test_the_metadata_say_types_units_ranges_and_categories(fusion, store, tmp_path):
    from mlflow.models import Model

    metadata = Model.load(str(stage(fusion, store, tmp_path / "saved"))).metadata
    assert metadata is not None
    assert metadata["inputs"] == {
        "image": "the base64 of a PNG, JPEG or TIFF, or whole numbers of RGB, 64 x 64 px, "
        "or 96 x 96 px with its margin",
        "age_years": "a finite number from 0 to 120 years, or null",
        "metastatic": "0 or 1, or null",
        "albumin": "a finite number from 0.3 to 8 g/dL, or null",
        "insurance": "a text, or null; training had medicare, other",
    }


def test_what_the_signature_promises_is_what_comes(fusion, store, tmp_path, patches, patients):
    model = load(stage(fusion, store, tmp_path / "saved"))
    asked = {"gradcam": True, "shap": True}
    answer = model.predict(patients.assign(image=[*patches]), params=asked)
    assert {*answer} == {*describe(tmp_path / "saved")[1]}


def test_numbers_of_any_type_and_arrays_in_place_of_files(fusion, store, tmp_path, patches):
    model = load(stage(fusion, store, tmp_path / "saved"))
    rows = pd.DataFrame({"age_years": [61, 50], "metastatic": [0, 1], "albumin": [None, None]})
    rows = rows.assign(insurance=["Other", None], image=patches[:2].tolist())
    of_arrays = model.predict({"image": patches[:2], **rows.drop(columns="image").to_dict("list")})
    pd.testing.assert_frame_equal(model.predict(rows), of_arrays)
    assert rows["age_years"].dtype == np.int64


def test_row_level_files_are_left_out(fusion, store, tmp_path):
    (fusion.patient.path / "predictions.parquet").write_bytes(b"patients")
    with pytest.raises(BundleError):
        open_bundle(fusion.patient.path)  # it was no part of the bundle, and is now
    (fusion.patient.path / "predictions.parquet").unlink()
    folder = stage(fusion, store, tmp_path / "saved", row_level=False)
    assert not list(folder.rglob("*.parquet"))


def test_an_encoder_that_is_not_packaged_comes_from_the_registry(
    fusion, store, tmp_path, monkeypatch
):
    elsewhere = fusion.image.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match="histofuse-simple-cnn with digest"):
        stage(fusion, store, tmp_path / "saved")
    monkeypatch.setattr(store, "find_version", lambda name, digest: (name, digest))
    monkeypatch.setattr(
        store, "fetch", lambda version, artifact, target: shutil.copytree(elsewhere, target)
    )
    folder = stage(fusion, store, tmp_path / "saved")
    found = open_bundle(folder / "artifacts" / "encoders" / "image", row_level=False)
    assert found.digest == fusion.image.bundle.digest


def test_staging_leaves_the_bundles_as_they_are(fusion, store, tmp_path):
    stage(fusion, store, tmp_path / "saved")
    for file in (tmp_path / "saved").rglob("*.json"):
        file.write_text("altered")
    assert open_bundle(fusion.path).digest == fusion.bundle.digest
    assert open_bundle(fusion.image.path).digest == fusion.image.bundle.digest


def test_the_package_is_another_when_files_with_rows_go_along(fusion):
    whole, partial = (digest_package(fusion.bundle, row_level=r) for r in (True, False))
    assert whole != partial


def test_gradient_boosting_offers_no_shap_values(tabular):
    config = tabular.bundle.config
    (tabular.path / "config.json").write_text(
        json.dumps({**config, "architecture": {"kind": "gradient_boosting"}})
    )
    assert describe_interface(tabular.bundle, {}).asked == ()
