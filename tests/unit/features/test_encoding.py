import json

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import to_json
from histofuse.core.errors import InputError
from histofuse.features.encoding import (
    Encoder,
    encode,
    encode_table,
    find_unknown,
    fit_encoder,
    join_splits,
    label_strata,
)
from histofuse.features.specs import FeatureSpec
from histofuse.params.ehr import EncodingParams

PARAMS = EncodingParams(
    maximum_missing=0.8,
    strata=["sex", "age_band"],
    indicator_minimum_missing=0.05,
    fewest_patients=1,
)


def make_spec(name, kind="continuous", variable=None, indicator=False):
    return FeatureSpec(name, variable or name, kind, "", "laboratory", name, indicator)


SPECS = [
    make_spec("age_years"),
    make_spec("sex", "categorical"),
    make_spec("albumin_mean", variable="albumin", indicator=True),
    make_spec("albumin_min", variable="albumin", indicator=True),
    make_spec("sodium_mean", variable="sodium", indicator=True),
    make_spec("ferritin_mean", variable="ferritin", indicator=True),
    make_spec("hiv", "binary"),
    make_spec("opioids", "binary"),
    make_spec("insurance", "categorical"),
]
TRAIN = pd.DataFrame(
    {
        "age_years": [45.0, 46.0, 47.0, 65.0, 66.0],
        "sex": pd.array(["F", "F", "F", "F", "M"], dtype="str"),
        "albumin_mean": [3.0, 5.0, np.nan, 2.0, np.nan],
        "albumin_min": [3.0, 4.0, np.nan, 2.0, np.nan],
        "sodium_mean": [140.0, 138.0, 136.0, 134.0, 132.0],
        "ferritin_mean": [np.nan, np.nan, np.nan, np.nan, 100.0],
        "hiv": [0, 0, 0, 0, 0],
        "opioids": [1, 1, 1, 0, 0],
        "insurance": pd.array(["medicare", "other", "other", None, "medicaid"], dtype="str"),
    }
)
ENCODER = fit_encoder(TRAIN, SPECS, PARAMS)


def test_order_drops_and_indicators():
    assert ENCODER.feature_order == [
        "age_years",
        "sex=F",
        "sex=M",
        "albumin_mean",
        "albumin_min",
        "sodium_mean",
        "opioids",
        "insurance=medicaid",
        "insurance=medicare",
        "insurance=other",
        "albumin_missing",  # one a variable; sodium is never missing
    ]
    dropped = {d.name: (d.reason, d.missing) for d in ENCODER.dropped}
    assert dropped == {"ferritin_mean": ("missing", 0.8), "hiv": ("constant", 0.0)}


def test_continuous_values_are_imputed_by_stratum_and_standardised():
    observed = np.array([3.0, 5.0, 2.0])
    mean, std = observed.mean(), observed.std()
    column = encode(ENCODER, TRAIN)["albumin_mean"].to_numpy()
    # Row 2 is F|40 (median of 3 and 5); row 4 is M|60, a stratum without a value (overall 3).
    expected = (np.array([3.0, 5.0, 4.0, 2.0, 3.0]) - mean) / std
    np.testing.assert_allclose(column, expected, rtol=1e-6)


def test_a_stratum_is_imputed_by_its_median_not_its_mean():
    train = pd.DataFrame({"age_years": [45.0] * 4, "sodium_mean": [1.0, 2.0, 9.0, np.nan]})
    params = PARAMS.model_copy(update={"strata": ["age_band"]})
    encoder = fit_encoder(
        train.assign(age_years=[45.0, 46.0, 47.0, 48.0]),
        [make_spec("age_years"), make_spec("sodium_mean")],
        params,
    )
    column = encode(encoder, train)["sodium_mean"]
    assert column[3] == column[1]


def test_without_imputation_missing_values_stay_and_indicators_do_not_change():
    table = encode(ENCODER, TRAIN, impute=False)
    assert table["albumin_mean"].isna().tolist() == [False, False, True, False, True]
    assert table["insurance=other"].isna().tolist() == [False, False, False, True, False]
    assert table["albumin_missing"].tolist() == [0, 0, 1, 0, 1]
    assert encode(ENCODER, TRAIN)["albumin_missing"].tolist() == [0, 0, 1, 0, 1]
    assert not encode(ENCODER, TRAIN).isna().any().any()
    filled = table.notna()
    pd.testing.assert_frame_equal(table[filled], encode(ENCODER, TRAIN)[filled])


