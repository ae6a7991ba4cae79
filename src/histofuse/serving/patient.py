"""Predictions for patients, from all their nuclei, their record, or one of both.

A missing side is left to the model itself, which was trained for that: its answer has a calibration
and a threshold of its own for each set of sides.
"""

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
from histofuse.patients.influence import measure_nuclei
from histofuse.patients.rows import VIEWS, PatientRows, View
from histofuse.serving.http.wire import check_rows
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.serving.networks import compute_image_logits
from histofuse.serving.records import find_recorded, make_unknown, read_records
from histofuse.serving.tabular import RecordPredictor
from histofuse.tracking.interface import (
    ANSWERED_BY,
    ATTENTION,
    IMAGE,
    NUCLEUS_CHANGES,
    SHAP,
    SHAP_BASE,
    WARNINGS,
)
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

    def answer(
        self,
        patients: PatientInputs,
        *,
        attention: bool = False,
        nucleus_changes: bool = False,
        shap: bool = False,
    ) -> pd.DataFrame:
        """Predict what `read` returned."""
        embeddings = self.image.embed_patches(patients.patches)
        return self.answer_embedded(
            embeddings,
            patients.sizes,
            patients.records,
            attention=attention,
            nucleus_changes=nucleus_changes,
            shap=shap,
        )

    def answer_embedded(
        self,
        embeddings: Float32[np.ndarray, "n width"],
        sizes: Int64[np.ndarray, " p"],
        records: pd.DataFrame,
        **explanations: bool,
    ) -> pd.DataFrame:
        """Predict patients from the embeddings of their nuclei, patient after patient."""
        rows = self._make_rows(embeddings, sizes, records)
        warnings = self.warn(records).where(find_recorded(records), "")
        table = self._decide(rows, records.index).assign(**{WARNINGS: warnings.to_numpy()})
        explain = {
            ATTENTION: self._attend,
            NUCLEUS_CHANGES: self._measure_nuclei,
            SHAP: self._explain_records,
        }
        for name, asked in explanations.items():
            if asked:
                columns = explain[name](rows)
                for column, values in columns.items():
                    table[column] = pd.Series(values, table.index, dtype=object)
        return table

    def compare_sides(
        self,
        embeddings: Float32[np.ndarray, "n width"],
        sizes: Int64[np.ndarray, " p"],
        records: pd.DataFrame,
    ) -> dict[View, pd.DataFrame]:
        """Answer patients of whom the same sides are known from both and from each alone."""
        rows = self._make_rows(embeddings, sizes, records)
        known = rows.given.all(axis=0)
        views: list[View] = [
            v for v in VIEWS if not (rows.show(v).given.any(axis=0) & ~known).any()
        ]
        return {view: self._decide(rows.show(view), records.index) for view in views}

    def _decide(self, rows: PatientRows, index: pd.Index) -> pd.DataFrame:
        """Turn log-odds into answers, with the decision of the sides that are given."""
        logits = to_columns(self.model.logits(rows))
        chosen = {view: np.flatnonzero(rows.match(view)) for view in VIEWS}
        parts = [
            self.tabulate(logits[at], index[at], self.decisions[view]).assign(
                **{ANSWERED_BY: _NAMES[view]}
            )
            for view, at in chosen.items()
        ]
        order = np.argsort(np.concatenate(list(chosen.values())), kind="stable")
        return pd.concat(parts).iloc[order]

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

    def _attend(self, rows: PatientRows) -> dict[str, list[Any]]:
        """List for each patient the weights of the nuclei; none where the method has none."""
        weights = self.model.attend(rows)
        if weights is None:
            return {ATTENTION: [None] * len(rows)}
        bags = np.split(weights, np.cumsum(rows.sizes)[:-1])
        return {ATTENTION: list(map(_list_numbers, bags))}

    def _measure_nuclei(self, rows: PatientRows) -> dict[str, list[Any]]:
        """List for each patient what the nuclei add to the log-odds; see `measure_nuclei`."""
        patients = (rows.take(np.array([i])) for i in range(len(rows)))
        changes = [measure_nuclei(self.model, patient) for patient in patients]
        return {NUCLEUS_CHANGES: list(map(_list_numbers, changes))}

    def _explain_records(self, rows: PatientRows) -> dict[str, list[Any]]:
        """List what the features add to the log-odds; none where there is no record."""
        from histofuse.explain.fusion.explainers import encode_typical, name_sources
        from histofuse.explain.fusion.patient_records import explain_patient_record

        of = encode_typical(self.encoder), name_sources(self.encoder)
        patients = (rows.take(np.array([i])) for i in range(len(rows)))
        explained = [
            explain_patient_record(self.model, patient, *of)
            if patient.given[0, 1]
            else (None, None)
            for patient in patients
        ]
        return dict(zip((SHAP, SHAP_BASE), map(list, zip(*explained, strict=True)), strict=True))


def _list_numbers(values: np.ndarray) -> list[float | None] | None:
    """List a patient's numbers, none where one is not known; none at all without nuclei."""
    rounded = values.astype(float).round(6).tolist()
    return [None if np.isnan(value) else value for value in rounded] or None


def _list_patches(row: Any, cell: Any) -> list[Any]:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return []
    if not isinstance(cell, list | tuple | np.ndarray):
        expected = "a list of patches, or null where there are none"
        raise InputError.of(f"row {row}, {IMAGE}", f"is a {type(cell).__name__}", expected)
    return list(cell)
