"""Inputs and outputs of a registered model: the columns of its signature, and an example.

docs/serving.md describes them. The example shows no real patient: medians and modes,
and noise for a patch.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import Bundle

IMAGE: Final = "image"
PATIENT: Final = "patient"
PREDICTION: Final = "prediction"
PREDICTION_SET: Final = "prediction_set"
DISTANCE: Final = "distance"
MODEL: Final = "model"
TRAINED_ON: Final = "trained_on"
ANSWERED_BY: Final = "answered_by"
EMBEDDING_VERSION: Final = "embedding_version"
WARNINGS: Final = "warnings"
GRADCAM: Final = "gradcam"
SHAP: Final = "shap"
SHAP_BASE: Final = "shap_base"
NUCLEI: Final = ("x_px", "y_px", "score")  # lists, by nucleus
ATTENTION: Final = "attention"
NUCLEUS_CHANGES: Final = "nucleus_changes"

# Example values of columns that only define the patient's stratum.
_PLAIN: Final[Mapping[str, Any]] = {"continuous": 0.0, "binary": 0, "categorical": "unknown"}


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a registered model."""

    inputs: Mapping[str, str]  # column -> what it holds: type, unit and range, or categories
    outputs: Mapping[str, str]  # column -> double, string or map; those on request come last
    asked: tuple[str, ...]  # outputs on request; each but `SHAP_BASE` has a param of its name
    example: pd.DataFrame  # a valid row of inputs


def name_probability(class_name: str) -> str:
    """Name the column of a class's probability."""
    return f"probability_{class_name}"


def describe_interface(bundle: Bundle, encoders: Mapping[str, Bundle]) -> Interface:
    """Describe a model.

    `encoders` are those that it needs: ``image`` and ``patient`` of a fusion model, ``image`` of a
    model at patient level.
    """
    from histofuse.explain.shap_values.attributions import EXPLAINED_KINDS

    image = encoders.get(IMAGE, bundle)
    patient = encoders.get(PATIENT, bundle)
    if bundle.config.get("kind") == "patient":
        return _describe_patients(bundle, image)
    if bundle.config.get("kind") == "detector":
        return _describe_detector()
    columns: dict[str, tuple[str, Any]] = {}
    asked: tuple[str, ...] = ()
    if image.config.get("kind") == "image":
        columns[IMAGE] = _describe_patch(image), _draw_noise(image)
        asked = (GRADCAM,)
    if patient.config.get("kind") == "tabular":
        columns |= _read_features(patient)
        if patient.config["architecture"]["kind"] in EXPLAINED_KINDS:
            asked = (*asked, SHAP, SHAP_BASE)
    return Interface(
        inputs={name: described for name, (described, _) in columns.items()},
        outputs=_describe_outputs(bundle, asked),
        asked=asked,
        example=pd.DataFrame({name: [value] for name, (_, value) in columns.items()}),
    )


def _describe_patients(bundle: Bundle, image: Bundle) -> Interface:
    """Describe a model at patient level: a row a patient."""
    columns = _read_features(bundle)
    patches = f"a list of patches, null for none; each {_describe_patch(image)}"
    example = {IMAGE: [[_draw_noise(image)] * 2]}
    asked = (ATTENTION, NUCLEUS_CHANGES, SHAP, SHAP_BASE)
    return Interface(
        inputs={IMAGE: patches} | {name: described for name, (described, _) in columns.items()},
        outputs=_describe_outputs(bundle, asked),
        asked=asked,
        example=pd.DataFrame(example | {name: [value] for name, (_, value) in columns.items()}),
    )


def _describe_detector() -> Interface:
    """Describe a detector: a row a frame."""
    said = "the base64 of a PNG, JPEG or TIFF, or whole numbers of RGB, a whole frame"
    outputs: dict[str, str] = dict.fromkeys(NUCLEI, "list")
    outputs |= dict.fromkeys((MODEL, TRAINED_ON, WARNINGS), "string")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return Interface({IMAGE: said}, outputs, (), pd.DataFrame({IMAGE: [encode_png(noise)]}))


def make_signature(interface: Interface) -> Any:
    """Describe a model to MLflow.

    The inputs are of any type and none is required, because MLflow's own check reports only the
    first fault of a request, without its row, as an error of the server; turns a null into "None";
    and refuses whole numbers where decimals are expected. The model checks its input against its
    own schema, which the model's metadata show.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        AnyType,
        Array,
        ColSpec,
        DataType,
        Map,
        ParamSchema,
        ParamSpec,
        Schema,
    )

    double = DataType.double
    types: dict[str, Any] = {
        "double": double,
        "string": DataType.string,
        "map": Map(double),
        "list": Array(double),
    }
    outputs = interface.outputs.items()
    asked = [name for name in interface.asked if name != SHAP_BASE]
    params = [ParamSpec(name, DataType.boolean, default=False) for name in asked]
    schema: Any = ParamSchema(params) if params else None
    return ModelSignature(
        Schema([ColSpec(AnyType(), name, required=False) for name in interface.inputs]),
        Schema([ColSpec(types[t], n, required=n not in interface.asked) for n, t in outputs]),
        schema,
    )


def _read_features(bundle: Bundle) -> dict[str, tuple[str, Any]]:
    """Read the raw features of an encoder: name to what it holds and a typical value."""
    from histofuse.features.encoding import Continuous, Encoder
    from histofuse.models.tabular import ENCODER

    encoder = Encoder.from_dict(load_json(bundle.path / ENCODER))
    typical = {f.name: f.median if isinstance(f, Continuous) else f.mode for f in encoder.features}
    return {
        n: (encoder.descriptions[n], typical.get(n, _PLAIN[kind]))
        for n, kind in encoder.inputs.items()
    }


def _describe_patch(bundle: Bundle) -> str:
    spec = bundle.config["architecture"]
    side, stored = spec["patch_px"], spec["patch_px"] + 2 * spec["margin_px"]
    margin = f", or {stored} x {stored} px with its margin" if stored > side else ""
    return f"the base64 of a PNG, JPEG or TIFF, or whole numbers of RGB, {side} x {side} px{margin}"


def _describe_outputs(bundle: Bundle, asked: tuple[str, ...]) -> dict[str, str]:
    outputs = dict.fromkeys(map(name_probability, bundle.config["classes"]), "double")
    outputs |= dict.fromkeys((PREDICTION, PREDICTION_SET, MODEL, TRAINED_ON), "string")
    if bundle.config.get("kind") in {"image", "fusion"}:
        outputs[DISTANCE] = "double"
    if bundle.config.get("kind") == "fusion":
        outputs |= {ANSWERED_BY: "string", EMBEDDING_VERSION: "string"}
    if bundle.config.get("kind") == "patient":
        outputs[ANSWERED_BY] = "string"
    outputs[WARNINGS] = "string"
    types = {GRADCAM: "string", SHAP: "map", SHAP_BASE: "double"}
    types |= dict.fromkeys((ATTENTION, NUCLEUS_CHANGES), "list")
    return outputs | {name: types[name] for name in asked}


def _draw_noise(bundle: Bundle) -> str:
    """Draw a patch of noise: the base64 of a PNG, as a client would send one."""
    side = bundle.config["architecture"]["patch_px"]
    return encode_png(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def encode_png(pixels: np.ndarray) -> str:
    """Encode an image as the base64 of a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
