from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.features.encoding import Binary, Categorical, Continuous, Encoder
from histofuse.features.ranges import load_ranges
from histofuse.serving.records import find_recorded, make_unknown, read_records

AGE = load_ranges()["age_years"]
ENCODER = Encoder(
    strata=(),
    features=(
        Continuous("age_years", 60.0, {}, 60.0, 10.0, -3.0, 3.0, AGE.unit, AGE.low, AGE.high),
        Binary("metastatic", 0),
        Categorical("sex", "f", ("f", "m")),
    ),
    indicators=(),
    dropped=(),
    rows=2,
)
RECORD = {"age_years": 61.5, "metastatic": 1, "sex": "F"}


def make(**columns):
    given = {name: columns.get(name, [value] * 2) for name, value in RECORD.items()}
    return pd.DataFrame(given)


def test_columns_follow_the_order_of_their_kinds_and_others_are_dropped():
    given = make()[["sex", "metastatic", "age_years"]].assign(shoe_size=43).set_axis([4, 2])
    records = read_records(given, ENCODER)
    assert list(records) == list(RECORD)
    assert records.index.tolist() == [4, 2]
    assert records["metastatic"].tolist() == [1.0, 1.0]


def test_a_word_for_missing_is_a_category_where_training_knows_it_as_one():
    features = (*ENCODER.features, Categorical("therapy", "none", ("none", "yes")))
    encoder = replace(ENCODER, features=features)
    records = read_records(make().assign(therapy=["None", "yes"]), encoder)
    assert records["therapy"].tolist() == ["None", "yes"]
    with pytest.raises(InputError, match="therapy: is 'NULL'"):
        read_records(make().assign(therapy=["NULL", "yes"]), encoder)


@pytest.mark.parametrize("null", [None, np.nan, pd.NA])
def test_nulls_mean_not_known(null):
    given = pd.DataFrame(
        {name: pd.Series([value, null], dtype=object) for name, value in RECORD.items()}
    )
    records = read_records(given, ENCODER)
    assert records.iloc[1].isna().all()
    assert records["age_years"].dtype == np.float64
    assert find_recorded(records).tolist() == [True, False]


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("age_years", "sixty", "is 'sixty'; expected a finite number from 0 to 120 years, or null"),
        ("age_years", "61", "is '61'"),
        ("age_years", [61], r"is \[61\]"),
        ("age_years", {"value": 61}, "is {'value'"),
        ("age_years", float("inf"), "is inf"),
        ("age_years", 10**400, "is 1000"),
        ("age_years", True, "is True; expected a finite number from 0 to 120 years, or null"),
        ("age_years", np.bool_(True), "is True"),
        (
            "age_years",
            1e308,
            r"is 1e\+308; expected .* from 0 to 120 years, or null. Is it in another unit",
        ),
        ("age_years", 22_645, "is 22645; expected a finite number from 0 to 120 years, or null"),
        ("age_years", -0.5, "is -0.5; expected a finite number from 0 to 120 years, or null"),
        ("metastatic", 2, "is 2; expected 0 or 1, or null"),
        ("metastatic", 0.5, "is 0.5"),
        ("metastatic", "yes", "is 'yes'"),
        ("sex", 5, "is 5; expected a text, or null; training had f, m"),
        ("sex", "nan", "is 'nan'"),
        ("sex", " NULL", "is ' NULL'"),
        ("sex", "N/A", "is 'N/A'"),
        ("sex", ["F"], r"is \['F'\]"),
    ],
)
def test_a_wrong_value_is_named_by_row_and_column(column, value, problem):
    given = make(**{column: pd.Series([RECORD[column], value], dtype=object)})
    with pytest.raises(InputError, match=f"the record, row 1, {column}: {problem}"):
        read_records(given, ENCODER)


def test_truth_values_are_flags():
    records = read_records(make(metastatic=[True, False]), ENCODER)
    assert records["metastatic"].tolist() == [1.0, 0.0]


def test_a_long_text_is_not_repeated():
    with pytest.raises(InputError) as error:
        read_records(make(age_years=["A" * 10**6, None]), ENCODER)
    assert len(str(error.value)) < 200


def test_all_faults_are_listed_at_once():
    given = make(age_years=["a", "b"], metastatic=[3, 1], sex=[1, 2])
    with pytest.raises(InputError) as error:
        read_records(given, ENCODER)
    assert [str(f.where).rsplit(", ", 1)[1] for f in error.value.faults] == list(RECORD)
    assert "(2 such rows)" in str(error.value)


def test_all_missing_columns_are_named_and_a_misspelt_one_recognised():
    with pytest.raises(InputError, match="Is 'age_yaers' meant for it") as error:
        read_records(pd.DataFrame({"age_yaers": [61], "metastatic": [0]}), ENCODER)
    assert [fault.problem for fault in error.value.faults] == [
        "no column 'age_years'",
        "no column 'sex'",
    ]


def test_a_list_is_no_record():
    with pytest.raises(InputError, match="is a list"):
        read_records([RECORD], ENCODER)


def test_the_unknown_patient_is_a_record():
    unknown = make_unknown(ENCODER.inputs)
    pd.testing.assert_frame_equal(read_records(unknown, ENCODER), unknown)
    assert find_recorded(unknown).tolist() == [False]
