"""Whole folders of frames through a model: one frame in memory at a time, whatever their number.

Patches are put together over frames, so that the network always gets full batches; a patient's
record is encoded once, not once a patch. Frames are cut between batches, not beside them: it is 3 %
of the work, and a thread for it takes a core away from a network that uses all of them.

**Rules.** A fusion model answers a patch whose case has no record by the image encoder's own
decision (``answered_by`` says so). Records without a frame are not answered: there is no nucleus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt8

from histofuse.core.errors import BundleError
from histofuse.data.patches import cut_windows
from histofuse.data.tiff import read_rgb
from histofuse.features.stain import find_normaliser
from histofuse.serving.fusion import FUSION, FusionPredictor
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.tracking.interface import ANSWERED_BY, EMBEDDING_VERSION, IMAGE

POINTS: Final = ("case_id", "frame_id", "x_px", "y_px")


@dataclass(frozen=True)
class FrameModel:
    """A model that takes patches, beside the records it may look up.

    Attributes:
        predictor: Image or fusion.
        embeddings: Case to the embedding of its patient; empty for an image model.
    """

    predictor: ImagePredictor | FusionPredictor
    embeddings: Mapping[str, Float32[np.ndarray, " width"]]

    @property
    def image(self) -> ImagePredictor:
        """The network that sees the patches."""
        p = self.predictor
        return p.image if isinstance(p, FusionPredictor) else p

    @property
    def stain_normalisation(self) -> str:
        """What its frames were normalised by in training.

        Raises:
            BundleError: If the bundle, of an earlier version, does not say.
        """
        config = self.image.bundle.config
        try:
            return config["stain_normalisation"]
        except KeyError:
            raise BundleError(
                f"{self.image.bundle.path}: does not say how its stains were normalised. "
                "Train it anew with dvc repro."
            ) from None

    def answer(self, stored: UInt8[np.ndarray, "n side side 3"], cases: np.ndarray) -> pd.DataFrame:
        """Predict patches, stored with their margin, of some cases."""
        patches = Patches(stored, pd.RangeIndex(len(stored)))
        of_image = self.image.embed_patches(patches)
        if not isinstance(self.predictor, FusionPredictor):
            return self.image.answer_embedded(patches, of_image)
        known = np.array([case in self.embeddings for case in cases], dtype=bool)
        parts = []
        if known.any():
            beside = np.stack([self.embeddings[case] for case in cases[known]])
            parts.append(self._fuse(self.predictor, of_image[known], beside, patches.index[known]))
        if not known.all():
            parts.append(self._answer_alone(patches.select(~known), of_image[~known]))
        return pd.concat(parts).sort_index()

    def _fuse(
        self,
        predictor: FusionPredictor,
        of_image: Float32[np.ndarray, "n image"],
        of_patient: Float32[np.ndarray, "n patient"],
        index: pd.Index,
    ) -> pd.DataFrame:
        from histofuse.serving.networks import compute_fused_logits

        logits = compute_fused_logits(predictor.model, of_image, of_patient)
        table = predictor.decision.tabulate(logits, index)
        facts = {ANSWERED_BY: FUSION, EMBEDDING_VERSION: predictor.embedding_version}
        return table.assign(**facts)

    def _answer_alone(
        self, patches: Patches, of_image: Float32[np.ndarray, "n image"]
    ) -> pd.DataFrame:
        version = self.image.bundle.digest[:12]
        table = self.image.answer_embedded(patches, of_image)
        return table.assign(**{ANSWERED_BY: IMAGE, EMBEDDING_VERSION: version})


def embed_records(
    predictor: FusionPredictor, records: pd.DataFrame
) -> dict[str, Float32[np.ndarray, " width"]]:
    """Embed each case's record once.

    Args:
        predictor: A fusion model.
        records: Raw features, one row a case, the case in the index. A row of which nothing is
            known is left out.

    Raises:
        InputError: With all that is wrong with the records.
    """
    from histofuse.serving.records import find_recorded

    if not len(records):
        return {}
    read = predictor.patient.read(records)
    read = read[find_recorded(read)]
    if not len(read):
        return {}
    embeddings = predictor.patient.embed_encoded(predictor.patient.encode(read))
    return dict(zip(map(str, read.index), embeddings, strict=True))


def predict_frames(
    model: FrameModel, points: pd.DataFrame, files: Mapping[str, Path], batch: int
) -> Iterator[pd.DataFrame]:
    """Predict every point of every frame, in the order of the points.

    Args:
        model: The model.
        points: ``case_id, frame_id, x_px, y_px``, those of a frame together.
        files: Frame to its TIFF file.
        batch: Patches a table.

    Yields:
        The points with the model's answer, `batch` rows at a time.

    Raises:
        InputError: If a frame cannot be decoded.
    """
    normalise = find_normaliser(model.stain_normalisation)
    spec = model.image.model.spec
    side = spec.patch_px + 2 * spec.margin_px

    def cut(rows: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        frame = read_rgb(files[rows["frame_id"].iloc[0]]).rgb
        frame = frame if normalise is None else normalise(frame)
        stored = np.empty((len(rows), side, side, 3), np.uint8)
        cut_windows(frame, rows["x_px"].to_numpy(), rows["y_px"].to_numpy(), stored)
        return rows, stored

    frames = (rows for _, rows in points.groupby("frame_id", sort=False))
    for rows, stored in _rebatch(map(cut, frames), batch):
        answer = model.answer(stored, rows["case_id"].to_numpy(dtype=object))
        yield pd.concat([rows.reset_index(drop=True), answer.reset_index(drop=True)], axis=1)


def _rebatch(
    parts: Iterable[tuple[pd.DataFrame, np.ndarray]], size: int
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Put the rows of frames together to batches of one size; the last may be smaller."""
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
    # A frame of many batches is cut up as it is: joining would copy its rest for each of them.
    if len(tables) == 1:
        return tables[0], arrays[0]
    return pd.concat(tables), np.concatenate(arrays)
