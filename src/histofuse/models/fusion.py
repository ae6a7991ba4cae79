"""Intermediate fusion: embeddings of two frozen encoders, joined, then two layers."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors.torch import load_file
from torch import Tensor, nn

from histofuse.core.bundle import WEIGHTS, Bundle
from histofuse.models.standardiser import Standardiser

ROWS_AT_ONCE = 8192


class FusionHead(nn.Module):
    """Concatenated embeddings -> class logits.

    Image embeddings are standardised. Patient embeddings come
    out of a batch norm, and a case-level pairing trains on too few patients to learn their spread
    from.

    Source: paper 3.3 (512 + 128 -> 640 -> 256 -> 128 -> 3, each hidden layer followed by ReLU and
    dropout).
    """

    def __init__(
        self, image_dim: int, patient_dim: int, hidden: list[int], classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.image_scaler = Standardiser(image_dim)
        blocks = (
            nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Dropout(dropout))
            for i, o in itertools.pairwise([image_dim + patient_dim, *hidden])
        )
        self.layers = nn.Sequential(*blocks, nn.Linear(hidden[-1], classes))

    def forward(
        self, image: Float[Tensor, "batch image"], patient: Float[Tensor, "batch patient"]
    ) -> Float[Tensor, "batch classes"]:
        """Compute class logits."""
        joint = torch.cat((self.image_scaler(image), patient), dim=1)
        return self.layers(joint)


@dataclass(frozen=True)
class FusionModel:
    """A fusion head at inference; classes in the order of the logits."""

    classes: list[str]
    network: FusionHead

    @torch.inference_mode()
    def logits(
        self, image: Float32[np.ndarray, "n image"], patient: Float32[np.ndarray, "n patient"]
    ) -> Float32[np.ndarray, "n classes"]:
        """Compute class logits, not calibrated, from embeddings of the bundle's own encoders."""
        both = zip(
            torch.from_numpy(image).split(ROWS_AT_ONCE),
            torch.from_numpy(patient).split(ROWS_AT_ONCE),
            strict=True,
        )
        return torch.cat([self.network(i, p) for i, p in both]).numpy()


def load_fusion_model(bundle: Bundle) -> FusionModel:
    """Load the model of a bundle."""
    config = bundle.require_kind("fusion")
    architecture = dict(config["architecture"])
    architecture.pop("image_components", None)  # of bundles that named it; always None
    network = FusionHead(**architecture, classes=len(config["classes"]))
    network.load_state_dict(load_file(bundle.path / WEIGHTS))
    return FusionModel(config["classes"], network.eval().requires_grad_(False))
