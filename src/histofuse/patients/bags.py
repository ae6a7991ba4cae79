"""Bags: all nuclei of a patient next to the patient's record and outcome.

The embeddings come from a frozen encoder, one a nucleus; a patient's nuclei form a bag.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64, Shaped

from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.ids import SPLITS
from histofuse.core.tables import Contract, read_table

PATIENTS: Final = Contract(
    name="patients with record and outcome",
    columns={"patient_id": "str", "split": "str", "outcome": "int"},
    key=("patient_id", "split"),
    open_ended=True,
)
NUCLEI: Final = Contract(
    name="nuclei of patients, in the order of the embeddings",
    columns={"patient_id": "str", "patch_id": "str"},
    key=("patch_id",),
)


@dataclass(frozen=True)
class PatientBags:
    """Patients, each with a bag of nuclei, a record and an outcome.

    `check_bags` says whether the arrays fit together.

    Attributes:
        embeddings: Of nuclei.
        logits: Class logits of nuclei, by the encoder.
        bag_of: Number of the patient that a nucleus is of.
        records: Of patients; NaN where a value is missing.
        outcome: 0 or 1.
        split: train, validation or test.
        patient_ids: Unique.
        columns: Names of the record's values; numbers where none are given.
    """

    embeddings: Float32[np.ndarray, "_ d"]
    logits: Float[np.ndarray, "_ k"]
    bag_of: Int64[np.ndarray, " _"]
    records: Float[np.ndarray, "_ r"]
    outcome: Int64[np.ndarray, " _"]
    split: Shaped[np.ndarray, " _"]
    patient_ids: Shaped[np.ndarray, " _"]
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.patient_ids)

    @property
    def record_table(self) -> pd.DataFrame:
        """The records, one row a patient."""
        names = self.columns or [f"record_{i}" for i in range(self.records.shape[1])]
        return pd.DataFrame(self.records, columns=list(names))

    def count_nuclei(self) -> Int64[np.ndarray, " p"]:
        """Count the nuclei of each patient."""
        return np.bincount(self.bag_of, minlength=len(self))


def check_bags(bags: PatientBags, where: str | Path = "the patients") -> None:
    """Check that a model can be trained and tested on these patients.

    Raises:
        InputError: With every fault: arrays that do not fit together, nuclei of no known patient, a
            patient in two splits or without nuclei, an outcome with one value, values that are not
            finite.
    """
    with collect_faults() as faults:
        if not _check_lengths(bags, where, faults):
            return
        _check_patients(bags, where, faults)
        unknown = (bags.bag_of < 0) | (bags.bag_of >= len(bags))
        if unknown.any():
            problem = f"{int(unknown.sum())} nuclei are of patients that have no row"
            faults.add(where, problem, "a row with split, outcome and record for each patient")
        empty = np.bincount(bags.bag_of[~unknown], minlength=len(bags)) == 0
        if empty.any():
            first = bags.patient_ids[empty][0]
            problem = f"{int(empty.sum())} patients without nuclei, such as {first!r}"
            faults.add(where, problem, "at least one nucleus each", "Leave such patients out.")
        for name, values in (("embeddings", bags.embeddings), ("logits", bags.logits)):
            if not np.isfinite(values).all():
                faults.add(f"{where}, {name}", "values that are not finite", "finite values")
        if np.isinf(bags.records).any():
            faults.add(f"{where}, records", "infinite values", "finite ones, or none where missing")


def _check_lengths(bags: PatientBags, where: str | Path, faults: FaultList) -> bool:
    nuclei = {len(bags.embeddings), len(bags.logits), len(bags.bag_of)}
    patients = {len(bags.records), len(bags.outcome), len(bags.split), len(bags.patient_ids)}
    for of, lengths in (("nuclei", nuclei), ("patients", patients)):
        if len(lengths) > 1:
            faults.add(where, f"arrays of {sorted(lengths)} {of}", "one row each in all of them")
        elif not max(lengths):
            faults.add(where, f"no {of}", "at least one")
    return not faults.faults


def _check_patients(bags: PatientBags, where: str | Path, faults: FaultList) -> None:
    rows = pd.DataFrame({"id": bags.patient_ids, "split": bags.split, "outcome": bags.outcome})
    splits = rows.groupby("id")["split"].nunique()
    if (crossing := splits[splits > 1]).any():
        problem = f"{len(crossing)} patients in several splits, such as {crossing.index[0]!r}"
        faults.add(where, problem, "each patient in one split")
    repeated = rows["id"].duplicated() & ~rows["id"].isin(crossing.index)
    if repeated.any():
        problem = f"{int(repeated.sum())} patients twice, such as {rows['id'][repeated].iloc[0]!r}"
        faults.add(where, problem, "one row a patient")
    if unknown := sorted(set(map(str, bags.split)) - set(SPLITS)):
        faults.add(f"{where}, split", f"splits {unknown}", f"one of {list(SPLITS)}")
    if values := sorted(set(bags.outcome.tolist()) - {0, 1}):
        faults.add(f"{where}, outcome", f"values {values[:5]}", "0 or 1")
    for split in ("train", "validation"):
        found = sorted(set(rows.loc[rows["split"] == split, "outcome"].tolist()))
        if len(found) < 2:
            problem = f"{found[0]} in all {split} patients" if found else f"no {split} patients"
            faults.add(f"{where}, outcome", problem, f"both outcomes among {split} patients")


def load_bags(cohort: Path, embeddings: Path) -> PatientBags:
    """Load patients, nuclei and their embeddings.

    Args:
        cohort: Folder with ``patients.parquet`` (`PATIENTS`; its other columns are the record) and
            ``nuclei.parquet`` (`NUCLEI`).
        embeddings: Folder with ``image.npy`` and ``logits.npy``, a row a nucleus in that order.

    Raises:
        InputError: If a file is missing or breaks its contract, or all that `check_bags` finds.
    """
    patients = read_table(cohort / "patients.parquet", PATIENTS).reset_index(drop=True)
    nuclei = read_table(cohort / "nuclei.parquet", NUCLEI)
    names = [name for name in patients.columns if name not in PATIENTS.columns]
    # Of a patient with several rows the first; `check_bags` names the patient.
    first = patients["patient_id"].drop_duplicates()
    place = pd.Series(first.index, index=first.to_numpy()).reindex(nuclei["patient_id"])
    bags = PatientBags(
        embeddings=_load_array(embeddings / "image.npy"),
        logits=_load_array(embeddings / "logits.npy"),
        bag_of=place.fillna(-1).to_numpy(dtype=np.int64),
        records=_read_records(patients[names], cohort / "patients.parquet"),
        outcome=patients["outcome"].to_numpy(dtype=np.int64),
        split=patients["split"].to_numpy(dtype=object),
        patient_ids=patients["patient_id"].to_numpy(dtype=object),
        columns=tuple(names),
    )
    check_bags(bags, cohort)
    return bags


def _read_records(table: pd.DataFrame, where: Path) -> Float[np.ndarray, "p r"]:
    with collect_faults() as faults:
        for name, values in table.items():
            if not pd.api.types.is_numeric_dtype(values):
                faults.add(f"{where}, {name}", f"is {values.dtype}", "numbers, empty where missing")
    return table.to_numpy(dtype=np.float64, na_value=np.nan)


def _load_array(path: Path) -> Float32[np.ndarray, "n d"]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError.of(path, f"not readable ({error})", "an array", "Run dvc repro.") from None
    if values.ndim != 2:
        raise InputError.of(path, f"shape {values.shape}", "one row a nucleus")
    return values.astype(np.float32, copy=False)
