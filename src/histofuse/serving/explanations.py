"""Explanations as the answer carries them: maps as PNG, SHAP values by raw feature."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from histofuse.explain.fusion.explainers import (
    Contributions,
    FusedParts,
    compute_fused_gradcam,
    encode_typical,
    explain_fused_record,
    explain_record,
    name_sources,
    sum_by_source,
)
from histofuse.explain.maps.gradcam import choose_layer, compute_gradcam, enlarge
from histofuse.models.tabular import MlpModel
from histofuse.tracking.interface import SHAP, SHAP_BASE

if TYPE_CHECKING:
    from histofuse.models.backbones import ImageModel
    from histofuse.serving.fusion import FusedRows, FusionPredictor
    from histofuse.serving.tabular import TabularPredictor

# As in the galleries: on fewer pixels a map locates nothing.
LEAST_MAP_PX: Final = 7


def draw_maps(
    model: ImageModel,
    stored: UInt8[np.ndarray, "n stored stored 3"],
    decided: Int64[np.ndarray, " n"],
) -> list[str]:
    """Draw where an image network finds evidence for the classes decided on.

    Raises:
        InputError: If no block of the network gives a map fine enough.
    """
    layer, _ = choose_layer(model, model.spec.input_px, LEAST_MAP_PX)
    images, targets = _prepare(model, stored, decided)
    return _draw(compute_gradcam(model, images, targets, layer), model.spec.patch_px)


def draw_fused_maps(
    predictor: FusionPredictor, rows: FusedRows, decided: Int64[np.ndarray, " n"]
) -> list[str]:
    """Draw where fusion finds evidence in the patches for the classes decided on.

    Raises:
        InputError: If no block of the image encoder gives a map fine enough.
    """
    model = predictor.image.model
    layer, _ = choose_layer(model, model.spec.input_px, LEAST_MAP_PX)
    images, targets = _prepare(model, rows.patches.stored, decided)
    maps = compute_fused_gradcam(_join(predictor), images, rows.of_patient, targets, layer)
    return _draw(maps, model.spec.patch_px)


def explain_records(predictor: TabularPredictor, encoded: pd.DataFrame) -> dict[str, Any]:
    """Explain the log-odds of the positive class.

    Returns:
        The answer's columns ``shap`` and ``shap_base``.

    Raises:
        InputError: If the model is of a kind that has no SHAP values.
    """
    found = explain_record(predictor.model, encoded, encode_typical(predictor.encoder))
    return _tabulate(found, predictor)


def explain_fused_records(
    predictor: FusionPredictor, rows: FusedRows, decided: Int64[np.ndarray, " n"]
) -> dict[str, Any]:
    """Explain what records add to the fused logits of the classes decided on."""
    typical = encode_typical(predictor.patient.encoder)
    parts = _join(predictor)
    found = explain_fused_record(parts, rows.encoded, typical, rows.of_image, decided)
    return _tabulate(found, predictor.patient)


def _join(predictor: FusionPredictor) -> FusedParts:
    patient = predictor.patient.model
    assert isinstance(patient, MlpModel)
    return FusedParts(predictor.image.model, patient, predictor.model.network)


def _prepare(model: ImageModel, stored: np.ndarray, decided: np.ndarray) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    prepared = model.prepare(torch.from_numpy(stored).to(device))
    return prepared, torch.from_numpy(decided).to(device)


def _draw(maps: Float32[np.ndarray, "n height width"], side_px: int) -> list[str]:
    return [_draw_one(enlarge(heat, side_px)) for heat in maps]


def _draw_one(heat: Float32[np.ndarray, "side side"]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.rint(heat * 255).astype(np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _tabulate(found: Contributions, predictor: TabularPredictor) -> dict[str, Any]:
    sources = name_sources(predictor.encoder)
    table = sum_by_source(found, predictor.model.features, sources)
    return {SHAP: table.to_dict("records"), SHAP_BASE: found.base.astype(object)}
