from dataclasses import replace
from datetime import datetime

import pytest

from histofuse.core.errors import InputError
from histofuse.core.tables import check_table
from histofuse.data.cohort import COHORT, build_cohort
from histofuse.data.mimic import load_hospital
from histofuse.params.ehr import CohortParams

DECLARATION = {
    "icd9": ["174"],
    "icd10": ["C50"],
    "minimum_age_years": 18,
    "target": "mortality_1y",
    "index_admission": "first_with_diagnosis",
    "prediction_time": "target_default",
}
EVERYONE = {"icd9": [], "icd10": []}


def build(root, **changed):
    return build_cohort(load_hospital(root), CohortParams(**(DECLARATION | changed)), root)


@pytest.fixture
def hospital(write_tables, stay):
    return write_tables(
        patients=[
            {"subject_id": 1, "dod": "2152-06-01", "anchor_year": 2150, "anchor_age": 60},
            {"subject_id": 2},
            {"subject_id": 3},  # another disease
            {"subject_id": 4, "anchor_age": 17},  # a minor at the time of the diagnosis
            {"subject_id": 5},  # marital status unknown at the index admission
            {"subject_id": 6},  # never admitted
        ],
        admissions=[
            stay(1, 10, "2150-01-01", "2150-01-05"),
            stay(1, 11, "2152-01-01", "2152-01-05", marital_status="", race="ASIAN"),
            stay(1, 12, "2152-05-01", "2152-05-05"),
            stay(2, 20, "2150-01-01", "2150-01-05"),
            stay(3, 30, "2150-01-01", "2150-01-05"),
            stay(4, 40, "2150-01-01", "2150-01-05"),
            stay(5, 50, "2150-01-01", "2150-01-05", marital_status=""),
            stay(5, 51, "2151-01-01", "2151-01-05"),  # known too late
        ],
        diagnoses_icd=[
            {"subject_id": 1, "hadm_id": 11, "icd_code": "1744"},
            {"subject_id": 2, "hadm_id": 20, "icd_code": "C50912", "icd_version": 10},
            {"subject_id": 3, "hadm_id": 30, "icd_code": "1759"},
            {"subject_id": 4, "hadm_id": 40, "icd_code": "1749"},
            {"subject_id": 5, "hadm_id": 50, "icd_code": "1749"},
        ],
    )


def test_the_cohort_by_value(hospital):
    cohort = build(hospital)
    check_table(cohort.table, COHORT, "cohort")
    assert cohort.table["hadm_id"].tolist() == [11, 20]
    row = cohort.table.iloc[0].to_dict()
    assert row | {"admittime": None, "dischtime": None} == {
        "subject_id": 1,
        "hadm_id": 11,
        "admittime": None,
        "dischtime": None,
        "prediction_time": datetime(2152, 1, 5, 12),
        "target": 1,
        "age_years": 62.0,
        "sex": "F",
        "race": "ASIAN",
        "insurance": "Other",
        "marital_status": "MARRIED",  # from the admission before
        "admission_type": "EW EMER.",
    }


def test_the_attrition_adds_up(hospital):
    table = build(hospital).attrition.to_table()
    rows = table[["name", "patients", "admissions"]].itertuples(index=False)
    left = {name: (patients, admissions) for name, patients, admissions in rows}
    assert left == {
        "everyone": (6, 8),
        "admitted": (5, 8),
        "adult": (4, 7),
        "diagnosis": (3, 6),
        "index": (3, 3),
        "complete_demographics": (2, 2),
        "alive_at_discharge": (2, 2),
    }
    assert table["removed_patients"].tolist() == [0, 1, 1, 1, 0, 1, 0]
    assert table["removed_admissions"].tolist() == [0, 0, 1, 1, 3, 1, 0]


@pytest.mark.parametrize(("index", "expected"), [("last", [12, 20, 51]), ("all", [11, 12, 20, 51])])
def test_index_admissions(hospital, index, expected):
    assert build(hospital, index_admission=index).table["hadm_id"].tolist() == expected


def test_the_first_admission_may_lie_before_the_diagnosis(hospital):
    # Two years before the death of the only one who dies.
    with pytest.raises(InputError, match="all 2 admissions have"):
        build(hospital, index_admission="first")


def test_everyone_means_no_step_for_the_diagnosis(hospital):
    cohort = build(hospital, **EVERYONE, index_admission="all")
    assert cohort.table["hadm_id"].tolist() == [10, 11, 12, 20, 30, 51]
    assert "diagnosis" not in set(cohort.attrition.to_table()["name"])


def test_prediction_a_day_after_admission(write_tables, stay):
    root = write_tables(
        patients=[{"subject_id": 1}, {"subject_id": 2}],
        admissions=[stay(n, n * 10, "2150-01-01", "2150-01-05") for n in (1, 2)],
        diagnoses_icd=[{"subject_id": 1, "hadm_id": 10, "icd_code": "1970"}],
    )
    later = {"target": "metastasis", "prediction_time": "admission_plus_24h"}
    cohort = build(root, **EVERYONE, **later)
    assert cohort.table["prediction_time"].tolist() == [datetime(2150, 1, 2, 12)] * 2
    assert cohort.describe()["prediction_time"] == "admission_plus_24h"


def test_an_empty_cohort_shows_its_attrition(hospital):
    with pytest.raises(InputError, match=r"cohort is empty.* 0/0 diagnosis, 0/0 index"):
        build(hospital, icd9=["999"], icd10=[])


def test_a_single_class_shows_its_attrition(hospital):
    with pytest.raises(InputError, match=r"all 1 admissions have .* = 0.* 1/1 index, "):
        build(hospital, icd9=[], icd10=["C50"])


def test_a_prediction_time_that_does_not_suit_is_refused(hospital):
    with pytest.raises(InputError, match=r"cohort.prediction_time: 'admission_plus_24h'"):
        build(hospital, prediction_time="admission_plus_24h")


def test_case_control_needs_cases(hospital):
    with pytest.raises(InputError, match="takes its cases from them"):
        build(hospital, **EVERYONE, target="breast_cancer")


def test_the_order_of_rows_in_the_files_does_not_matter(hospital):
    read = load_hospital(hospital)
    tables = ("patients", "admissions", "diagnoses")
    turned = replace(read, **{name: getattr(read, name).reverse() for name in tables})
    params = CohortParams(**DECLARATION)
    assert build_cohort(turned, params, "").table.equals(build_cohort(read, params, "").table)


@pytest.mark.real
def test_in_hospital_mortality_on_the_demo(real_data):
    """275 admissions with 15 deaths, less those without marital status and those under 24 h."""
    cohort = build(
        real_data / "mimic-iv-demo-2.2",
        **EVERYONE,
        target="in_hospital_mortality",
        index_admission="all",
    )
    table = cohort.attrition.to_table().set_index("name")
    assert table.loc["index", "admissions"] == 275
    assert table.loc["complete_demographics", "removed_admissions"] == 12
    assert table.loc["in_hospital_at_prediction", "removed_admissions"] == 30
    assert (len(cohort.table), cohort.table["target"].sum()) == (233, 13)


@pytest.mark.real
def test_the_demo_has_one_patient_with_breast_cancer(real_data):
    with pytest.raises(InputError, match=r"all 1 admissions.* 1/3 diagnosis"):
        build(real_data / "mimic-iv-demo-2.2", icd10=[])
