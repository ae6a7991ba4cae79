"""Predictions from patches and their patients' records."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from histofuse.core.errors import InputError, collect_faults
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.serving.networks import compute_in_blocks
from histofuse.serving.predictor import Predictor
from histofuse.serving.records import find_recorded, make_unknown
from histofuse.serving.tabular import TabularPredictor
from histofuse.tracking.interface import (
    ANSWERED_BY,
    DISTANCE,
    EMBEDDING_VERSION,
    GRADCAM,
    IMAGE,
    PATIENT,
    SHAP,
    SHAP_BASE,
    WARNINGS,
)
from histofuse.tracking.names import SHOWN_DIGITS

if TYPE_CHECKING:
    from histofuse.explain.maps.mappers import Mapper
    from histofuse.models.fusion import FusionModel

FUSION: Final = "fusion"


@dataclass(frozen=True)
class Pairs:
    """Patches and records that were read."""

    patches: Patches  # one for each row
    recorded: Bool[np.ndarray, " n"]  # whether anything is known about the row's patient
    records: pd.DataFrame  # those of the rows for which that is so, in order


@dataclass(frozen=True)
class FusionPredictor(Predictor):
    """Patches with their patients' records -> classes."""

    image: ImagePredictor  # the frozen encoder of patches; answers alone where there is no record
    patient: TabularPredictor  # the frozen encoder of records

    @property
    def sources(self) -> set[str]:
        """The data that its encoders were trained on."""
        return self.image.sources | self.patient.sources

    @cached_property
    def model(self) -> "FusionModel":
        """The fusion head."""
        from histofuse.models.fusion import load_fusion_model

        return load_fusion_model(self.bundle)

    @cached_property
    def mapper(self) -> "Mapper":
        """What computes maps through the fusion head."""
        from histofuse.explain.maps.mappers import map_through_fusion

        image = self.image.model
        head = copy.deepcopy(self.model.network).to(next(image.parameters()).device)
        return map_through_fusion(self.bundle.name, image, head)

    def load(self) -> None:
        """Load all that an answer needs and warm up: a first answer is slower than the others."""
        self.image.load()
        self.patient.load()
        patches = self.image.read(self.image.make_patch())
        self.answer(Pairs(patches, np.array([True]), make_unknown(self.patient.encoder.inputs)))

    def read(self, inputs: Any) -> Pairs:
        """Check and decode an input."""
        cells, given = _split(inputs)
        patches: Any = None
        records = None
        known = given is not None and not set(given).isdisjoint(self.patient.encoder.inputs)
        with collect_faults() as faults:
            with faults.catching():
                patches = self.image.read(cells)
            with faults.catching():
                records = self.patient.read(given) if known else None
        n = len(patches.index)
        if records is None:
            unknown = make_unknown(self.patient.encoder.inputs)
            return Pairs(patches, np.zeros(n, dtype=bool), unknown[:0])
        if len(records) != n:
            problem = f"{n} patches and {len(records)} records"
            raise InputError.of("input", problem, "one record for each patch, or none at all")
        recorded = find_recorded(records)
        return Pairs(patches, recorded, records[recorded])

    def merge(self, parts: list[Pairs]) -> Pairs:
        """Merge what `read` returned for several inputs."""
        return Pairs(
            self.image.merge([part.patches for part in parts]),
            np.concatenate([part.recorded for part in parts]),
            pd.concat([part.records for part in parts]),
        )

    def answer(self, pairs: Pairs, *, gradcam: bool = False, shap: bool = False) -> pd.DataFrame:
        """Predict what `read` returned."""
        encoded = self.patient.encode(pairs.records)
        image = self.image.embed_patches(pairs.patches)
        patient = self.patient.embed_encoded(encoded)
        table = self.answer_embedded(pairs.patches, pairs.recorded, image, patient)
        table[WARNINGS] = ""
        table.loc[pairs.recorded, WARNINGS] = self.patient.warn(pairs.records).to_numpy()
        if gradcam:
            table[GRADCAM] = self._draw_maps(pairs, patient, table)
        if shap:
            explained = self._explain_records(pairs.recorded, image, encoded, table)
            table = table.assign(**explained)
        return table

    def answer_embedded(
        self,
        patches: Patches,
        recorded: Bool[np.ndarray, " n"],
        image_embeddings: Float32[np.ndarray, "n image"],
        patient_embeddings: Float32[np.ndarray, "r patient"],
    ) -> pd.DataFrame:
        """Predict from embeddings: by fusion where there is a record, else by the image model.

        Patients' embeddings are those of the rows that have a record, in order.
        """
        fused, alone = recorded, ~recorded
        image, patient = (e.bundle.digest[:SHOWN_DIGITS] for e in (self.image, self.patient))
        parts = []
        if fused.any():
            logits = compute_in_blocks(
                self.model.logits, image_embeddings[fused], patient_embeddings
            )
            table = self.tabulate(logits, patches.index[fused])
            distance = self.image.measure_distance(image_embeddings[fused])
            source = {ANSWERED_BY: FUSION, EMBEDDING_VERSION: f"{image}+{patient}"}
            parts.append(table.assign(**{DISTANCE: distance}, **source))
        if alone.any():
            table = self.image.answer_embedded(patches.select(alone), image_embeddings[alone])
            source = {ANSWERED_BY: IMAGE, EMBEDDING_VERSION: image}
            parts.append(table.assign(**self.identity, **source))
        order = np.argsort(np.argsort(alone, kind="stable"))
        return pd.concat(parts).iloc[order]

    def _draw_maps(
        self, pairs: Pairs, patient_embeddings: np.ndarray, table: pd.DataFrame
    ) -> np.ndarray:
        from histofuse.serving.explanations import draw_maps

        maps = np.empty(len(table), dtype=object)
        fused, alone = pairs.recorded, ~pairs.recorded
        if fused.any():
            decided = self.number_classes(table[fused])
            stored = pairs.patches.stored[fused]
            maps[fused] = draw_maps(self.mapper, stored, decided, patient_embeddings)
        if alone.any():
            maps[alone] = self.image.draw_maps(pairs.patches.select(alone), table[alone])
        return maps

    def _explain_records(
        self, fused: np.ndarray, image: np.ndarray, encoded: pd.DataFrame, table: pd.DataFrame
    ) -> dict[str, np.ndarray]:
        from histofuse.explain.fusion.explainers import (
            FusionNetworks,
            encode_typical,
            explain_fused_record,
        )
        from histofuse.models.tabular import MlpModel
        from histofuse.serving.explanations import tabulate_contributions

        columns = {name: np.full(len(table), None, dtype=object) for name in (SHAP, SHAP_BASE)}
        if not fused.any():
            return columns
        patient, encoder = self.patient.model, self.patient.encoder
        assert isinstance(patient, MlpModel)
        shown = explain_fused_record(
            FusionNetworks(patient, self.model.network),
            encoded,
            encode_typical(encoder),
            image[fused],
            self.number_classes(table[fused]),
        )
        values = tabulate_contributions(shown, patient.features, encoder)
        for name, column in columns.items():
            column[fused] = values[name]
        return columns


def _split(inputs: Any) -> tuple[Any, pd.DataFrame | None]:
    if isinstance(inputs, pd.DataFrame) and IMAGE in inputs:
        return inputs[IMAGE], inputs.drop(columns=IMAGE)
    if isinstance(inputs, Mapping) and IMAGE in inputs:
        return inputs[IMAGE], inputs.get(PATIENT)
    if isinstance(inputs, Mapping | pd.DataFrame):
        remedy = "A record alone is not answered: there is no nucleus to classify."
        raise InputError.of("input", f"no column {IMAGE!r}", "one with a patch in each row", remedy)
    expected = f"a data frame with column {IMAGE}, or a mapping with keys {IMAGE} and {PATIENT}"
    raise InputError.of("input", f"is a {type(inputs).__name__}", expected)
