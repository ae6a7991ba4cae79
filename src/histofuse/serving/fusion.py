"""Patches with their patients' records -> classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from histofuse.core.bundle import Bundle
from histofuse.core.errors import Fault, InputError
from histofuse.serving.answer import Decision
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.serving.records import find_recorded, make_unknown
from histofuse.serving.tabular import TabularPredictor
from histofuse.tracking.interface import (
    ANSWERED_BY,
    EMBEDDING_VERSION,
    GRADCAM,
    IMAGE,
    PATIENT,
    SHAP,
    SHAP_BASE,
)

if TYPE_CHECKING:
    from histofuse.models.fusion import FusionModel

FUSION: Final = "fusion"
_DIGITS: Final = 12


@dataclass(frozen=True)
class Pairs:
    """Patches beside records that were read.

    Attributes:
        patches: One a row.
        recorded: Whether anything is known of the row's patient.
        records: Of the rows for which that is so, in order.
    """

    patches: Patches
    recorded: Bool[np.ndarray, " n"]
    records: pd.DataFrame


@dataclass(frozen=True)
class FusionPredictor:
    """Patches with their patients' records -> classes.

    Attributes:
        bundle: The head.
        image: The frozen encoder of patches, which answers alone where there is no record.
        patient: The frozen encoder of records.
    """

    bundle: Bundle
    image: ImagePredictor
    patient: TabularPredictor

    @cached_property
    def model(self) -> FusionModel:
        """The head."""
        from histofuse.models.fusion import load_fusion_model

        return load_fusion_model(self.bundle)

    @cached_property
    def decision(self) -> Decision:
        """What follows from its logits."""
        return Decision.load(self.bundle)

    def load(self) -> None:
        """Load all that an answer needs, and give one: the first takes longer than the others."""
        self.image.load()
        self.patient.load()
        patches = self.image.read(self.image.make_black())
        self.answer(Pairs(patches, np.array([True]), make_unknown(self.patient.encoder.inputs)))

    def predict(self, inputs: Any, *, gradcam: bool = False, shap: bool = False) -> pd.DataFrame:
        """Predict.

        Raises:
            InputError: With all that is wrong with the input.
        """
        return self.answer(self.read(inputs), gradcam=gradcam, shap=shap)

    def read(self, inputs: Any) -> Pairs:
        """Check and decode an input.

        Raises:
            InputError: With all that is wrong with it, patches and records together.
        """
        cells, given = _split(inputs)
        patches, records = _try_all(
            lambda: self.image.read(cells), lambda: self._read_records(given)
        )
        n = len(patches.index)
        if records is None:
            nobody = make_unknown(self.patient.encoder.inputs)[:0]
            return Pairs(patches, np.zeros(n, dtype=bool), nobody)
        if len(records) != n:
            problem = f"{n} patches and {len(records)} records"
            raise InputError([Fault("input", problem, "one record for each patch, or none at all")])
        recorded = find_recorded(records)
        return Pairs(patches, recorded, records[recorded])

    def _read_records(self, given: pd.DataFrame | None) -> pd.DataFrame | None:
        if given is not None and set(given.columns).isdisjoint(self.patient.encoder.inputs):
            return None
        return None if given is None else self.patient.read(given)

    def merge(self, parts: list[Pairs]) -> Pairs:
        """Put what `read` returned of several inputs into one."""
        return Pairs(
            Patches.merge([part.patches for part in parts]),
            np.concatenate([part.recorded for part in parts]),
            pd.concat([part.records for part in parts]),
        )

    def answer(self, pairs: Pairs, *, gradcam: bool = False, shap: bool = False) -> pd.DataFrame:
        """Predict what `read` returned."""
        embeddings = self.image.embed_patches(pairs.patches)
        parts = []
        if pairs.recorded.any():
            rows = pairs.recorded
            fused = self._fuse(pairs.patches.select(rows), embeddings[rows], pairs.records)
            parts.append(self._answer_fused(fused, gradcam=gradcam, shap=shap))
        if not pairs.recorded.all():
            rows = ~pairs.recorded
            patches = pairs.patches.select(rows)
            parts.append(self._answer_alone(patches, embeddings[rows], gradcam=gradcam, shap=shap))
        order = np.argsort(np.argsort(~pairs.recorded, kind="stable"))
        return pd.concat(parts).iloc[order]

    def _fuse(
        self, patches: Patches, embeddings: Float32[np.ndarray, "n width"], records: pd.DataFrame
    ) -> FusedRows:
        encoded = self.patient.encode(records)
        return FusedRows(patches, embeddings, encoded, self.patient.embed_encoded(encoded))

    def _answer_fused(self, rows: FusedRows, *, gradcam: bool, shap: bool) -> pd.DataFrame:
        from histofuse.serving.networks import compute_fused_logits

        logits = compute_fused_logits(self.model, rows.of_image, rows.of_patient)
        table = self.decision.tabulate(logits, rows.patches.index)
        table = table.assign(**{ANSWERED_BY: FUSION, EMBEDDING_VERSION: self.embedding_version})
        decided = self.decision.number(table)
        if gradcam:
            from histofuse.serving.explanations import draw_fused_maps

            table[GRADCAM] = draw_fused_maps(self, rows, decided)
        if shap:
            from histofuse.serving.explanations import explain_fused_records

            table = table.assign(**explain_fused_records(self, rows, decided))
        return table

    def _answer_alone(
        self,
        patches: Patches,
        embeddings: Float32[np.ndarray, "n width"],
        *,
        gradcam: bool,
        shap: bool,
    ) -> pd.DataFrame:
        table = self.image.answer_embedded(patches, embeddings)
        table = table.assign(
            **{ANSWERED_BY: IMAGE, EMBEDDING_VERSION: self.image.bundle.digest[:_DIGITS]}
        )
        if gradcam:
            table[GRADCAM] = self.image.draw_maps(patches, table)
        if shap:
            table[[SHAP, SHAP_BASE]] = None
        return table

    @property
    def embedding_version(self) -> str:
        """The encoders' bundles by the first digits of their digests."""
        return "+".join(side.bundle.digest[:_DIGITS] for side in (self.image, self.patient))


@dataclass(frozen=True)
class FusedRows:
    """Rows with both sides.

    Attributes:
        patches: As they came.
        of_image: Their embeddings.
        encoded: Records, as the patient encoder reads them.
        of_patient: Their embeddings.
    """

    patches: Patches
    of_image: Float32[np.ndarray, "n image"]
    encoded: pd.DataFrame
    of_patient: Float32[np.ndarray, "n patient"]


def _split(inputs: Any) -> tuple[Any, pd.DataFrame | None]:
    if isinstance(inputs, pd.DataFrame) and IMAGE in inputs:
        return inputs[IMAGE], inputs.drop(columns=IMAGE)
    if isinstance(inputs, Mapping) and IMAGE in inputs:
        return inputs[IMAGE], inputs.get(PATIENT)
    if isinstance(inputs, Mapping | pd.DataFrame):
        remedy = "A record alone is not answered: there is no nucleus to classify."
        fault = Fault("input", f"no column {IMAGE!r}", "one with a patch in each row", remedy)
        raise InputError([fault])
    expected = f"a data frame with column {IMAGE}, or a mapping with keys {IMAGE} and {PATIENT}"
    raise InputError([Fault("input", f"is a {type(inputs).__name__}", expected)])


def _try_all(*reads: Callable[[], Any]) -> list[Any]:
    """Do all, so that their faults are told together."""
    results, faults = [], []
    for read in reads:
        try:
            results.append(read())
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)
    return results
