import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.core.errors import BundleError, InputError
from histofuse.features.encoding import encode, fit_encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models.backbones import ImageSpec, build_model, describe_model, save_weights
from histofuse.models.fusion import FusionHead
from histofuse.models.mlp import Mlp
from histofuse.models.tabular import LinearModel, MlpModel, write_model
from histofuse.params.encoding import EncodingParams
from histofuse.serving import predict as serving
from histofuse.serving.predict import open_predictor, read_patches
from histofuse.training.calibrate import fit_decision, write_decision

CLASSES = ["mitosis", "tumour", "non_tumour"]
SPECS = [
    FeatureSpec("age_years", "age", "continuous", "years", "demographics", "Age"),
    FeatureSpec("metastatic", "metastatic", "binary", "", "comorbidity", "Metastases"),
    FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance"),
]
PATIENTS = pd.DataFrame(
    {
        "age_years": [40, 50, 60, None],
        "metastatic": [0, 1, 0, 1],
        "insurance": ["Medicare", "Other", "Medicare", None],
    }
)
PATCHES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def write_common(folder, k, **config):
    labels = np.array([0, 1] * 20) if k == 2 else np.arange(42) % k
    logits = np.random.default_rng(1).normal(size=(len(labels), k))
    write_decision(*fit_decision(logits, labels, "temperature", "max_f1"), folder)
    write_json(config, folder / "config.json")


def make_tabular(path, mlp):
    params = EncodingParams(maximum_missing=0.9, strata=[], indicator_minimum_missing=0.1)
    encoder = fit_encoder(PATIENTS, SPECS, params)
    order = encoder.feature_order
    if mlp:
        torch.manual_seed(0)
        model = MlpModel(order, Mlp(len(order), [8, 4], 1, 0.1).eval())
        architecture = {"kind": "mlp", "hidden": [8, 4], "outputs": 1, "dropout": 0.1}
    else:
        model = LinearModel(order, np.arange(1.0, len(order) + 1), -0.5)
        architecture = {"kind": "logistic_regression"}
    architecture["n_features"] = len(order)
    with writing_bundle(path, path.name) as folder:
        write_model(model, folder)
        write_json(encoder.to_dict(), folder / "encoder.json")
        write_json(order, folder / "feature_order.json")
        classes = ["no_death", "death"]
        write_common(folder, 2, kind="tabular", classes=classes, architecture=architecture)
    return open_bundle(path), model, encoder


def make_image(path):
    torch.manual_seed(0)
    spec = ImageSpec("simple_cnn", CLASSES, 64, 64, 16, "unit", 0.5)
    model = build_model(spec, "none").eval()
    with writing_bundle(path, path.name) as folder:
        save_weights(model, folder / "weights.safetensors")
        write_common(folder, 3, kind="image", classes=CLASSES, architecture=describe_model(model))
    return open_bundle(path), model


@pytest.fixture
def tabular(tmp_path):
    return make_tabular(tmp_path / "logistic_regression", mlp=False)


@pytest.fixture
def image(tmp_path):
    return make_image(tmp_path / "simple_cnn")


def test_records_in_natural_units_become_calibrated_probabilities(tabular):
    bundle, model, encoder = tabular
    table = open_predictor(bundle.path).predict(PATIENTS)

    logits = model.logits(encode(encoder, PATIENTS))
    temperature = json.loads((bundle.path / "calibrator.json").read_text())["temperature"]
    expected = 1 / (1 + np.exp(-logits / temperature))
    np.testing.assert_allclose(table["probability_death"], expected, rtol=1e-6)
    np.testing.assert_allclose(table["probability_no_death"], 1 - expected, rtol=1e-6)
    threshold = json.loads((bundle.path / "threshold.json").read_text())["values"][1]
    called = np.where(expected >= threshold, "death", "no_death")
    assert table["prediction"].tolist() == called.tolist()


def test_rows_keep_their_index_whatever_the_order_of_the_columns(tabular):
    predictor = open_predictor(tabular[0].path)
    shuffled = PATIENTS[PATIENTS.columns[::-1]].set_axis([7, 8, 9, 10])
    table = predictor.predict(shuffled)
    assert table.index.tolist() == [7, 8, 9, 10]
    np.testing.assert_array_equal(table.to_numpy(), predictor.predict(PATIENTS).to_numpy())


def test_all_missing_columns_are_named(tabular):
    with pytest.raises(InputError) as error:
        open_predictor(tabular[0].path).predict(PATIENTS[["insurance"]])
    assert "age_years" in str(error.value)
    assert "metastatic" in str(error.value)


