"""Small models of each kind, as bundles, and what they are asked."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import Bundle, open_bundle, writing_bundle
from histofuse.features.encoding import Encoder, fit_encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models.backbones import (
    ImageSpec,
    MapLayer,
    build_model,
    describe_model,
    save_weights,
)
from histofuse.models.fusion import FusionHead
from histofuse.models.mlp import Mlp
from histofuse.models.tabular import LinearModel, MlpModel, write_model
from histofuse.params.ehr import EncodingParams
from histofuse.training.decision import fit_decision, write_decision
from histofuse.training.distance import fit_distance, write_distance

CLASSES = ["mitosis", "tumour", "non_tumour"]
SPECS = [
    FeatureSpec(
        "age_years", "age", "continuous", "years", "demographics", "Age", False, 0.0, 120.0
    ),
    FeatureSpec("metastatic", "metastatic", "binary", "", "comorbidity", "Metastases"),
    FeatureSpec(
        "albumin", "albumin", "continuous", "g/dL", "laboratory", "Albumin", True, 0.3, 8.0
    ),
    FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance"),
]
PATIENTS = pd.DataFrame(
    {
        "age_years": [40, 50, 60, None],
        "metastatic": [0, 1, 0, 1],
        "albumin": [None, 4.1, 3.2, 3.9],
        "insurance": ["Medicare", "Other", "Medicare", None],
    }
)
PATCHES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Made:
    """A bundle and what was written into it."""

    bundle: Bundle
    model: Any
    encoder: Encoder | None = None

    @property
    def path(self) -> Path:
        return self.bundle.path


@dataclass(frozen=True)
class MadeFusion(Made):
    """A fusion bundle, and the folder with its encoders."""

    encoders: Path | None = None
    image: Made | None = None
    patient: Made | None = None


def encode_png(array, mode="RGB", kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, format=kind)
    return file.getvalue()


def to_text(data):
    return base64.b64encode(data).decode()


def write_common(folder, k, **config):
    labels = np.array([0, 1] * 20) if k == 2 else np.arange(42) % k
    logits = np.random.default_rng(1).normal(size=(len(labels), k))
    cases = np.arange(len(labels)) // 4
    decision = fit_decision(logits, labels, cases, "temperature_bias", "max_f1")
    write_decision(decision, folder, "simulated")
    write_json({"name": folder.name, "source": "simulated", **config}, folder / "config.json")


def make_tabular(path, kind):
    params = EncodingParams(
        maximum_missing=0.9, strata=[], indicator_minimum_missing=0.1, fewest_patients=1
    )
    encoder = fit_encoder(PATIENTS, SPECS, params)
    order = encoder.feature_order
    if kind == "mlp":
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
    return Made(open_bundle(path), model, encoder)


def make_image(path):
    torch.manual_seed(0)
    spec = ImageSpec("simple_cnn", CLASSES, 64, 64, 16, "unit", 0.5)
    model = build_model(spec, "none").eval()
    model.gradcam_layer = MapLayer("backbone.features.2", 8)
    with writing_bundle(path, path.name) as folder:
        save_weights(model, folder / "weights.safetensors")
        embeddings = np.random.default_rng(2).normal(size=(60, model.embedding_dim))
        first = np.arange(len(embeddings)) < 40
        write_distance(fit_distance(embeddings, first, ~first), folder)
        write_common(folder, 3, kind="image", classes=CLASSES, architecture=describe_model(model))
    return Made(open_bundle(path), model)


def make_fusion(path, image, patient):
    torch.manual_seed(1)
    head = FusionHead(image.model.embedding_dim, 4, [8], 3, 0.1).eval()
    encoders = {
        side: {
            "name": made.bundle.name,
            "registered": f"histofuse-{made.bundle.name.replace('_', '-')}",
            "digest": made.bundle.digest,
        }
        for side, made in (("image", image), ("patient", patient))
    }
    width = image.model.embedding_dim
    architecture = {"image_dim": width, "patient_dim": 4, "hidden": [8], "dropout": 0.1}
    with writing_bundle(path, path.name) as folder:
        save_file(head.state_dict(), folder / "weights.safetensors")
        facts = {"kind": "fusion", "classes": CLASSES, "encoders": encoders}
        write_common(folder, 3, architecture=architecture, **facts)
    folder = path.parent / "encoders"
    folder.mkdir()
    (folder / "image").symlink_to(image.path)
    (folder / "patient").symlink_to(patient.path)
    return MadeFusion(open_bundle(path), head, None, folder, image, patient)


@pytest.fixture
def patients():
    """Four records in natural units, with nulls."""
    return PATIENTS.copy()


@pytest.fixture
def patches():
    """Four patches of noise without margin."""
    return PATCHES.copy()


@pytest.fixture
def png():
    """Encodes an array as an image file."""
    return encode_png


@pytest.fixture
def text():
    """Encodes bytes as base64."""
    return to_text


@pytest.fixture
def tabular(tmp_path):
    return make_tabular(tmp_path / "models" / "logistic_regression", "logistic_regression")


@pytest.fixture
def mlp(tmp_path):
    return make_tabular(tmp_path / "models" / "mlp", "mlp")


@pytest.fixture(scope="module")
def kept_mlp(tmp_path_factory):
    """A model that the tests of a module share."""
    return make_tabular(tmp_path_factory.mktemp("kept") / "mlp", "mlp")


@pytest.fixture
def image(tmp_path):
    return make_image(tmp_path / "models" / "simple_cnn")


@pytest.fixture
def fusion(tmp_path, image, mlp):
    return make_fusion(tmp_path / "models" / "fusion_label_blind", image, mlp)