def test_categories_are_one_hot_missing_is_the_mode_and_unknown_is_all_zeros():
    names = ["insurance=medicaid", "insurance=medicare", "insurance=other"]
    rows = TRAIN.assign(insurance=["medicare", None, "private", "medicaid", "other"])
    assert encode(ENCODER, rows)[names].to_numpy().tolist() == [
        [0, 1, 0],
        [0, 0, 1],
        [0, 0, 0],
        [1, 0, 0],
        [0, 0, 1],
    ]


def test_binary_values_pass_and_missing_is_the_mode():
    rows = TRAIN.assign(opioids=[True, False, None, 1.0, np.nan])
    assert encode(ENCODER, rows)["opioids"].tolist() == [1, 0, 1, 1, 1]


def test_encoding_is_float32_and_keeps_the_index():
    rows = TRAIN.set_axis([7, 5, 3, 1, 9])
    table = encode(ENCODER, rows)
    assert set(table.dtypes) == {np.dtype("float32")}
    assert table.index.tolist() == [7, 5, 3, 1, 9]


def test_order_of_columns_and_further_ones_do_not_matter():
    shuffled = TRAIN[TRAIN.columns[::-1]].assign(note="x")
    pd.testing.assert_frame_equal(encode(ENCODER, shuffled), encode(ENCODER, TRAIN))


def test_json_holds_all_of_it():
    text = json.dumps(ENCODER.to_dict(), allow_nan=False)
    again = Encoder.from_dict(json.loads(text))
    assert again == ENCODER
    pd.testing.assert_frame_equal(encode(again, TRAIN), encode(ENCODER, TRAIN))


def test_a_tampered_encoder_is_refused():
    values = ENCODER.to_dict()
    with pytest.raises(InputError, match="feature_order"):
        Encoder.from_dict(values | {"feature_order": values["feature_order"][::-1]})
    with pytest.raises(InputError, match="format"):
        Encoder.from_dict(values | {"format": 1})


def test_all_faults_of_the_input_are_listed_at_once():
    bad = TRAIN.drop(columns="opioids").assign(
        age_years=["45", 45, "old", 65, 65],
        sodium_mean=[140.0, np.inf, 136.0, 134.0, 132.0],
        insurance=[1, 2, 3, 4, 5],
    )
    with pytest.raises(InputError) as error:
        encode(ENCODER, bad)
    message = str(error.value)
    assert len(error.value.faults) == 4
    assert "no column 'opioids'" in message
    assert "row 0, age_years: is '45' (2 such rows); expected a number" in message
    assert "row 1, sodium_mean: is inf" in message
    assert "row 0, insurance: is 1 (5 such rows); expected a text" in message


def test_a_binary_value_is_0_or_1():
    with pytest.raises(InputError, match=r"row 2, opioids: is .*2.*expected 0 or 1"):
        encode(ENCODER, TRAIN.assign(opioids=[0, 1, 2, 0, 1]))


def test_an_empty_column_means_not_known():
    table = encode(ENCODER, TRAIN.assign(albumin_mean=None, albumin_min=None, insurance=None))
    assert table["albumin_missing"].tolist() == [1] * 5
    assert table["insurance=other"].tolist() == [1] * 5


def test_no_rows_encode_to_none_but_fit_nothing():
    assert encode(ENCODER, TRAIN.iloc[:0]).shape == (0, len(ENCODER.feature_order))
    with pytest.raises(InputError, match="at least one row"):
        fit_encoder(TRAIN.iloc[:0], SPECS, PARAMS)


@pytest.mark.parametrize(
    ("age", "sex", "label"),
    [
        (39.9, "F", "F|0"),
        (40.0, "F", "F|40"),
        (79.9, "M", "M|70"),
        (91.0, "M", "M|80"),
        (np.nan, None, "?|?"),
    ],
)
def test_strata(age, sex, label):
    rows = pd.DataFrame({"age_years": [age], "sex": pd.array([sex], dtype="str")})
    assert label_strata(rows, ["sex", "age_band"]).tolist() == [label]


