"""The core tables of a hospital, checked; and where the data come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import polars as pl

from histofuse.core.artifacts import digest_text, load_json
from histofuse.core.errors import FaultList, collect_faults
from histofuse.data.mimic_tables import (
    TABLES,
    check_file,
    collect,
    parse_table,
    read_rows,
    scan_text,
)

Source = Literal["simulated", "mimic-iv-demo", "restricted"]

SIMULATED_MARKER: Final = "SIMULATED.json"
# SHA-256 of the 100 sorted subject_ids, a line each, of the open Clinical Database Demo v2.2.
DEMO_SUBJECTS_SHA256: Final = "97c0e3206fc6027379912d899a104e8055789d93365ec892f77a2d43d2127fe9"

CORE_TABLES: Final = ("patients", "admissions", "diagnoses_icd")
LARGE_TABLES: Final = ("labevents", "prescriptions")


@dataclass(frozen=True)
class Hospital:
    """The checked core tables, every published column, rows as in the files.

    Attributes:
        patients: One row a ``subject_id``.
        admissions: One row a ``hadm_id``; its ``subject_id`` is in `patients`.
        diagnoses: ``icd_version`` is 9 or 10; ``icd_code`` upper case, without dots or blanks.
        rows: Table to its rows, the large ones included.
    """

    patients: pl.DataFrame
    admissions: pl.DataFrame
    diagnoses: pl.DataFrame
    rows: Mapping[str, int]


def load_hospital(root: Path) -> Hospital:
    """Read the core tables; check them and the large ones, each in one streaming pass.

    The dictionaries (``d_*``) are not needed to run and not asked for.

    Raises:
        InputError: With every fault of every table: missing files and columns, files cut short or
            damaged, cells that do not parse, duplicate ``hadm_id``, unknown ``subject_id`` or
            ``hadm_id``, an ``icd_version`` other than 9 or 10.
    """
    with collect_faults() as faults:
        paths = {name: check_file(root, name, faults) for name in CORE_TABLES + LARGE_TABLES}
        core = {name: _read_whole(paths[name], name, faults) for name in CORE_TABLES}
        rows = {name: _count_rows(paths[name], name, faults) for name in LARGE_TABLES}
        _check_keys(core, paths, faults)
    rows |= {name: table.height for name, table in core.items()}
    code = (
        pl.col("icd_code")
        .str.strip_chars()
        .str.to_uppercase()
        .str.replace_all(".", "", literal=True)
    )
    diagnoses = core["diagnoses_icd"].with_columns(code)
    return Hospital(core["patients"], core["admissions"], diagnoses, rows)


def identify_source(root: Path) -> Source:
    """Identify the data: simulated, the open demo, or credentialed data that must not be shared.

    The simulation carries a marker file; the demo is recognised by its patients; anything else is
    taken for restricted.

    Raises:
        InputError: If ``patients`` cannot be read.
    """
    marker = root / SIMULATED_MARKER
    if marker.is_file() and load_json(marker).get("source") == "simulated":
        return "simulated"
    subjects = read_rows(root, "patients", ["subject_id"])["subject_id"].sort()
    digest = digest_text("\n".join(map(str, subjects)))
    return "mimic-iv-demo" if digest == DEMO_SUBJECTS_SHA256 else "restricted"


def _read_whole(path: Path | None, table: str, faults: FaultList) -> pl.DataFrame:
    columns = list(TABLES[table].columns)
    text = None
    if path is not None:
        text = collect(scan_text(path, number=True).select("line", *columns), path, faults)
    if text is None or path is None:
        return pl.DataFrame()
    if table == "diagnoses_icd":
        version = text["icd_version"].cast(pl.Int64, strict=False)
        _note_versions(text, version.is_not_null() & ~version.is_in([9, 10]), path, faults)
    return parse_table(text, table, path, faults)


def _note_versions(text: pl.DataFrame, bad: pl.Series, path: Path, faults: FaultList) -> None:
    for value in text.filter(bad)["icd_version"].unique().sort():
        rows = text.filter(pl.col("icd_version") == value)
        where = f"{path}, line {rows['line'][0]}, icd_version"
        more = f" ({rows.height} such rows)" if rows.height > 1 else ""
        faults.add(where, f"is {value!r}{more}", "9 or 10")


def _count_rows(path: Path | None, table: str, faults: FaultList) -> int:
    """Read a large table through, so that one cut short is noticed before any work is done."""
    if path is None:
        return 0
    key = next(iter(TABLES[table].columns))
    counted = collect(scan_text(path).select(pl.len(), pl.col(key).null_count()), path, faults)
    return 0 if counted is None else int(counted["len"][0])


def _check_keys(
    core: Mapping[str, pl.DataFrame], paths: Mapping[str, Path | None], faults: FaultList
) -> None:
    """Check keys between tables; a table that could not be read is passed over."""
    for table, key in (("patients", "subject_id"), ("admissions", "hadm_id")):
        if core[table].width:
            keys = core[table][key]
            repeated = keys.filter(keys.is_duplicated() & keys.is_not_null()).unique().sort()
            if repeated.len():
                where = f"{paths[table]}, {key}"
                faults.add(where, f"{_sample(repeated)} more than once", "each value once")
    foreign = [("admissions", "subject_id", "patients"), ("diagnoses_icd", "hadm_id", "admissions")]
    for table, key, owner in foreign:
        if core[table].width and core[owner].width:
            unknown = core[table][key].drop_nulls().unique().sort()
            unknown = unknown.filter(~unknown.is_in(core[owner][key].implode()))
            if unknown.len():
                problem = f"{_sample(unknown)} not in {owner}"
                faults.add(f"{paths[table]}, {key}", problem, f"a row in {owner} for each")


def _sample(values: pl.Series, shown: int = 5) -> str:
    listed = ", ".join(map(str, values.head(shown)))
    return listed if values.len() <= shown else f"{listed} and {values.len() - shown} more"
