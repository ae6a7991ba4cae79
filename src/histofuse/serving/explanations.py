"""Explanations as columns of an answer: maps as PNG, SHAP values by raw feature."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64, UInt8

from histofuse.explain.fusion.explainers import (
    Contributions,
    FusionNetworks,
    encode_typical,
    explain_fused_record,
    explain_record,
    name_sources,
)
from histofuse.explain.maps.gradcam import enlarge
from histofuse.explain.maps.mappers import Inputs, Mapper
from histofuse.explain.shap_values.variables import sum_columns
from histofuse.features.encoding import Encoder
from histofuse.models.tabular import AnyTabularModel
from histofuse.tracking.interface import SHAP, SHAP_BASE


def draw_maps(
    mapper: Mapper,
    stored: UInt8[np.ndarray, "n stored stored 3"],
    decided: Int64[np.ndarray, " n"],
    *patient_embeddings: Float32[np.ndarray, "n width"],
) -> list[str]:
    """Draw where a network finds evidence for the decided classes.

    Args:
        mapper: The image network, alone or with the fusion head.
        stored: Patches with their margin.
        decided: Indices of the classes.
        patient_embeddings: With a fusion head, one array of them.

    Returns:
        Each map as the base64 of a greyscale PNG.
    """
    model = mapper.image
    device = next(model.parameters()).device
    tensors = (torch.from_numpy(array).to(device) for array in (stored, decided))
    patches, targets = tensors
    others = tuple(torch.from_numpy(array).to(device) for array in patient_embeddings)
    maps = mapper.compute_maps(Inputs(model.prepare(patches), others, targets))
    return [_draw(enlarge(heat, model.spec.patch_px)) for heat in maps]


def _draw(heat: Float32[np.ndarray, "side side"]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.rint(heat * 255).astype(np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def explain_records(
    model: AnyTabularModel, encoder: Encoder, encoded: pd.DataFrame
) -> dict[str, Any]:
    """Explain the log-odds of the positive class.

    Returns:
        The answer's columns ``shap`` and ``shap_base``.

    Raises:
        InputError: If models of this kind have no SHAP values.
    """
    contributions = explain_record(model, encoded, encode_typical(encoder))
    return _tabulate(contributions, model, encoder)


def explain_fused_records(
    networks: FusionNetworks,
    encoder: Encoder,
    encoded: pd.DataFrame,
    image_embeddings: Float32[np.ndarray, "n image"],
    decided: Int64[np.ndarray, " n"],
) -> dict[str, Any]:
    """Explain what records add to the fused logits of the decided classes."""
    typical = encode_typical(encoder)
    contributions = explain_fused_record(networks, encoded, typical, image_embeddings, decided)
    return _tabulate(contributions, networks.patient, encoder)


def _tabulate(
    contributions: Contributions, model: AnyTabularModel, encoder: Encoder
) -> dict[str, Any]:
    table = sum_columns(contributions.values, model.features, name_sources(encoder))
    return {SHAP: table.to_dict("records"), SHAP_BASE: contributions.base.astype(object)}
