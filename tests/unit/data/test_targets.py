"""Each target against a table small enough to label by hand."""

import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.data import targets
from histofuse.data.cohort import build_cohort
from histofuse.data.mimic import load_hospital
from histofuse.data.targets import TARGETS, Target, find_target
from histofuse.params.ehr import CohortParams

EVERYONE = {
    "icd9": [],
    "icd10": [],
    "minimum_age_years": 18,
    "index_admission": "all",
    "prediction_time": "target_default",
}


def label(root, target, **more):
    params = CohortParams(**(EVERYONE | {"target": target} | more))
    table = build_cohort(load_hospital(root), params, root).table
    return dict(zip(table["hadm_id"], table["target"], strict=True))


def died(day, time="12:00:00"):
    return {"deathtime": f"{day} {time}", "hospital_expire_flag": 1, "discharge_location": "DIED"}


def test_an_unknown_target_is_refused_with_the_names_there_are():
    with pytest.raises(InputError, match=r"no target 'mortality'.*mortality_1y"):
        find_target("mortality")
    assert all(find_target(name).name == name for name in TARGETS)


def test_a_new_target_is_one_entry(write_tables, stay, monkeypatch):
    """The recipe of docs/extending.md."""
    days = (pl.col("dischtime") - pl.col("admittime")).dt.total_days()
    toy = Target(
        name="long_stay",
        description="an admission of more than a week",
        prediction_times=("admission_plus_24h",),
        label=days > 7,
        conditions=(TARGETS["in_hospital_mortality"].conditions),
        secrets=("ending", "discharge"),
    )
    monkeypatch.setattr(targets, "TARGETS", {**TARGETS, toy.name: toy})
    root = write_tables(
        patients=[{"subject_id": n} for n in (1, 2, 3)],
        admissions=[
            stay(1, 10, "2150-01-01", "2150-01-05"),
            stay(2, 20, "2150-01-01", "2150-01-09 13:00:00"),
            stay(3, 30, "2150-01-01", "2150-01-02 12:00:00"),  # gone when it would be predicted
        ],
    )
    assert label(root, "long_stay") == {10: 0, 20: 1}


def test_mortality_1y(write_tables, stay):
    root = write_tables(
        patients=[
            {"subject_id": 1, "dod": "2151-01-05"},  # day 365 after the discharge
            {"subject_id": 2, "dod": "2151-01-06"},  # day 366
            {"subject_id": 3},
            {"subject_id": 4, "dod": "2150-01-05"},  # in hospital
            {"subject_id": 5, "dod": "2150-01-05"},  # at home on the day of discharge
            {"subject_id": 6, "dod": "2150-01-04"},  # before the discharge, though not flagged
        ],
        admissions=[
            *(stay(n, n * 10, "2150-01-01", "2150-01-05") for n in (1, 2, 3, 5, 6)),
            stay(4, 40, "2150-01-01", "2150-01-05", **died("2150-01-05")),
        ],
    )
    assert label(root, "mortality_1y") == {10: 1, 20: 0, 30: 0, 50: 1}


def test_in_hospital_mortality_needs_a_day_in_hospital(write_tables, stay):
    start = "2150-01-01"
    root = write_tables(
        patients=[{"subject_id": n} for n in range(1, 6)],
        admissions=[
            stay(1, 10, start, "2150-01-05", **died("2150-01-05")),
            stay(2, 20, start, "2150-01-05"),
            stay(3, 30, start, "2150-01-02 12:00:00"),  # 24 h: over when it would be predicted
            stay(4, 40, start, "2150-01-02 11:00:00", **died("2150-01-02", "11:00:00")),
            stay(5, 50, start, "2150-01-02 12:01:00"),
        ],
    )
    assert label(root, "in_hospital_mortality") == {10: 1, 20: 0, 50: 0}


@pytest.mark.parametrize(
    ("planned", "transferred"),
    [("ELECTIVE", "ACUTE HOSPITAL"), ("Elective", "Acute  hospital")],
)
def test_readmission_30d(planned, transferred, write_tables, stay):
    elective = {"admission_type": planned}
    first = ("2150-01-01", "2150-01-05")
    root = write_tables(
        patients=[{"subject_id": n} for n in range(1, 8)],
        admissions=[
            stay(1, 10, *first),
            stay(1, 11, "2150-02-04", "2150-02-05"),  # 30 days
            stay(2, 20, *first),
            stay(2, 21, "2150-02-04 12:01:00", "2150-02-06"),  # a minute more
            stay(3, 30, *first),
            stay(3, 31, "2150-01-20", "2150-01-22", **elective),  # planned
            stay(4, 40, *first),
            stay(4, 41, "2150-01-20", "2150-01-22", **elective),
            stay(4, 42, "2150-01-25", "2150-01-26"),  # unplanned, after a planned one
            stay(5, 50, *first, **died("2150-01-05")),
            stay(6, 60, *first, discharge_location=transferred),
            stay(7, 70, *first),
            stay(7, 71, "2150-01-04", "2150-01-07"),  # an overlap is no readmission
        ],
    )
    expected = {10: 1, 11: 0, 20: 0, 21: 0, 30: 0, 31: 0, 40: 1, 41: 1, 42: 0, 70: 0, 71: 0}
    assert label(root, "readmission_30d") == expected


def test_metastasis(write_tables, stay):
    codes = {
        10: ("1985", 9),
        21: ("C7951", 10),
        30: ("C801", 10),  # an unspecified primary
        40: ("1990", 9),
        50: ("1991", 9),
        60: ("C800", 10),
        70: ("C787", 9),  # the right letters under the wrong version
    }
    root = write_tables(
        patients=[{"subject_id": n} for n in range(1, 8)],
        admissions=[
            *(stay(n, n * 10, "2150-01-01", "2150-01-05") for n in range(1, 8)),
            stay(1, 11, "2150-03-01", "2150-03-05"),  # known by then
            stay(2, 21, "2150-03-01", "2150-03-05"),
        ],
        diagnoses_icd=[
            {"subject_id": h // 10, "hadm_id": h, "icd_code": c, "icd_version": v}
            for h, (c, v) in codes.items()
        ],
    )
    expected = {10: 1, 20: 1, 21: 1, 30: 0, 40: 1, 50: 0, 60: 1, 70: 0}
    assert label(root, "metastasis") == expected


@pytest.mark.parametrize(
    ("index", "taken"),
    [("first_with_diagnosis", [0]), ("first", [0]), ("last", [2]), ("all", [0, 1, 2])],
)
def test_breast_cancer_takes_the_same_admissions_of_cases_and_controls(
    write_tables, stay, index, taken
):
    root = write_tables(
        patients=[{"subject_id": n} for n in range(1, 4)],
        admissions=[
            stay(n, n * 10 + k, f"215{k}-01-01", f"215{k}-01-05")
            for n in range(1, 4)
            for k in range(3)
        ],
        diagnoses_icd=[
            {"subject_id": 1, "hadm_id": 11, "icd_code": "1749"},
            {"subject_id": 2, "hadm_id": 21, "icd_code": "C50911", "icd_version": 10},
            {"subject_id": 3, "hadm_id": 31, "icd_code": "C50911", "icd_version": 9},
        ],
    )
    lists = {"icd9": ["174"], "icd10": ["C50"], "index_admission": index}
    expected = {n * 10 + k: int(n < 3) for n in (1, 2, 3) for k in taken}
    assert label(root, "breast_cancer", **lists) == expected
