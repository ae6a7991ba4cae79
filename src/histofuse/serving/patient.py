"""Predictions for patients, from all their nuclei, their record, or one of both.

A missing side is left to the model itself, which was trained for that: its answer has a calibration
and a threshold of its own for each set of sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from histofuse.core.errors import InputError, collect_faults
from histofuse.features.encoding import encode_checked
from histofuse.patients.fusion.interface import PatientModel
from histofuse.patients.rows import VIEWS, PatientRows
from histofuse.serving.http.wire import check_rows
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.serving.networks import compute_image_logits
from histofuse.serving.records import find_recorded, make_unknown, read_records
from histofuse.serving.tabular import RecordPredictor
from histofuse.tracking.interface import ANSWERED_BY, ATTENTION, IMAGE, WARNINGS
from histofuse.training.decision import Decision, load_decision
from histofuse.training.tabular import to_columns

_NAMES: Final[Mapping[str, str]] = {"both": "fusion", "image": "image", "record": "record"}


@dataclass(frozen=True)
class PatientInputs:
    """Patients that were read."""

    patches: Patches  # of all nuclei, patient after patient
    sizes: Int64[np.ndarray, " p"]  # nuclei of each patient
    records: pd.DataFrame  # one row a patient; all missing where nothing is known


@dataclass(frozen=True)
class PatientPredictor(RecordPredictor):
    """Patients -> the outcome."""

    image: ImagePredictor  # the frozen encoder of nuclei

    @property
    def sources(self) -> set[str]:
        """The data that model and encoder were trained on."""
        return super().sources | self.image.sources

    @cached_property
    def model(self) -> PatientModel:
        """The method of fusion."""
        from histofuse.patients.train import load_patient_model

        return load_patient_model(self.bundle)

    @cached_property
    def decisions(self) -> dict[str, Decision]:
        """Calibrator and thresholds for each set of sides."""
        alone = {view: load_decision(self.bundle.path / view) for view in VIEWS if view != "both"}
        return {"both": self.decision, **alone}

    def load(self) -> None:
        """Load all that an answer needs and warm up: a first answer is slower than the others."""
        self.image.load()
        patches = self.image.read(self.image.make_patch())
        unknown = make_unknown(self.encoder.inputs)
        self.answer(PatientInputs(patches, np.ones(1, dtype=np.int64), unknown))

    def read(self, inputs: Any) -> PatientInputs:
        """Check and decode an input: a row a patient, a list of patches in column ``image``."""
        if not isinstance(inputs, pd.DataFrame):
            expected = (
                f"a data frame with a row a patient: {IMAGE}, a list of patches, and the record"
            )
            raise InputError.of("input", f"is a {type(inputs).__name__}", expected)
        cells = inputs[IMAGE] if IMAGE in inputs else pd.Series(None, inputs.index, dtype=object)
        bags = {row: _list_patches(row, cell) for row, cell in cells.items()}
        sizes = np.array([len(bag) for bag in bags.values()], dtype=np.int64)
        if sizes.sum():
            check_rows(int(sizes.sum()))
        named = {f"{row}, nucleus {i}": p for row, bag in bags.items() for i, p in enumerate(bag)}
        patches = self.image.read({IMAGE: pd.Series(named, dtype=object)})
        records = self.read_records(inputs)
        with collect_faults() as faults:
            for row in inputs.index[(sizes == 0) & ~find_recorded(records)]:
                expected = "a list of patches, a record, or both"
                faults.add(f"row {row}", "nothing is known of the patient", expected)
        return PatientInputs(patches, sizes, records)

    def read_records(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Check the records; without any of their columns nothing is known of any patient."""
        if set(inputs.columns).isdisjoint(self.encoder.inputs):
            unknown = make_unknown(self.encoder.inputs)
            return unknown.loc[[0] * len(inputs)].set_axis(inputs.index)
        return read_records(inputs, self.encoder)

    def merge(self, parts: list[PatientInputs]) -> PatientInputs:
        """Merge what `read` returned for several inputs."""
        return PatientInputs(
            self.image.merge([part.patches for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            pd.concat([part.records for part in parts]),
        )

    def answer(self, patients: PatientInputs, *, attention: bool = False) -> pd.DataFrame:
        """Predict what `read` returned."""
        embeddings = self.image.embed_patches(patients.patches)
        return self.answer_embedded(
            embeddings, patients.sizes, patients.records, attention=attention
        )

    def answer_embedded(
        self,
        embeddings: Float32[np.ndarray, "n width"],
        sizes: Int64[np.ndarray, " p"],
        records: pd.DataFrame,
        *,
        attention: bool = False,
    ) -> pd.DataFrame:
        """Predict patients from the embeddings of their nuclei, patient after patient."""
        rows = self._make_rows(embeddings, sizes, records)
        logits = to_columns(self.model.logits(rows))
        chosen = {view: np.flatnonzero(rows.match(view)) for view in VIEWS}
        parts = [
            self.tabulate(logits[at], records.index[at], self.decisions[view]).assign(
                **{ANSWERED_BY: _NAMES[view]}
            )
            for view, at in chosen.items()
        ]
        order = np.argsort(np.concatenate(list(chosen.values())), kind="stable")
        table = pd.concat(parts).iloc[order]
        warnings = self.warn(records).where(find_recorded(records), "")
        table = table.assign(**{WARNINGS: warnings.to_numpy()})
        if attention:
            table[ATTENTION] = pd.Series(self._attend(rows), table.index, dtype=object)
        return table

    def _make_rows(
        self, embeddings: np.ndarray, sizes: np.ndarray, records: pd.DataFrame
    ) -> PatientRows:
        imputed, missing = (
            encode_checked(self.encoder, records, impute=impute).to_numpy()
            for impute in (True, False)
        )
        return PatientRows(
            embeddings=embeddings,
            logits=compute_image_logits(self.image.model, embeddings),
            sizes=sizes,
            record=imputed,
            record_with_missing=missing,
            outcome=np.zeros(len(sizes), dtype=np.int64),
            given=np.column_stack([sizes > 0, find_recorded(records)]),
        )

    def _attend(self, rows: PatientRows) -> list[list[float] | None]:
        """List for each patient the weights of the nuclei; none where the method has none."""
        weights = self.model.attend(rows)
        if weights is None:
            return [None] * len(rows)
        bags = np.split(weights, np.cumsum(rows.sizes)[:-1])
        return [bag.astype(float).round(6).tolist() if len(bag) else None for bag in bags]


def _list_patches(row: Any, cell: Any) -> list[Any]:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return []
    if not isinstance(cell, list | tuple | np.ndarray):
        expected = "a list of patches, or null where there are none"
        raise InputError.of(f"row {row}, {IMAGE}", f"is a {type(cell).__name__}", expected)
    return list(cell)