def test_patches_with_and_without_margin(image):
    bundle, model = image
    predictor = open_predictor(bundle.path)
    stored = np.pad(PATCHES, ((0, 0), (16, 16), (16, 16), (0, 0)), mode="reflect")

    table = predictor.predict(stored)

    logits = model(model.prepare(torch.from_numpy(stored))).detach().numpy()
    assert list(table) == [*(f"probability_{c}" for c in CLASSES), "prediction"]
    order = np.argsort(logits, axis=1)
    np.testing.assert_array_equal(order, np.argsort(table.iloc[:, :3].to_numpy(), axis=1))
    np.testing.assert_allclose(table.iloc[:, :3].sum(axis=1), 1)
    pd.testing.assert_frame_equal(table, predictor.predict(PATCHES))


def test_nested_lists_are_patches_too():
    np.testing.assert_array_equal(read_patches(PATCHES.tolist(), 64, 0), PATCHES)


@pytest.mark.parametrize(
    "patches",
    [PATCHES[0], PATCHES[:, :32], PATCHES / 255, PATCHES.astype(int) * 2, PATCHES.astype(int) - 9],
    ids=["one", "side", "fractions", "above", "below"],
)
def test_what_is_no_patch_is_refused(patches):
    with pytest.raises(InputError, match="patches"):
        read_patches(patches, 64, 16)


def test_fusion_pulls_its_encoders_and_takes_both_forms_of_input(tmp_path, monkeypatch, image):
    of_image, network = image
    of_patient, mlp, encoder = make_tabular(tmp_path / "mlp", mlp=True)
    torch.manual_seed(1)
    head = FusionHead(network.embedding_dim, 4, [8], 3, 0.1).eval()
    bundles = {"histofuse-simple-cnn": of_image, "histofuse-mlp": of_patient}
    encoders = {
        side: {"registered": name, "digest": bundles[name].digest}
        for side, name in (("image", "histofuse-simple-cnn"), ("patient", "histofuse-mlp"))
    }
    architecture = {
        "image_dim": network.embedding_dim, "patient_dim": 4, "hidden": [8], "dropout": 0.1,
    }  # fmt: skip
    path = tmp_path / "fusion_label_blind"
    with writing_bundle(path, path.name) as folder:
        save_file(head.state_dict(), folder / "weights.safetensors")
        write_common(
            folder, 3, kind="fusion", classes=CLASSES, architecture=architecture, encoders=encoders
        )
    asked = []

    def pull(name, digest):
        asked.append((name, digest))
        return bundles[name]

    monkeypatch.setattr("histofuse.tracking.registry.pull_bundle", pull)
    predictor = open_predictor(path)

    table = predictor.predict({"image": PATCHES, "patient": PATIENTS})

    assert asked == [(name, bundle.digest) for name, bundle in bundles.items()]
    stored = np.pad(PATCHES, ((0, 0), (16, 16), (16, 16), (0, 0)), mode="reflect")
    with torch.inference_mode():
        embedded = network.embed(network.prepare(torch.from_numpy(stored)))
        logits = head(embedded, torch.from_numpy(mlp.embed(encode(encoder, PATIENTS))))
    np.testing.assert_array_equal(
        logits.argsort(dim=1).numpy(), np.argsort(table.iloc[:, :3].to_numpy(), axis=1)
    )
    together = PATIENTS.assign(image=PATCHES.tolist())
    pd.testing.assert_frame_equal(predictor.predict(together), table)
    with pytest.raises(InputError, match="one record for each patch"):
        predictor.predict({"image": PATCHES[:2], "patient": PATIENTS})


def test_altered_bundle_is_not_served(tabular):
    (tabular[0].path / "threshold.json").write_text("{}")
    with pytest.raises(BundleError, match=r"threshold\.json"):
        open_predictor(tabular[0].path)


def test_mlflow_serves_the_same_as_the_bundle(tabular, tmp_path, monkeypatch):
    import mlflow.pyfunc

    from histofuse.tracking.publish import SERVING_SCRIPT, _describe_columns, pin_requirements
    from histofuse.tracking.store import Store

    bundle = tabular[0]
    columns = _describe_columns(bundle)
    monkeypatch.chdir(tmp_path)
    Store(f"sqlite:///{tmp_path}/mlflow.db").save_model(
        bundle.path, SERVING_SCRIPT, pin_requirements(), columns, tmp_path / "saved"
    )
    moved = (tmp_path / "saved").rename(tmp_path / "moved")

    model = mlflow.pyfunc.load_model(str(moved))

    expected = serving.open_predictor(bundle.path).predict(PATIENTS)
    pd.testing.assert_frame_equal(model.predict(PATIENTS), expected)
    assert columns == {"age_years": "double", "metastatic": "double", "insurance": "string"}
    assert not list(Path(moved).rglob("*.pkl"))
    assert "torch==" in (moved / "requirements.txt").read_text()
