"""Bags: all nuclei of a patient next to the patient's record and outcome.

The embeddings come from a frozen encoder, one a nucleus; a patient's nuclei form a bag.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64, Shaped

from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.ids import SPLITS
from histofuse.core.naming import show_count
from histofuse.core.tables import Contract, read_table
from histofuse.features.encoding import check_features
from histofuse.features.specs import FeatureSpec, load_specs

PATIENTS: Final = Contract(
    name="patients with record and outcome",
    columns={"patient_id": "str", "split": "str", "outcome": "int"},
    key=("patient_id", "split"),
    open_ended=True,
)
META: Final = "meta.json"
NUCLEI: Final = Contract(
    name="nuclei of patients, in the order of the embeddings",
    columns={"patient_id": "str", "patch_id": "str"},
    key=("patch_id",),
)


@dataclass(frozen=True)
class PatientBags:
    """Patients, each with a bag of nuclei, a record and an outcome.

    `check_bags` says whether the arrays fit together.
    """

    embeddings: Float32[np.ndarray, "_ d"]  # of nuclei
    logits: Float[np.ndarray, "_ k"]  # class logits of nuclei, by the encoder
    bag_of: Int64[np.ndarray, " _"]  # number of the patient that a nucleus is of
    # raw values of patients, a row each in their order; null where one is missing
    records: pd.DataFrame
    specs: Sequence[FeatureSpec]  # what the columns of the records are
    outcome: Int64[np.ndarray, " _"]  # 0 or 1
    split: Shaped[np.ndarray, " _"]  # train, validation or test
    patient_ids: Shaped[np.ndarray, " _"]  # unique

    def __len__(self) -> int:
        return len(self.patient_ids)

    def count_nuclei(self) -> Int64[np.ndarray, " p"]:
        """Count the nuclei of each patient."""
        return np.bincount(self.bag_of, minlength=len(self))


def describe_record(table: pd.DataFrame) -> list[FeatureSpec]:
    """Specify the columns of a record of numbers: binary if all their values are 0 or 1."""
    return [_describe(name, table[name].dropna().to_numpy()) for name in map(str, table)]


def _describe(name: str, values: np.ndarray) -> FeatureSpec:
    kind = "binary" if set(values.tolist()) <= {0.0, 1.0} else "continuous"
    return FeatureSpec(name, name, kind, "", "record", name, indicator=True)


def check_bags(bags: PatientBags, where: str | Path = "the patients") -> None:
    """Check that a model can be trained and tested on these patients.

    Raises InputError with every fault: arrays that do not fit together, nuclei of no known patient,
    a patient in two splits or without nuclei, a split with one outcome, values that are not finite
    or not of their kind.
    """
    check_features(bags.records, {spec.name: spec.kind for spec in bags.specs}, str(where))
    with collect_faults() as faults:
        if not _check_lengths(bags, where, faults):
            return
        _check_patients(bags, where, faults)
        unknown = (bags.bag_of < 0) | (bags.bag_of >= len(bags))
        if unknown.any():
            problem = f"{show_count(unknown.sum(), 'nuclei')} of patients that have no row"
            faults.add(where, problem, "a row with split, outcome and record for each patient")
        empty = np.bincount(bags.bag_of[~unknown], minlength=len(bags)) == 0
        if empty.any():
            first = bags.patient_ids[empty][0]
            problem = f"{show_count(empty.sum(), 'patients')} without nuclei, such as {first!r}"
            faults.add(where, problem, "at least one nucleus each", "Leave such patients out.")
        for name, values in (("embeddings", bags.embeddings), ("logits", bags.logits)):
            if not np.isfinite(values).all():
                faults.add(f"{where}, {name}", "values that are not finite", "finite values")


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
        first = crossing.index[0]
        problem = f"{show_count(crossing, 'patients')} in several splits, such as {first!r}"
        faults.add(where, problem, "each patient in one split")
    repeated = rows["id"].duplicated() & ~rows["id"].isin(crossing.index)
    if repeated.any():
        first = rows["id"][repeated].iloc[0]
        problem = f"{show_count(repeated.sum(), 'patients')} twice, such as {first!r}"
        faults.add(where, problem, "one row a patient")
    if unknown := sorted(set(map(str, bags.split)) - set(SPLITS)):
        faults.add(f"{where}, split", f"splits {unknown}", f"one of {list(SPLITS)}")
    if values := sorted(set(bags.outcome.tolist()) - {0, 1}):
        faults.add(f"{where}, outcome", f"values {values[:5]}", "0 or 1")
    check_outcomes(rows, where, faults)


def check_outcomes(patients: pd.DataFrame, where: str | Path, faults: FaultList) -> None:
    """Note the splits in which not both values of ``outcome`` occur."""
    for split in SPLITS:
        found = sorted(set(patients.loc[patients["split"] == split, "outcome"].tolist()))
        if len(found) < 2:
            problem = f"{found[0]} in all {split} patients" if found else f"no {split} patients"
            expected, remedy = f"both outcomes among {split} patients", "More patients, or a fold "
            faults.add(f"{where}, outcome", problem, expected, f"{remedy}of splits that has them.")


def load_bags(folder: Path) -> PatientBags:
    """Load patients, nuclei and their embeddings.

    Args:
        folder: Holds ``patients.parquet`` (`PATIENTS`; its other columns are the record),
            ``features.json`` (what these are), ``nuclei.parquet`` (`NUCLEI`), and ``image.npy`` and
            ``logits.npy``, a row a nucleus in that order.

    Raises InputError if a file is missing or breaks its contract, or all that `check_bags` finds.
    """
    arrays = (_load_array(folder / f"{name}.npy") for name in ("image", "logits"))
    patients = read_table(folder / "patients.parquet", PATIENTS)
    nuclei = read_table(folder / "nuclei.parquet", NUCLEI)
    bags = make_bags(patients, nuclei, load_specs(folder / "features.json"), *arrays)
    check_bags(bags, folder)
    return bags


def make_bags(
    patients: pd.DataFrame,
    nuclei: pd.DataFrame,
    specs: Sequence[FeatureSpec],
    embeddings: Float32[np.ndarray, "n d"],
    logits: Float[np.ndarray, "n k"],
) -> PatientBags:
    """Bring tables and arrays together by key; `check_bags` says whether they fit."""
    # Of a patient with several rows the first; `check_bags` names the patient.
    patients = patients.reset_index(drop=True)
    first = patients["patient_id"].drop_duplicates()
    place = pd.Series(first.index, index=first.to_numpy()).reindex(nuclei["patient_id"])
    return PatientBags(
        embeddings=embeddings,
        logits=logits,
        bag_of=place.fillna(-1).to_numpy(dtype=np.int64),
        records=patients.drop(columns=list(PATIENTS.columns)),
        specs=specs,
        outcome=patients["outcome"].to_numpy(dtype=np.int64),
        split=patients["split"].to_numpy(dtype=object),
        patient_ids=patients["patient_id"].to_numpy(dtype=object),
    )


def _load_array(path: Path) -> Float32[np.ndarray, "n d"]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError.of(path, f"not readable ({error})", "an array", "Run dvc repro.") from None
    if values.ndim != 2:
        raise InputError.of(path, f"shape {values.shape}", "one row a nucleus")
    return values.astype(np.float32, copy=False)
