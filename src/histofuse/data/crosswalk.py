"""The crosswalk of a truly paired cohort: the patient of each case.

A CSV of ``case_id``, ``subject_id`` and, where a patient has several index admissions, ``hadm_id``.
The file that comes with the project has no rows: its two data sets share no patient.
"""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping
from pathlib import Path

import pandas as pd

from histofuse.core.errors import Fault, FaultList, InputError, collect_faults

PATIENT = ["subject_id", "hadm_id"]


def is_empty(path: Path) -> bool:
    """Tell whether a crosswalk links no case at all.

    Raises:
        InputError: If it is missing, not readable, or lacks a column.
    """
    with collect_faults() as faults:
        rows = _read_rows(path, faults)
    return not rows


def read_crosswalk(path: Path, patches: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Read and check a crosswalk.

    Returns:
        case_id, subject_id, hadm_id; one row for each case of `patches`.

    Raises:
        InputError: With every fault: columns, numbers, unknown cases and patients, cases twice or
            not at all, and patients with several index admissions where none is named.
    """
    with collect_faults() as faults:
        rows = _read_rows(path, faults)
        faults.raise_if_any()
        ordered = patients.sort_values(PATIENT).groupby("subject_id")["hadm_id"]
        admissions = ordered.agg(list).to_dict()
        cases = set(patches["case_id"])
        links: dict[str, tuple[int, int]] = {}
        for line, row in rows:
            case, where = row["case_id"], f"{path}, line {line}"
            if case not in cases:
                faults.add(where, f"unknown case_id {case!r}", f"one of {sorted(cases)}")
            elif case in links:
                faults.add(where, f"case_id {case!r} again", "one row per case")
            admission = _find_admission(row, admissions, where, faults)
            links.setdefault(case, admission or (0, 0))
        for case in sorted(cases - links.keys()):
            faults.add(path, f"no row for case {case!r}", "a patient for each case")
    table = [(case, *links[case]) for case in sorted(cases)]
    return pd.DataFrame(table, columns=["case_id", *PATIENT])


def _read_rows(path: Path, faults: FaultList) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        faults.add(path, "no such file", "a CSV of case_id, subject_id[, hadm_id]")
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        faults.add(path, f"not readable ({error})", "a CSV in UTF-8")
        return []
    for name in ("case_id", "subject_id"):
        if name not in columns:
            faults.add(path, f"no column {name!r}", "case_id, subject_id[, hadm_id]")
    return rows


def _find_admission(
    row: dict[str, str],
    admissions: Mapping[Hashable, list[int]],
    where: str,
    faults: FaultList,
) -> tuple[int, int] | None:
    """Find the index admission a row means; None, and a fault noted, where there is not one."""
    subject, hadm = row["subject_id"] or "", row.get("hadm_id") or ""
    if not subject.isdecimal() or not (hadm.isdecimal() or not hadm):
        faults.add(where, f"subject_id {subject!r}, hadm_id {hadm!r}", "whole numbers")
        return None
    known = admissions.get(int(subject), [])
    if not known:
        faults.add(where, f"unknown subject_id {subject}", "a patient of the cohort")
    elif hadm and int(hadm) not in known:
        faults.add(where, f"unknown hadm_id {hadm} of {subject}", f"an index admission: {known}")
    elif not hadm and len(known) > 1:
        faults.add(where, f"no hadm_id for {subject}", f"one of the index admissions {known}")
    else:
        return int(subject), int(hadm) if hadm else known[0]
    return None


def find_linked_splits(links: pd.DataFrame, patches: pd.DataFrame) -> pd.Series:
    """Give each linked patient the split of the case, so that a pair never crosses splits.

    Args:
        links: As from `read_crosswalk`.
        patches: `data.splits.PATCH_SPLITS`.

    Returns:
        The split, by subject_id.

    Raises:
        InputError: With each case or patient that would be in several splits.
    """
    splits = links.merge(patches[["case_id", "split"]].drop_duplicates(), on="case_id")
    faults = [
        Fault(
            f"subject_id {subject}",
            f"linked to tissue in {', '.join(sorted(group['split'].unique()))}",
            "tissue in one split",
            "Set splits.images.unit and validation_unit to case: a patient's cases share a split.",
        )
        for subject, group in splits.groupby("subject_id")
        if group["split"].nunique() > 1
    ]
    if faults:
        raise InputError(faults)
    return splits.drop_duplicates("subject_id").set_index("subject_id")["split"]