def test_strata_need_their_columns_even_where_those_were_dropped():
    women = TRAIN.assign(sex="F")
    encoder = fit_encoder(women, SPECS, PARAMS)
    assert "sex" in {d.name for d in encoder.dropped}
    assert encoder.inputs["sex"] == "categorical"
    with pytest.raises(InputError, match="no column 'sex'"):
        encode(encoder, women.drop(columns="sex"))


def test_strata_without_their_feature_are_left_out():
    specs = [spec for spec in SPECS if spec.name != "sex"]
    encoder = fit_encoder(TRAIN, specs, PARAMS)
    assert encoder.strata == ("age_band",)
    assert not encode(encoder, TRAIN.drop(columns="sex")).isna().any().any()


def test_the_share_that_drops_is_reached_not_passed():
    params = EncodingParams(
        maximum_missing=0.81, strata=[], indicator_minimum_missing=0.4, fewest_patients=1
    )
    train = TRAIN.assign(ferritin_mean=[np.nan, 90.0, np.nan, np.nan, 100.0])
    encoder = fit_encoder(train, SPECS, params)
    assert "ferritin_mean" in encoder.feature_order
    assert [i.column for i in encoder.indicators] == ["albumin_missing", "ferritin_missing"]
    strict = params.model_copy(update={"maximum_missing": 0.6})
    assert "ferritin_mean" in {d.name for d in fit_encoder(train, SPECS, strict).dropped}


REPEATING = {
    "opioids": ("binary", [1, 0, 1, 0, 0, 1]),
    "no_opioids": ("binary", [0, 1, 0, 1, 1, 0]),  # complementary
    "score": ("continuous", [3.5, 1.5, 3.5, 1.5, 1.5, 3.5]),  # 2 x opioids + 1.5
    "age_years": ("continuous", [40.0, 50.0, np.nan, 70.0, 44.0, 61.0]),
    "age_months": ("continuous", [480.0, 600.0, np.nan, 840.0, 528.0, 732.0]),
    "age_known": ("continuous", [40.0, 50.0, 60.0, 70.0, 44.0, 61.0]),  # not missing in the same
    "female": ("binary", [1, 1, 0, 1, 0, 0]),  # stands before the feature it repeats
    "sex": ("categorical", ["F", "F", "M", "F", "M", "M"]),
    "gender": ("categorical", ["w", "w", "m", "w", "m", "m"]),
    "race_group": ("categorical", ["white", "asian", "white", "other", "asian", "other"]),
}


def test_columns_that_repeat_each_other_are_left_out_and_named():
    train = pd.DataFrame({name: values for name, (_, values) in REPEATING.items()})
    specs = [make_spec(name, kind) for name, (kind, _) in REPEATING.items()]
    encoder = fit_encoder(train, specs, PARAMS.model_copy(update={"strata": []}))
    assert {d.name: d.reason for d in encoder.dropped} == {
        "no_opioids": "repeats opioids",
        "score": "repeats opioids",
        "age_months": "repeats age_years",
        "female": "repeats sex=F",
        "gender": "repeats sex",
    }
    assert Encoder.from_dict(json.loads(json.dumps(encoder.to_dict()))) == encoder
    # A record may still hold them, and need not.
    kept = train[list(encoder.inputs)]
    pd.testing.assert_frame_equal(encode(encoder, train), encode(encoder, kept))


def test_values_that_are_missing_together_get_one_indicator():
    train = TRAIN.assign(sodium_mean=[140.0, 138.0, np.nan, 134.0, np.nan])
    encoder = fit_encoder(train, SPECS, PARAMS)
    assert [i.column for i in encoder.indicators] == ["albumin_missing"]
    assert "repeats albumin_missing" in {d.reason for d in encoder.dropped}


def test_values_beyond_those_of_training_are_clipped_and_training_itself_is_not():
    high = encode(ENCODER, TRAIN.assign(sodium_mean=[150.0, 199.0, 1e6, -1e6, 132.0]))
    assert high["sodium_mean"].tolist()[:4] == [2.0, 2.0, 2.0, -2.0]  # 132 to 140 is -1.4 to 1.4
    free = encode(ENCODER, TRAIN, impute=False)["sodium_mean"]
    pd.testing.assert_series_equal(encode(ENCODER, TRAIN)["sodium_mean"], free)


