"""The core tables of a hospital, checked; and where the data come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import polars as pl

from histofuse.core.artifacts import digest_text, load_json
from histofuse.core.errors import FaultList, collect_faults
from histofuse.core.privacy import SIMULATED_MARKER
from histofuse.data.mimic_tables import Survey, find_table, read_rows, read_used, survey_table

Source = Literal["simulated", "mimic-iv-demo", "restricted"]

# SHA-256 of the 100 sorted subject_ids, a line each, of the open Clinical Database Demo v2.2.
DEMO_SUBJECTS_SHA256: Final = "97c0e3206fc6027379912d899a104e8055789d93365ec892f77a2d43d2127fe9"

CORE_TABLES: Final = ("patients", "admissions", "diagnoses_icd")
LARGE_TABLES: Final = ("labevents", "prescriptions")


@dataclass(frozen=True)
class Hospital:
    """The checked core tables, every used column, rows as in the files."""

    patients: pl.DataFrame  # one row a ``subject_id``
    admissions: pl.DataFrame  # one row a ``hadm_id``; its ``subject_id`` is in `patients`
    # ``icd_version`` is 9 or 10; ``icd_code`` upper case, without dots or blanks
    diagnoses: pl.DataFrame
    rows: Mapping[str, int]  # table to its rows, the large ones included
    notes: list[str]  # what was read in another sense than it was written, for the user to know


def load_hospital(root: Path) -> Hospital:
    """Read the core tables; check every used cell of them and of the large ones, which stream.

    Raises InputError with every fault of every table: missing files and columns, damaged files,
    cells that do not parse, duplicate ``hadm_id``, unknown ``subject_id`` or ``hadm_id``, an
    ``icd_version`` other than 9 or 10, ICD codes that were numbers once.
    """
    with collect_faults() as faults:
        tried = {name: survey_table(root, name, faults) for name in CORE_TABLES + LARGE_TABLES}
        surveys = {name: survey for name, survey in tried.items() if survey is not None}
        core = {name: read_used(root, name) for name in CORE_TABLES if name in surveys}
        for name, survey in surveys.items():
            if name in ("patients", "admissions") and not survey.rows:
                faults.add(find_table(root, name), "no rows", "at least one")
        if "diagnoses_icd" in core:
            _check_codes(core["diagnoses_icd"], find_table(root, "diagnoses_icd"), faults)
        _check_keys(core, root, faults)
    patients, admissions, diagnoses = (core[name].drop("line") for name in CORE_TABLES)
    # MIMIC's form of codes: upper case, without dots and blanks.
    code = pl.col("icd_code").str.to_uppercase().str.replace_all(r"[.\s]", "")
    diagnoses = diagnoses.with_columns(code)
    notes = [*_describe_words(surveys), *_describe_lost_zeros(diagnoses)]
    rows = {name: survey.rows for name, survey in surveys.items()}
    return Hospital(patients, admissions, diagnoses, rows, notes)


def identify_source(root: Path) -> Source:
    """Identify the data: simulated, the open demo, or credentialed data that must not be shared.

    The simulation carries a marker file, the demo is recognised by its patients, all else is
    restricted. Raises InputError if ``patients`` cannot be read.
    """
    marker = root / SIMULATED_MARKER
    if marker.is_file() and load_json(marker).get("source") == "simulated":
        return "simulated"
    subjects = read_rows(root, "patients", ["subject_id"])["subject_id"].sort()
    digest = digest_text("\n".join(map(str, subjects)))
    return "mimic-iv-demo" if digest == DEMO_SUBJECTS_SHA256 else "restricted"


def _check_codes(diagnoses: pl.DataFrame, path: Path, faults: FaultList) -> None:
    """Note versions that do not exist, and codes that only a number can have become."""
    version, code = pl.col("icd_version"), pl.col("icd_code")
    digits = code.str.contains(r"^\d")
    whole = code.str.contains(r"^\d{3}\.?\d{0,2}$")
    text = "Write the table with icd_code as text: as a number it lost its leading zeros."
    checks = (
        ("icd_version", ~version.is_in([9, 10]), "9 or 10", ""),
        ("icd_code", (version == 9) & digits & ~whole, "three to five digits of ICD-9-CM", text),
        ("icd_code", (version == 10) & digits, "a letter first, as in ICD-10-CM", text),
    )
    for column, is_bad, expected, remedy in checks:
        bad = diagnoses.filter(is_bad)
        if bad.height:
            more = f" ({bad.height} such rows)" if bad.height > 1 else ""
            where, value = f"{path}, line {bad['line'][0]}, {column}", str(bad[column][0])
            faults.add(where, f"is {value!r}{more}", expected, remedy)


def _describe_words(surveys: Mapping[str, Survey]) -> list[str]:
    """Say how many cells hold a word for "missing"."""
    counts = [
        f"{count:,} in {table}.{column}"
        for table, survey in surveys.items()
        for column, count in survey.words.items()
    ]
    return [f"cells with NULL, NA or the like read as missing: {', '.join(counts)}"] * bool(counts)


def _describe_lost_zeros(diagnoses: pl.DataFrame) -> list[str]:
    """Say if ICD-9 codes look as if leading zeros had been lost; 3 % of MIMIC-IV's have one."""
    codes = diagnoses.filter(pl.col("icd_version") == 9)["icd_code"]
    short = int(codes.str.contains(r"^\d{3}$").sum())
    if not short or codes.str.starts_with("0").any():
        return []
    note = f"no ICD-9 code of diagnoses_icd begins with 0, and {short:,} have three digits"
    return [f"{note}: if the codes were numbers once, leading zeros are lost (0389 became 389)"]


