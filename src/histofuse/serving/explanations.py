"""Explanations as columns of an answer: maps as PNG, SHAP values by raw feature."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from histofuse.explain.fusion.explainers import Contributions, name_sources
from histofuse.explain.maps.mappers import Inputs, Mapper
from histofuse.explain.maps.methods import enlarge
from histofuse.explain.shap_values.variables import sum_columns
from histofuse.features.encoding import Encoder
from histofuse.tracking.interface import SHAP, SHAP_BASE, encode_png


def draw_maps(
    mapper: Mapper,
    stored: UInt8[np.ndarray, "n stored stored 3"],
    decided: Int64[np.ndarray, " n"],
    *patient_embeddings: Float32[np.ndarray, "n width"],
) -> list[str]:
    """Draw where a network finds evidence for the decided classes, as base64 of greyscale PNGs.

    A mapper through a fusion head also takes the embeddings of the patients.
    """
    model = mapper.image
    device = next(model.parameters()).device
    patches, targets, *others = (
        torch.from_numpy(array).to(device) for array in (stored, decided, *patient_embeddings)
    )
    maps = mapper.compute_maps(Inputs(model.prepare(patches), tuple(others), targets))
    grey = np.rint(enlarge(maps, model.spec.patch_px) * 255).astype(np.uint8)
    return list(map(encode_png, grey))


def tabulate_contributions(
    contributions: Contributions, features: list[str], encoder: Encoder
) -> dict[str, Any]:
    """Turn contributions of a model's features into the columns ``shap`` and ``shap_base``."""
    table = sum_columns(contributions.values, features, name_sources(encoder))
    return {SHAP: table.to_dict("records"), SHAP_BASE: contributions.base.astype(object)}