def test_spellings_of_a_category_are_one_and_strata_read_them_too():
    rows = TRAIN.assign(
        sex=["Female", " f", "FEMALE", "F", "male"],
        insurance=["Medicare", "OTHER ", "other", None, "MEDICAID"],
        albumin_mean=np.nan,
    )
    pd.testing.assert_frame_equal(
        encode(ENCODER, rows), encode(ENCODER, TRAIN.assign(albumin_mean=np.nan))
    )
    assert not find_unknown(ENCODER, rows).any().any()
    assert fit_encoder(rows.assign(albumin_mean=TRAIN["albumin_mean"]), SPECS, PARAMS) == ENCODER


def test_categories_that_training_did_not_have_are_found():
    rows = TRAIN.assign(sex=["X", "F", None, "M", "F"], insurance=["Tricare"] * 2 + [None] * 3)
    unknown = find_unknown(ENCODER, rows)
    assert unknown["sex"].tolist() == [True, False, False, False, False]
    assert unknown["insurance"].tolist() == [True, True, False, False, False]


def make_tables():
    keys = pd.DataFrame({"subject_id": [1, 2, 3, 4, 5], "hadm_id": [11, 21, 31, 41, 51]})
    features = pd.concat([keys, TRAIN], axis=1)
    split = ["train", "test", "train", "validation", "train"]
    splits = keys.assign(split=pd.array(split, dtype="str"))
    return features, splits, keys.assign(target=[0, 1, 0, 1, 1])


def test_tables_are_joined_by_key_not_by_position():
    features, splits, cohort = make_tables()
    joined = join_splits(features.iloc[::-1], splits.sample(frac=1, random_state=1), cohort)
    assert joined["split"].tolist() == ["train", "test", "train", "validation", "train"]
    assert joined["target"].tolist() == [0, 1, 0, 1, 1]
    assert joined["sodium_mean"].tolist() == TRAIN["sodium_mean"].tolist()
    table = encode_table(ENCODER, joined, impute=True)
    assert table.columns[:4].tolist() == ["subject_id", "hadm_id", "split", "target"]
    assert table.columns[4:].tolist() == ENCODER.feature_order


def test_tables_of_other_admissions_are_refused():
    features, splits, cohort = make_tables()
    with pytest.raises(InputError) as error:
        join_splits(features, splits.iloc[1:], cohort.assign(hadm_id=[11, 21, 31, 41, 52]))
    assert len(error.value.faults) == 2
    assert "1 admission in" in str(error.value)
    assert "2 admissions" in str(error.value)


def test_nothing_is_learnt_from_few_patients():
    """Two admissions are still one patient."""
    rows = pd.concat([TRAIN] * 4, ignore_index=True)
    rows["subject_id"] = range(len(rows))
    planted = {
        "age_years": 85.0, "sex": "F", "albumin_mean": 7.77, "albumin_min": 1.0,
        "sodium_mean": 123.45, "hiv": 0, "opioids": 1, "insurance": "planted",
    }  # fmt: skip
    twice = pd.DataFrame([planted | {"subject_id": 99}] * 2)
    train = pd.concat([rows, twice], ignore_index=True)

    encoder = fit_encoder(train, SPECS, PARAMS.model_copy(update={"fewest_patients": 2}))
    text = to_json(encoder.to_dict())
    for value in ("planted", "7.77", "123.45", "F|80"):
        assert value not in text
    assert "F|40" in text
    assert "insurance=medicare" in encoder.feature_order

    encoded = encode(encoder, train)
    hot = [column for column in encoded if column.startswith("insurance=")]
    assert not encoded.loc[train["subject_id"] == 99, hot].any().any()

    ages = next(f for f in encoder.features if f.name == "albumin_mean")
    assert "F|80" in str(fit_encoder(train, SPECS, PARAMS).to_dict())
    assert ages.medians == {"F|40": 4.0, "F|60": 2.0}


def test_feature_of_few_patients_is_left_out():
    params = PARAMS.model_copy(update={"fewest_patients": 4})
    reasons = {d.name: d.reason for d in fit_encoder(TRAIN, SPECS, params).dropped}
    assert reasons["albumin_mean"] == reasons["insurance"] == "few patients"
