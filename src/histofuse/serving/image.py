"""Predictions from patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, UInt8

from histofuse.core.errors import InputError
from histofuse.serving.decoding import read_patches
from histofuse.serving.networks import compute_image_logits, compute_in_blocks, embed_images
from histofuse.serving.predictor import Predictor
from histofuse.tracking.interface import DISTANCE, GRADCAM, IMAGE, WARNINGS

if TYPE_CHECKING:
    from histofuse.explain.maps.mappers import Mapper
    from histofuse.models.backbones import ImageModel
    from histofuse.training.distance import Training


@dataclass(frozen=True)
class Patches:
    """Patches that were read."""

    stored: UInt8[np.ndarray, "n stored stored 3"]  # with margin
    index: pd.Index  # the index of the input's rows

    def select(self, chosen: Bool[np.ndarray, " n"]) -> Patches:
        """Select some of the patches."""
        return Patches(self.stored[chosen], self.index[chosen])


@dataclass(frozen=True)
class ImagePredictor(Predictor):
    """Patches -> classes."""

    @cached_property
    def model(self) -> ImageModel:
        """The network, on the GPU where there is one, as in training."""
        import torch

        from histofuse.models.backbones import load_image_model

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return load_image_model(self.bundle).to(device).requires_grad_(False)

    @cached_property
    def training(self) -> Training | None:
        """What distances are measured from; None in a bundle of before it was kept."""
        from histofuse.training.distance import load_distance

        return load_distance(self.bundle.path)

    @cached_property
    def mapper(self) -> Mapper:
        """What computes the network's maps."""
        from histofuse.explain.maps.mappers import map_image_network

        return map_image_network(self.bundle.name, self.model)

    @property
    def image(self) -> ImagePredictor:
        """Itself: other predictors name their encoder of patches so."""
        return self

    def load(self) -> None:
        """Load all that an answer needs and warm up: a first answer is slower than the others."""
        self.predict(self.make_patch())

    def make_patch(self) -> UInt8[np.ndarray, "1 side side 3"]:
        """Make a patch that shows no tissue, but is not refused as blank."""
        side = self.model.spec.patch_px
        return np.arange(side * side * 3).astype(np.uint8).reshape(1, side, side, 3)

    def read(self, inputs: Any) -> Patches:
        """Check and decode an input."""
        cells = pick_cells(inputs)
        spec = self.model.spec
        stored = read_patches(cells, spec.patch_px, spec.margin_px)
        index = cells.index if isinstance(cells, pd.Series) else pd.RangeIndex(len(stored))
        return Patches(stored, index)

    def merge(self, parts: list[Patches]) -> Patches:
        """Merge what `read` returned for several inputs."""
        index = parts[0].index.append([part.index for part in parts[1:]])
        return Patches(np.concatenate([part.stored for part in parts]), index)

    def answer(self, patches: Patches, *, gradcam: bool = False) -> pd.DataFrame:
        """Predict what `read` returned."""
        table = self.answer_embedded(patches, self.embed_patches(patches)).assign(**{WARNINGS: ""})
        return table.assign(**{GRADCAM: self.draw_maps(patches, table)}) if gradcam else table

    def answer_embedded(
        self, patches: Patches, embeddings: Float32[np.ndarray, "n width"]
    ) -> pd.DataFrame:
        """Predict patches from their embeddings."""
        table = self.tabulate(compute_image_logits(self.model, embeddings), patches.index)
        return table.assign(**{DISTANCE: self.measure_distance(embeddings)})

    def measure_distance(
        self, embeddings: Float32[np.ndarray, "n width"]
    ) -> Float[np.ndarray, " n"]:
        """Measure how far patches lie from the training patches; see `training.distance`."""
        if self.training is None:
            return np.full(len(embeddings), np.nan)
        return compute_in_blocks(self.training.measure, embeddings).round(3)

    def draw_maps(self, patches: Patches, table: pd.DataFrame) -> list[str]:
        """Draw where the evidence for the decided classes of an answer is."""
        from histofuse.serving.explanations import draw_maps

        return draw_maps(self.mapper, patches.stored, self.number_classes(table))

    def embed_patches(self, patches: Patches) -> Float32[np.ndarray, "n width"]:
        """Compute embeddings of what `read` returned."""
        return embed_images(self.model, patches.stored)


def pick_cells(inputs: Any) -> Any:
    """Pick the column of images of an input; anything but a table is that column itself."""
    if not isinstance(inputs, Mapping | pd.DataFrame):
        return inputs
    if IMAGE not in inputs:
        raise InputError.of("input", f"no column {IMAGE!r}", "one with a patch in each row")
    return inputs[IMAGE]