def _check_keys(core: Mapping[str, pl.DataFrame], root: Path, faults: FaultList) -> None:
    """Check keys between tables; a table that could not be read is passed over."""

    def note(table: str, key: str, values: pl.Series, problem: str, expected: str) -> None:
        if values.len():
            where = f"{find_table(root, table)}, {key}"
            faults.add(where, f"{_sample(values.unique().sort())} {problem}", expected)

    for table, key in (("patients", "subject_id"), ("admissions", "hadm_id")):
        if table in core:
            keys = core[table][key].drop_nulls()
            note(table, key, keys.filter(keys.is_duplicated()), "more than once", "each value once")
    foreign = [("admissions", "subject_id", "patients"), ("diagnoses_icd", "hadm_id", "admissions")]
    for table, key, owner in foreign:
        if {table, owner} <= core.keys():
            keys = core[table][key].drop_nulls()
            unknown = keys.filter(~keys.is_in(core[owner][key].implode()))
            note(table, key, unknown, f"not in {owner}", f"a row in {owner} for each")
    if {"diagnoses_icd", "admissions"} <= core.keys():
        _check_pairs(core, find_table(root, "diagnoses_icd"), faults)


def _check_pairs(core: Mapping[str, pl.DataFrame], path: Path, faults: FaultList) -> None:
    """Note diagnoses whose admission is another patient's."""
    owners = core["admissions"].select("hadm_id", owner="subject_id")
    joined = core["diagnoses_icd"].join(owners, on="hadm_id", how="left", maintain_order="left")
    foreign = joined.filter(pl.col("subject_id") != pl.col("owner"))
    if foreign.height:
        line, subject, hadm, owner = foreign.select("line", "subject_id", "hadm_id", "owner").row(0)
        more = f" ({foreign.height} such rows)" if foreign.height > 1 else ""
        problem = f"hadm_id {hadm} of subject_id {subject}{more}"
        faults.add(f"{path}, line {line}", problem, f"its patient in admissions, {owner}")


def _sample(values: pl.Series, shown: int = 5) -> str:
    listed = ", ".join(map(str, values.head(shown)))
    return listed if values.len() <= shown else f"{listed} and {values.len() - shown} more"
