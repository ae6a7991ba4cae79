from datetime import datetime

import polars as pl
import pytest

from histofuse.features.demographics import (
    build_demographics,
    build_utilisation,
    group_admission,
    group_race,
)


def apply(function, value):
    table = pl.DataFrame({"x": [value]}, schema={"x": pl.String})
    return table.select(function(pl.col("x"))).item()


@pytest.mark.parametrize(
    ("race", "group"),
    [
        ("WHITE", "white"),
        ("WHITE - RUSSIAN", "white"),
        ("PORTUGUESE", "white"),
        ("BLACK/CAPE VERDEAN", "black"),
        ("HISPANIC/LATINO - CUBAN", "hispanic"),
        ("HISPANIC OR LATINO", "hispanic"),
        ("SOUTH AMERICAN", "hispanic"),
        ("ASIAN - CHINESE", "asian"),
        ("UNABLE TO OBTAIN", "unknown"),
        ("PATIENT DECLINED TO ANSWER", "unknown"),
        (None, "unknown"),
        ("AMERICAN INDIAN/ALASKA NATIVE", "other"),
        ("MULTIPLE RACE/ETHNICITY", "other"),
    ],
)
def test_race_is_grouped(race, group):
    assert apply(group_race, race) == group


@pytest.mark.parametrize(
    ("admission_type", "kind"),
    [
        ("EW EMER.", "emergency"),
        ("URGENT", "emergency"),
        ("SURGICAL SAME DAY ADMISSION", "elective"),
        ("EU OBSERVATION", "observation"),
        ("AMBULATORY OBSERVATION", "observation"),
        ("SOMETHING NEW", None),
        (None, None),
    ],
)
def test_admission_types_are_grouped(admission_type, kind):
    assert apply(group_admission, admission_type) == kind


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
