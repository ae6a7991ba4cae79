"""Nuclei of whole frames, as a registered model answers."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from histofuse.serving.decoding import read_frames
from histofuse.serving.image import pick_cells
from histofuse.serving.predictor import Predictor
from histofuse.tracking.interface import NUCLEI, WARNINGS

if TYPE_CHECKING:
    from histofuse.detection.finder import NucleusFinder

Frames = list[UInt8[np.ndarray, "_ _ 3"]]  # each of its own size


@dataclass(frozen=True)
class DetectorPredictor(Predictor):
    """Frames -> places and scores of their nuclei, a list each."""

    @cached_property
    def finder(self) -> "NucleusFinder":
        """The detector, on the GPU where there is one."""
        from histofuse.detection.finder import NucleusFinder

        return NucleusFinder.load(self.bundle.path)

    def load(self) -> None:
        """Load all that an answer needs and warm up."""
        self.finder.find(np.full((64, 64, 3), 128, np.uint8))

    def read(self, inputs: Any) -> Frames:
        """Check and decode an input."""
        return read_frames(pick_cells(inputs))

    def merge(self, parts: list[Frames]) -> Frames:
        """Merge what `read` returned for several inputs."""
        return list(chain.from_iterable(parts))

    def answer(self, frames: Frames) -> pd.DataFrame:
        """Find the nuclei of what `read` returned."""
        found = [self.finder.find(frame) for frame in frames]
        columns = {name: [table[name].tolist() for table in found] for name in NUCLEI}
        return pd.DataFrame(columns).assign(**self.identity, **{WARNINGS: ""})
