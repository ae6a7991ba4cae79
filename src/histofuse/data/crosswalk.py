"""The crosswalk of a truly paired cohort: the patient of each case.

A CSV of ``case_id``, ``subject_id`` and, where a patient has several index admissions, ``hadm_id``.
Of a declared table these are the ids of patient and visit as the table spells them. The file that
comes with the project has no rows: its two data sets share no patient.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import polars as pl

from histofuse.core.errors import FaultList, collect_faults
from histofuse.core.ids import identify
from histofuse.core.naming import show_count
from histofuse.core.text_tables import (
    UNREADABLE,
    clean_text,
    judge,
    read_csv_text,
    read_whole_numbers,
)

PATIENT = ["subject_id", "hadm_id"]
SPELT = ["patient_id", "visit_id"]  # the same as a declared table has them
_EXPECTED = "a CSV of case_id, subject_id[, hadm_id]"


def is_empty(path: Path) -> bool:
    """Tell whether a crosswalk links no case at all; InputError if it cannot be read."""
    return read_csv_text(path, ["case_id", "subject_id"], _EXPECTED).is_empty()


def read_links(path: Path, faults: FaultList, *, numbers: bool = True) -> pl.DataFrame:
    """Read a crosswalk and note rows without a case or a patient, and cases twice.

    Returns ``line``, ``case_id`` as it is spelt, ``subject_id``, and ``hadm_id`` or null; ids are
    whole `numbers`, or what `core.ids.identify` makes of them. Raises InputError if the file is not
    readable, or lacks a column.
    """
    text = read_csv_text(path, ["case_id", "subject_id"], _EXPECTED)
    if "hadm_id" not in text.columns:
        text = text.with_columns(hadm_id=pl.lit(None, dtype=pl.String))
    read = read_whole_numbers if numbers else _read_names
    table = text.select("line", "case_id", *(read(text[name]) for name in PATIENT))
    seen: dict[str, int] = {}
    for line, case in table.select("line", "case_id").iter_rows():
        if case is None:
            faults.add(f"{path}, line {line}", "no case_id", "the name of a case")
        elif (known := seen.setdefault(identify(case), line)) != line:
            problem = f"case_id {case!r} again, as in line {known}"
            faults.add(f"{path}, line {line}", problem, "one row per case")
    expected = "a whole number" if numbers else "an id"
    unreadable = judge(text["hadm_id"], "int" if numbers else "str") == UNREADABLE
    for name, bad in (("subject_id", table["subject_id"].is_null()), ("hadm_id", unreadable)):
        for line, cell in text.filter(bad).select("line", name).iter_rows():
            faults.add(f"{path}, line {line}, {name}", f"is {cell!r}", expected)
    return table


def _read_names(cells: pl.Series) -> pl.Series:
    return clean_text(cells).map_elements(identify, return_dtype=pl.String)


def unite_cases(path: Path, cases: Iterable[str]) -> dict[str, str]:
    """Map each case to the first case of its patient; to itself where it has no row.

    Raises InputError with every fault of the rows.
    """
    with collect_faults() as faults:
        rows = read_links(path, faults, numbers=False)
    patients = {identify(case): patient for _, case, patient, _ in rows.iter_rows()}
    first: dict[str, str] = {}
    owners = {case: patients.get(identify(case), f"case {case}") for case in sorted(set(cases))}
    return {case: first.setdefault(owner, case) for case, owner in owners.items()}


def read_crosswalk(path: Path, patches: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Read a crosswalk: case_id, subject_id, hadm_id, a row for each case of `patches` it links.

    Cases without a row, and rows of cases and patients that are not among these, are left out:
    `count_partners` counts them. Raises InputError with every fault: columns, numbers, cases
    twice, patients with several index admissions where none is named; or if nothing is linked.
    """
    ids = SPELT if SPELT[0] in patients else PATIENT
    with collect_faults() as faults:
        rows = read_links(path, faults, numbers=ids is PATIENT)
        admissions = _list_admissions(patients, ids)
        cases = {identify(case): case for case in sorted(set(patches["case_id"]))}
        links: dict[str, tuple[int, int]] = {}
        for line, case, subject, hadm in rows.drop_nulls(["case_id", "subject_id"]).iter_rows():
            known = cases.get(identify(case))
            if known is None or subject not in admissions:
                continue
            where = f"{path}, line {line}"
            links[known] = _find_admission(subject, hadm, admissions[subject], where, faults)
        if not links and not faults.faults:
            problem = f"none of {show_count(rows, 'rows')} links a case of the patches to a patient"
            expected = f"cases such as {next(iter(cases.values()))!r}"
            remedy = f"Patients of the cohort are named such as {next(iter(admissions))}."
            faults.add(path, problem, expected, remedy)
    table = [(case, *links[case]) for case in sorted(links)]
    return pd.DataFrame(table, columns=["case_id", *PATIENT])


