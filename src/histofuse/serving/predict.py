"""Registered models at work: what a clinic's system would send in, calibrated probabilities out.

| kind | input |
|---|---|
| image | patches, uint8 (n, side, side, 3) RGB, as array or nested lists |
| tabular | data frame of raw features in natural units, as in ``data/ehr/features.parquet`` |
| fusion | ``{"image": patches, "patient": data frame}``, row i of both belonging together, or \
one data frame with the patches, as nested lists, in column ``image`` |

Patches are of the side the model was trained on, with or without the margin stored around them.
The answer is a data frame, one row an input: ``probability_<class>``, calibrated, and
``prediction``, the class that the fitted thresholds decide on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import Bundle, open_bundle
from histofuse.core.errors import BundleError, Fault, InputError
from histofuse.training.calibrate import Calibrator, Thresholds, load_decision

if TYPE_CHECKING:
    from histofuse.features.encoding import Encoder
    from histofuse.models.backbones import ImageModel
    from histofuse.models.fusion import FusionModel
    from histofuse.models.tabular import AnyTabularModel

PREDICTION = "prediction"


def open_predictor(path: Path) -> ImagePredictor | TabularPredictor | FusionPredictor:
    """Open a bundle for prediction; its weights are loaded when first needed.

    Raises:
        BundleError: If the bundle is altered, or of no known kind.
    """
    bundle = open_bundle(path, row_level=False)
    match bundle.config["kind"]:
        case "image":
            return ImagePredictor(bundle)
        case "tabular":
            return TabularPredictor(bundle)
        case "fusion":
            return FusionPredictor(bundle)
        case other:
            expected = "image, tabular or fusion"
            raise BundleError(f"{path}: holds a model of kind {other!r}, expected {expected}")


@dataclass(frozen=True)
class _Decision:
    classes: list[str]
    calibrator: Calibrator
    thresholds: Thresholds

    @classmethod
    def load(cls, bundle: Bundle) -> _Decision:
        return cls(bundle.config["classes"], *load_decision(bundle.path))

    def tabulate(self, logits: np.ndarray, index: pd.Index | None = None) -> pd.DataFrame:
        """Turn logits (n, classes) into probabilities and decisions."""
        probabilities = self.calibrator.probabilities(logits)
        columns = [f"probability_{name}" for name in self.classes]
        table = pd.DataFrame(probabilities, columns=columns, index=index)
        table[PREDICTION] = np.array(self.classes)[self.thresholds.decide(probabilities)]
        return table


@dataclass(frozen=True)
class ImagePredictor:
    """Patches -> classes."""

    bundle: Bundle

    @cached_property
    def model(self) -> ImageModel:
        """The network."""
        from histofuse.models.backbones import load_image_model

        return load_image_model(self.bundle)

    def predict(self, inputs: Any) -> pd.DataFrame:
        """Predict.

        Raises:
            InputError: With all that is wrong with the input.
        """
        from histofuse.training.image import predict_images

        logits = predict_images(self.model, self._read(inputs))
        return _Decision.load(self.bundle).tabulate(logits)

    def embed(self, inputs: Any) -> np.ndarray:
        """Compute embeddings, float32 (n, width)."""
        import torch

        with torch.inference_mode():
            stored = torch.from_numpy(self._read(inputs))
            return self.model.embed(self.model.prepare(stored)).numpy()

    def _read(self, inputs: Any) -> np.ndarray:
        spec = self.model.spec
        return read_patches(inputs, spec.patch_px, spec.margin_px)


@dataclass(frozen=True)
class TabularPredictor:
    """Health records -> the target."""

    bundle: Bundle

    @cached_property
    def model(self) -> AnyTabularModel:
        """The fitted model."""
        from histofuse.models.tabular import load_tabular_model

        return load_tabular_model(self.bundle)

    @cached_property
    def encoder(self) -> Encoder:
        """What turns raw features into the model's input."""
        from histofuse.features.encoding import Encoder
        from histofuse.models.tabular import ENCODER

        return Encoder.from_dict(load_json(self.bundle.path / ENCODER))

    def predict(self, inputs: Any) -> pd.DataFrame:
        """Predict.

        Raises:
            InputError: With all that is wrong with the input.
        """
        features = self._read(inputs)
        logits = np.asarray(self.model.logits(self._encode(features)), dtype=np.float64)
        columns = np.column_stack([np.zeros(len(logits)), logits])
        return _Decision.load(self.bundle).tabulate(columns, features.index)

    def embed(self, inputs: Any) -> np.ndarray:
        """Compute embeddings, float32 (n, width); multilayer perceptrons have them."""
        from histofuse.models.tabular import MlpModel

        if not isinstance(self.model, MlpModel):
            raise BundleError(f"{self.bundle.name}: has no embedding, expected a model of kind mlp")
        return self.model.embed(self._encode(self._read(inputs)))

    def _read(self, inputs: Any) -> pd.DataFrame:
        if not isinstance(inputs, pd.DataFrame):
            expected = "a data frame of raw features"
            raise InputError([Fault("input", f"is a {type(inputs).__name__}", expected)])
        return inputs

    def _encode(self, features: pd.DataFrame) -> pd.DataFrame:
        from histofuse.features.encoding import encode
        from histofuse.models.tabular import name_table

        kind = self.bundle.config["architecture"]["kind"]
        return encode(self.encoder, features, impute=name_table(kind) == "imputed")


