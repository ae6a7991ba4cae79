"""Networks on patches and embeddings in memory, with the same results as in the pipeline.

A matrix product of a single row, or of the last rows of a batch, takes another code path and
differs in the last digits: enough to change a probability by 1e-6. Rows are therefore padded with
zeros to whole blocks, so that a row gives the same bits in a request of one and in a large batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float32, UInt8

if TYPE_CHECKING:
    from torch import Tensor

    from histofuse.models.backbones import ImageModel

BLOCK: Final = 4
# As in training and in embedding.
ROWS_AT_ONCE: Final = 256


def compute_in_blocks(compute: Callable[..., np.ndarray], *inputs: np.ndarray) -> np.ndarray:
    """Compute a function of rows on whole blocks of them."""
    n = len(inputs[0])
    missing = -n % BLOCK
    if not missing:
        return compute(*inputs)
    padded = (np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in inputs)
    return compute(*padded)[:n]


def embed_images(
    model: ImageModel, stored: UInt8[np.ndarray, "n stored stored 3"]
) -> Float32[np.ndarray, "n width"]:
    """Compute embeddings in fp32, on the model's device."""

    def embed(patches: Tensor) -> Tensor:
        return model.embed(model.prepare(patches))

    return _compute(model, embed, stored, model.embedding_dim)


def compute_image_logits(
    model: ImageModel, embeddings: Float32[np.ndarray, "n width"]
) -> Float32[np.ndarray, "n classes"]:
    """Compute the raw logits of image embeddings."""
    return _compute(model, model.head, embeddings, len(model.spec.classes))


def _compute(
    model: ImageModel, step: Callable[[Tensor], Tensor], rows: np.ndarray, width: int
) -> np.ndarray:
    import torch

    device = next(model.parameters()).device

    def compute(padded: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(padded).split(ROWS_AT_ONCE)
        parts = [step(batch.to(device)).float().cpu() for batch in batches if len(batch)]
        return torch.cat([torch.empty(0, width), *parts]).numpy()

    with torch.inference_mode():
        return compute_in_blocks(compute, rows)