@dataclass(frozen=True)
class Partners:
    """How many found a partner in a crosswalk, out of all cases and patients."""

    cases: int
    paired_cases: int
    patients: int
    paired_patients: int

    def __str__(self) -> str:
        cases, patients = show_count(self.cases, "cases"), show_count(self.patients, "patients")
        return (
            f"{self.paired_cases:,} of {cases} have a patient of the cohort, "
            f"{self.paired_patients:,} of {patients} have tissue"
        )


def count_partners(links: pd.DataFrame, cases: pd.DataFrame, patients: pd.DataFrame) -> Partners:
    """Count the cases and patients that `read_crosswalk` links, out of all of them."""
    return Partners(
        cases=len({identify(case) for case in cases["case_id"].unique()}),
        paired_cases=len(links),
        patients=patients["subject_id"].nunique(),
        paired_patients=links["subject_id"].nunique(),
    )


def _list_admissions(
    patients: pd.DataFrame, ids: list[str]
) -> dict[Hashable, dict[Hashable, tuple[int, int]]]:
    ordered = patients.sort_values(PATIENT)
    keys = list(zip(*(ordered[name].tolist() for name in PATIENT), strict=True))
    names = keys
    if ids is SPELT:
        names = zip(*(ordered[name].map(identify) for name in ids), strict=True)
    known: dict[Hashable, dict[Hashable, tuple[int, int]]] = {}
    for (subject, hadm), key in zip(names, keys, strict=True):
        known.setdefault(subject, {})[hadm] = key
    return known


def _find_admission(
    subject: Hashable,
    hadm: Hashable | None,
    known: Mapping[Hashable, tuple[int, int]],
    where: str,
    faults: FaultList,
) -> tuple[int, int]:
    """Find the index admission a row means; one of them, and a fault noted, if none is named."""
    if hadm is not None and hadm not in known:
        expected = f"an index admission: {list(known)}"
        faults.add(where, f"unknown hadm_id {hadm} of {subject}", expected)
    elif hadm is None and len(known) > 1:
        faults.add(where, f"no hadm_id for {subject}", f"one of the index admissions {list(known)}")
    return known.get(hadm) or next(iter(known.values()))


def find_linked_splits(links: pd.DataFrame, patches: pd.DataFrame) -> pd.Series:
    """Give each linked patient, by subject_id, the split of the case: no pair crosses splits.

    Raises InputError with each patient that would be in several splits.
    """
    splits = links.merge(patches[["case_id", "split"]].drop_duplicates(), on="case_id")
    remedy = "Set splits.images.unit and validation_unit to case: a patient's cases share a split."
    with collect_faults() as faults:
        for subject, group in splits.groupby("subject_id")["split"].unique().items():
            if len(group) > 1:
                problem = f"linked to tissue in {', '.join(sorted(group))}"
                faults.add(f"subject_id {subject}", problem, "tissue in one split", remedy)
    return splits.drop_duplicates("subject_id").set_index("subject_id")["split"]