@dataclass(frozen=True)
class FusionPredictor:
    """Patches with their patients' records -> classes."""

    bundle: Bundle

    @cached_property
    def model(self) -> FusionModel:
        """The head."""
        from histofuse.models.fusion import load_fusion_model

        return load_fusion_model(self.bundle)

    @cached_property
    def encoders(self) -> tuple[ImagePredictor, TabularPredictor]:
        """The frozen encoders it was trained on, pulled from the registry by digest."""
        from histofuse.tracking.registry import pull_bundle

        facts = self.bundle.config["encoders"]
        image, patient = (
            pull_bundle(facts[side]["registered"], facts[side]["digest"])
            for side in ("image", "patient")
        )
        return ImagePredictor(image), TabularPredictor(patient)

    def predict(self, inputs: Any) -> pd.DataFrame:
        """Predict.

        Raises:
            InputError: With all that is wrong with the input.
        """
        image, patient = _read_both(inputs)
        of_image, of_patient = self.encoders
        embedded = of_image.embed(image), of_patient.embed(patient)
        if len(embedded[0]) != len(embedded[1]):
            problem = f"{len(embedded[0])} patches and {len(embedded[1])} records"
            raise InputError([Fault("input", problem, "one record for each patch")])
        return _Decision.load(self.bundle).tabulate(self.model.logits(*embedded))


def _read_both(inputs: Any) -> tuple[Any, Any]:
    if isinstance(inputs, pd.DataFrame) and "image" in inputs:
        return np.array(inputs["image"].tolist()), inputs.drop(columns="image")
    if isinstance(inputs, Mapping) and {"image", "patient"} <= set(inputs):
        return inputs["image"], inputs["patient"]
    expected = "keys image and patient, or a data frame with a column image"
    raise InputError([Fault("input", f"is a {type(inputs).__name__}", expected)])


def read_patches(inputs: Any, patch_px: int, margin_px: int) -> np.ndarray:
    """Check patches and bring them to the side they are stored with.

    Args:
        inputs: Anything that makes an array (n, side, side, 3) of whole numbers from 0 to 255.
        patch_px: Side of a patch.
        margin_px: Stored around it; where it is missing the patch is reflected at its border.

    Returns:
        uint8 (n, patch_px + 2 margin_px, patch_px + 2 margin_px, 3).

    Raises:
        InputError: If the shape, the side or the values are others.
    """
    patches = np.asarray(inputs)
    stored_px = patch_px + 2 * margin_px
    sides = {(patch_px, patch_px, 3): margin_px, (stored_px, stored_px, 3): 0}
    if patches.ndim != 4 or patches.shape[1:] not in sides:
        expected = f"(n, {patch_px}, {patch_px}, 3), or {stored_px} with the margin"
        raise InputError([Fault("patches", f"shape {patches.shape}", expected)])
    if patches.dtype != np.uint8:
        if not np.issubdtype(patches.dtype, np.integer) or patches.min() < 0 or patches.max() > 255:
            raise InputError([Fault("patches", f"{patches.dtype}", "whole numbers from 0 to 255")])
        patches = patches.astype(np.uint8)
    missing = sides[patches.shape[1:]]
    if not missing:
        return np.ascontiguousarray(patches)
    around = (missing, missing)
    return np.pad(patches, ((0, 0), around, around, (0, 0)), mode="reflect")
