"""Patches of a network, read from their shards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from histofuse.data.patches import crop_margin, load_index, read_patches
from histofuse.explain.maps.faithfulness import ToProbabilities
from histofuse.explain.maps.mappers import Inputs, Mapper

FindPatients = Callable[[pd.DataFrame], Tensor]


@dataclass(frozen=True)
class Patches:
    """A network's test patches; `find_patients` looks up patients' embeddings, if it takes them."""

    mapper: Mapper
    digest: str
    folder: Path
    predictions: pd.DataFrame
    to_probabilities: ToProbabilities
    find_patients: FindPatients | None = None

    @property
    def classes(self) -> list[str]:
        """In the order of the logits."""
        return self.mapper.image.spec.classes

    def read(self, rows: pd.DataFrame) -> tuple[UInt8[np.ndarray, "n side side 3"], Inputs]:
        """Read the patches of some rows, as pixels and as the network takes them."""
        places = load_index(self.folder)[["patch_id", "shard", "row"]]
        places = rows[["patch_id"]].merge(places, on="patch_id", how="left", validate="1:1")
        stored = read_patches(self.folder, places)
        model = self.mapper.image
        targets = torch.tensor([self.classes.index(name) for name in rows["prediction"]])
        others = (self.find_patients(rows),) if self.find_patients else ()
        inputs = Inputs(model.prepare(torch.from_numpy(stored)), others, targets)
        return crop_margin(stored, model.spec.margin_px), inputs
