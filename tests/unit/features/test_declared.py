"""Features of a declared table: what its declaration says, and nothing else."""

import math

import pytest
from declared_records import TABLE, write_declared

from histofuse.core.errors import InputError
from histofuse.core.tables import check_table
from histofuse.data.declared.cohort import build_declared_cohort
from histofuse.data.declared.table import read_declared
from histofuse.features.declared import build_declared_features
from histofuse.features.specs import FEATURES

DATES = {
    "prediction_time": {"description": "surgery", "column": "operated"},
    "dates": {"since_biopsy": {"column": "biopsy", "description": "Days since the biopsy"}},
}


def build(folder):
    source = read_declared(folder)
    return build_declared_features(source, build_declared_cohort(source).table)


def test_the_features_by_value(tmp_path):
    features = build(write_declared(tmp_path))
    check_table(features.table, FEATURES, "features")
    rows = features.table.set_index("subject_id").astype(object)
    rows = rows.where(rows.notna(), None).drop(columns="hadm_id")
    assert rows.to_dict("index") == {
        1: {"age_years": 61.0, "grade": 3.0, "therapy": "None"},
        2: {"age_years": 50.0, "grade": 1.0, "therapy": "Yes"},
        4: {"age_years": None, "grade": None, "therapy": None},  # 200 years is implausible
        5: {"age_years": 45.0, "grade": 1.0, "therapy": "None"},
        6: {"age_years": 70.0, "grade": 3.0, "therapy": "Yes"},
    }
    assert features.outside.set_index("feature")["outside"].to_dict() == {
        "age_years": 1,
        "grade": 0,
    }
    quality = features.quality["laboratory"].set_index("lab")
    assert quality.loc["age_years", ["rows", "as_recorded", "implausible"]].tolist() == [5, 4, 1]
    masked = {m["name"]: m["reason"] for m in features.masked["masked"]}
    assert masked == {
        "months": "holds the target",
        "status": "holds the target",
        "died": "known only afterwards",
    }


def test_dates_count_back_from_the_prediction(tmp_path):
    dated = TABLE.replace("patient,", "patient,operated,biopsy,").replace(
        "P-02,", "P-02,2020-03-01,2020-02-01,"
    )
    for n in ("03", "04", "05", "06", "07", "10"):
        dated = dated.replace(f"P-{n},", f"P-{n},2020-03-01,,")
    days = build(write_declared(tmp_path, dated, **DATES)).table.set_index("subject_id")[
        "since_biopsy"
    ]
    assert days[2] == 29.0
    assert math.isnan(days[1])
    late = dated.replace("2020-02-01", "2020-03-02")
    with pytest.raises(InputError, match=r"line 2, biopsy: lies after operated; .*gives_away"):
        build(write_declared(tmp_path, late, **DATES))


@pytest.mark.parametrize(
    ("old", "new", "changes", "problem"),
    [
        (",low,", ",lwo,", {}, r"line 2, Grade: is 'lwo' \(4 such rows\).*Did you mean low\?"),
        (",yes,", ",maybe,", {}, "therapy: is 'maybe'.*expected one of None, Yes"),
        ("61,", "61 y,", {}, "line 3, Age: is '61 y'; expected a number of years"),
        ("", "", {"numeric__age_years__unit": "months"}, "unit: is 'months'; expected 'years'"),
        ("", "", {"numeric__age_years__low": 90}, "6 of 6 values are outside.*another unit"),
    ],
)
def test_what_is_not_as_declared_is_named(tmp_path, old, new, changes, problem):
    table = TABLE.replace(old, new) if old else TABLE
    with pytest.raises(InputError, match=problem):
        build(write_declared(tmp_path, table, **changes))
