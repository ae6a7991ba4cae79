"""Networks on patches and embeddings in memory, computed as the pipeline computes them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from histofuse.models.backbones import ImageModel
from histofuse.models.fusion import FusionModel
from histofuse.serving.blocks import fill_blocks

# As in training and in embedding.
ROWS_AT_ONCE: Final = 256


def embed_images(
    model: ImageModel, stored: UInt8[np.ndarray, "n stored stored 3"]
) -> Float32[np.ndarray, "n width"]:
    """Compute embeddings in fp32, on the model's device."""
    return fill_blocks(lambda patches: _embed(model, patches), stored)


def compute_logits(
    model: ImageModel, embeddings: Float32[np.ndarray, "n width"]
) -> Float32[np.ndarray, "n classes"]:
    """Compute the raw logits of image embeddings."""
    return fill_blocks(lambda values: _classify(model, values), embeddings)


def compute_fused_logits(
    model: FusionModel,
    of_image: Float32[np.ndarray, "n image"],
    of_patient: Float32[np.ndarray, "n patient"],
) -> Float32[np.ndarray, "n classes"]:
    """Compute the raw logits of embeddings side by side."""
    return fill_blocks(model.logits, of_image, of_patient)


@torch.inference_mode()
def _embed(model: ImageModel, stored: np.ndarray) -> np.ndarray:
    device = next(model.parameters()).device
    parts = [
        model.embed(model.prepare(batch.to(device))).float().cpu()
        for batch in torch.from_numpy(stored).split(ROWS_AT_ONCE)
        if len(batch)
    ]
    return torch.cat([torch.empty(0, model.embedding_dim), *parts]).numpy()


@torch.inference_mode()
def _classify(model: ImageModel, embeddings: np.ndarray) -> np.ndarray:
    device = next(model.parameters()).device
    batches = torch.from_numpy(embeddings).split(ROWS_AT_ONCE)
    return torch.cat([model.head(batch.to(device)).cpu() for batch in batches]).numpy()
