"""Predictions for whole folders of frames, with one frame in memory at a time.

Batches span frames, so that the network always gets full ones; a patient's record is encoded once,
not for every patch. Frames are cut between batches rather than in a thread of their own: cutting is
3 % of the work, and a thread takes a core from a network that uses all of them.

**Rules.** A fusion model answers a patch whose case has no record with the image encoder's own
decision (see column ``answered_by``). Records without a frame are not answered: they have no
nucleus.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt8

from histofuse.core.errors import BundleError
from histofuse.data.cutting import cut_windows
from histofuse.data.images.resolution import resample
from histofuse.data.images.tiff import read_rgb
from histofuse.data.points import name_cases
from histofuse.evaluation.mitotic_counts import MitosisErrors
from histofuse.features.stain import find_normaliser
from histofuse.params.data import FrameParams
from histofuse.serving.fusion import FusionPredictor
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.serving.records import find_recorded
from histofuse.tracking.interface import MODEL

EMBEDDING: Final = "embedding"


@dataclass(frozen=True)
class FrameSource:
    """Where the pixels of frames come from, by the name of the frame."""

    files: Mapping[str, Path]  # TIFF
    reading: FrameParams
    factors: Mapping[str, float]  # how many times as many pixels a side the model gets
    errors: MitosisErrors | None = None  # of who found the nuclei; None if given or not measured

    @cached_property
    def cases(self) -> dict[str, str]:
        """The case of each frame."""
        named = name_cases(pd.DataFrame({"frame_id": list(self.files)}))
        return dict(zip(named["frame_id"], named["case_id"], strict=True))

    def read(self, frame: object) -> UInt8[np.ndarray, "height width 3"]:
        """Read a frame as it is."""
        return read_rgb(self.files[str(frame)], self.reading).rgb


@dataclass(frozen=True)
class FrameModel:
    """A model that takes patches, and the records it may look up."""

    predictor: ImagePredictor | FusionPredictor
    embeddings: Mapping[str, Float32[np.ndarray, " width"]]  # by case; empty for an image model

    @property
    def image(self) -> ImagePredictor:
        """The predictor of patches."""
        return self.predictor.image

    @property
    def stored_px(self) -> int:
        """Side of a patch with its margin."""
        spec = self.image.model.spec
        return spec.patch_px + 2 * spec.margin_px

    @property
    def stain_normalisation(self) -> str:
        """How stains were normalised in training.

        Raises BundleError if the bundle, of an earlier version, does not say.
        """
        config = self.image.bundle.config
        if "stain_normalisation" not in config:
            raise BundleError(
                f"{self.image.identity[MODEL]}: config.json has no stain_normalisation. "
                "Train the model again with dvc repro."
            )
        return config["stain_normalisation"]

    def make_stored(self, n: int) -> UInt8[np.ndarray, "n side side 3"]:
        """Make room for patches with their margin."""
        return np.empty((n, self.stored_px, self.stored_px, 3), np.uint8)

    def make_empty(self) -> pd.DataFrame:
        """Make an answer without rows, for pictures without nuclei."""
        names = pd.DataFrame({name: pd.Series(dtype="str") for name in ("case_id", "frame_id")})
        places = pd.DataFrame({axis: np.empty(0) for axis in ("x_px", "y_px", "score")})
        patches = Patches(self.make_stored(0), pd.RangeIndex(0))
        return pd.concat([names, places, self.image.answer(patches)], axis=1)

    def answer(self, stored: UInt8[np.ndarray, "n side side 3"], cases: np.ndarray) -> pd.DataFrame:
        """Predict patches, stored with their margin, of some cases."""
        patches = Patches(stored, pd.RangeIndex(len(stored)))
        if not isinstance(self.predictor, FusionPredictor):
            return self.predictor.answer(patches)
        recorded = np.array([case in self.embeddings for case in cases], dtype=bool)
        patients = [self.embeddings[case] for case in cases[recorded]]
        stacked = np.stack(patients) if patients else np.empty((0, 0), np.float32)
        embedded = self.image.embed_patches(patches)
        return self.predictor.answer_embedded(patches, recorded, embedded, stacked)


class EmbeddingModel(FrameModel):
    """Gives the embedding of each patch in place of an answer, in column `EMBEDDING`."""

    def answer(self, stored: UInt8[np.ndarray, "n side side 3"], cases: np.ndarray) -> pd.DataFrame:
        """Embed patches."""
        patches = Patches(stored, pd.RangeIndex(len(stored)))
        return pd.DataFrame({EMBEDDING: list(self.image.embed_patches(patches))})


def embed_records(
    predictor: FusionPredictor, records: pd.DataFrame
) -> dict[str, Float32[np.ndarray, " width"]]:
    """Embed the raw features of each case, the case in the index; empty records are left out."""
    if not len(records):
        return {}
    read = predictor.patient.read(records)
    read = read[find_recorded(read)]
    if not len(read):
        return {}
    embeddings = predictor.patient.embed_encoded(predictor.patient.encode(read))
    return dict(zip(map(str, read.index), embeddings, strict=True))


def predict_frames(
    model: FrameModel, points: pd.DataFrame, frames: FrameSource, batch: int
) -> Iterator[pd.DataFrame]:
    """Predict points ``case_id, frame_id, x_px, y_px``, sorted by frame, in their order.

    Yields the points with the model's answer, `batch` rows at a time. Raises InputError if a frame
    cannot be decoded.
    """
    parts = (
        (rows, cut_patches(model, rows, frames))
        for _, rows in points.groupby("frame_id", sort=False)
    )
    for rows, stored in _rebatch(parts, batch):
        answer = model.answer(stored, rows["case_id"].to_numpy(dtype=object))
        yield pd.concat([rows.reset_index(drop=True), answer.reset_index(drop=True)], axis=1)


def cut_patches(
    model: FrameModel, rows: pd.DataFrame, frames: FrameSource
) -> UInt8[np.ndarray, "n side side 3"]:
    """Cut the patches of nuclei of one frame as the model takes them, with their margin."""
    name = str(rows["frame_id"].iloc[0])
    normalise, factor = find_normaliser(model.stain_normalisation), frames.factors[name]
    frame = frames.read(name)
    slide = resample(frame if normalise is None else normalise(frame), factor)
    stored = model.make_stored(len(rows))
    x_px, y_px = (rows[axis].to_numpy() * factor for axis in ("x_px", "y_px"))
    cut_windows(slide, x_px, y_px, stored)
    return stored


def _rebatch(
    parts: Iterable[tuple[pd.DataFrame, np.ndarray]], size: int
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Join the rows of frames into batches of one size; the last may be smaller."""
    tables: list[pd.DataFrame] = []
    arrays: list[np.ndarray] = []
    held = 0
    for table, array in parts:
        tables.append(table)
        arrays.append(array)
        held += len(table)
        while held >= size:
            rows, patches = _join(tables, arrays)
            yield rows.iloc[:size], patches[:size]
            tables, arrays, held = [rows.iloc[size:]], [patches[size:]], held - size
    if held:
        yield _join(tables, arrays)


def _join(tables: list[pd.DataFrame], arrays: list[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    # A frame of many batches is sliced: concatenating would copy its remainder for each batch.
    if len(tables) == 1:
        return tables[0], arrays[0]
    return pd.concat(tables), np.concatenate(arrays)
