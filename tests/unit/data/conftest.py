"""A hospital of a few hand-written rows, in the published layout."""

import gzip
from collections.abc import Mapping, Sequence

import pytest

from histofuse.data.mimic_tables import TABLES

DEFAULTS = {
    "patients": {"gender": "F", "anchor_age": 60, "anchor_year": 2150},
    "admissions": {
        "admission_type": "EW EMER.",
        "insurance": "Other",
        "marital_status": "MARRIED",
        "race": "WHITE",
        "discharge_location": "HOME",
        "hospital_expire_flag": 0,
    },
    "diagnoses_icd": {"seq_num": 1, "icd_version": 9},
    "labevents": {"itemid": 50912, "charttime": "2150-01-01 08:00:00"},
}


def to_csv(table: str, rows: Sequence[Mapping]) -> str:
    columns = list(TABLES[table].columns)
    filled = [DEFAULTS.get(table, {}) | row for row in rows]
    lines = [",".join(str(row.get(c, "")) for c in columns) for row in filled]
    return "\n".join([",".join(columns), *lines]) + "\n"


@pytest.fixture
def write_tables(tmp_path):
    """Write tables by name, the ones not given without rows; return the folder that holds hosp/."""

    def write(**rows: Sequence[Mapping]):
        hosp = tmp_path / "mimiciv" / "hosp"
        hosp.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            text = to_csv(table, rows.get(table, []))
            (hosp / f"{table}.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        return tmp_path / "mimiciv"

    return write


def stay(subject: int, hadm: int, start: str, end: str, **more):
    """An admission from day to day, at noon unless a time is given."""
    start, end = (day if " " in day else f"{day} 12:00:00" for day in (start, end))
    return {"subject_id": subject, "hadm_id": hadm, "admittime": start, "dischtime": end} | more


@pytest.fixture(name="stay")
def stay_fixture():
    return stay
