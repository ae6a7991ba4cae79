from datetime import datetime

import polars as pl
import pytest

from histofuse.features.demographics import (
    build_demographics,
    build_utilisation,
)


def make_index(prediction_time, **changes):
    row = {
        "subject_id": 1,
        "hadm_id": 12,
        "admittime": datetime(2150, 3, 10, 21),
        "dischtime": datetime(2150, 3, 13, 9),
        "prediction_time": prediction_time,
        "target": 0,
        "age_years": 55.0,
        "sex": "F",
        "race": "WHITE",
        "insurance": "Medicare",
        "marital_status": "SINGLE",
        "admission_type": "ELECTIVE",
    }
    return pl.DataFrame([row | changes])


def make_admission(hadm_id, admitted, discharged, **changes):
    row = {
        "subject_id": 1,
        "hadm_id": hadm_id,
        "admittime": admitted,
        "dischtime": discharged,
        "admission_location": "PHYSICIAN REFERRAL",
        "language": "ENGLISH",
        "edregtime": None,
    }
    return row | changes


ADMISSIONS = pl.DataFrame(
    [
        make_admission(10, datetime(2149, 1, 1), datetime(2149, 1, 9)),
        make_admission(11, datetime(2150, 3, 1), datetime(2150, 3, 8, 9)),
        make_admission(12, datetime(2150, 3, 10, 21), datetime(2150, 3, 13, 9)),
        make_admission(13, datetime(2151, 1, 1), datetime(2151, 1, 9)),
    ],
    schema_overrides={"edregtime": pl.Datetime},
)


def test_earlier_admissions_are_counted_and_later_ones_are_not():
    row = build_utilisation(make_index(datetime(2150, 3, 13, 9)), ADMISSIONS).row(0, named=True)
    assert row["prior_admissions"] == 2
    assert row["days_since_last_admission"] == 2.5
    assert row["length_of_stay_days"] == 2.5
    assert (row["admitted_at_night"], row["emergency_department"]) == (1, 0)


def test_length_of_stay_is_unknown_before_discharge():
    row = build_utilisation(make_index(datetime(2150, 3, 11, 21)), ADMISSIONS).row(0, named=True)
    assert row["length_of_stay_days"] is None


def test_a_first_admission_has_no_last_one():
    row = build_utilisation(make_index(datetime(2150, 3, 13, 9)), ADMISSIONS[2:]).row(0, named=True)
    assert (row["prior_admissions"], row["days_since_last_admission"]) == (0, None)


def test_overlapping_records_give_no_negative_gap():
    before = make_admission(11, datetime(2150, 3, 9), datetime(2150, 3, 10, 23))
    admissions = pl.concat([pl.DataFrame([before], schema=ADMISSIONS.schema), ADMISSIONS[2:3]])
    row = build_utilisation(make_index(datetime(2150, 3, 13, 9)), admissions).row(0, named=True)
    assert row["days_since_last_admission"] == 0


@pytest.mark.parametrize(
    ("language", "flag"), [("ENGLISH", 1), ("English", 1), ("?", 0), (None, 0)]
)
def test_language(language, flag):
    admissions = ADMISSIONS.with_columns(language=pl.lit(language, dtype=pl.String))
    table = build_demographics(make_index(datetime(2150, 3, 13, 9)), admissions)
    assert table["language_english"].to_list() == [flag]


def test_categories_are_those_that_prediction_reads():
    changes = {"sex": "F ", "race": "WHITE - RUSSIAN", "insurance": " Medicare"}
    index = make_index(datetime(2150, 3, 13, 9), marital_status=None, **changes)
    row = build_demographics(index, ADMISSIONS).row(0, named=True)
    assert (row["sex"], row["race_group"]) == ("F", "white")
    assert (row["insurance"], row["marital_status"]) == ("medicare", None)
