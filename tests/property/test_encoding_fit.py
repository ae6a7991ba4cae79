"""What the encoder learns comes from the train rows, whatever the others hold."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from histofuse.features.encoding import encode, fit_encoder, join_splits
from histofuse.features.specs import FeatureSpec
from histofuse.params.ehr import EncodingParams

SPECS = [
    FeatureSpec("age_years", "age_years", "continuous", "years", "demographics", ""),
    FeatureSpec("sex", "sex", "categorical", "", "demographics", ""),
    FeatureSpec("albumin_mean", "albumin", "continuous", "g/dL", "laboratory", "", indicator=True),
    FeatureSpec("opioids", "opioids", "binary", "", "treatment", ""),
]
numbers = st.none() | st.floats(-1e6, 1e6, allow_nan=False)
rows = st.tuples(
    st.floats(18, 100), st.sampled_from(["F", "M", None]), numbers, st.sampled_from([0, 1, None])
)
tables = st.lists(rows, min_size=3, max_size=12)
shares = st.sampled_from([0.3, 0.8, 1.0])
strata_names = st.sampled_from([[], ["sex"], ["sex", "age_band"]])
indicator_shares = st.sampled_from([0.0, 0.05, 0.5])


def make_params(drop, strata, indicator):
    return EncodingParams(
        maximum_missing=drop, strata=strata, indicator_minimum_missing=indicator, fewest_patients=1
    )


def make_features(values, first_id):
    table = pd.DataFrame(values, columns=[spec.name for spec in SPECS])
    table = table.astype(
        {"age_years": "float64", "sex": "str", "albumin_mean": "float64", "opioids": "float64"}
    )
    ids = np.arange(first_id, first_id + len(table))
    return table.assign(subject_id=ids, hadm_id=ids * 10)


def fit(train, others, params):
    features = pd.concat([train, others], ignore_index=True)
    names = ["train"] * len(train) + ["test"] * len(others)
    keys = features[["subject_id", "hadm_id"]]
    splits = keys.assign(split=pd.array(names, dtype="str"))
    joined = join_splits(features, splits, keys.assign(target=0))
    return fit_encoder(joined[joined["split"] == "train"], SPECS, params)


@given(
    train=tables,
    others=tables,
    altered=tables,
    drop=shares,
    names=strata_names,
    indicator=indicator_shares,
)
@settings(max_examples=30, deadline=None)
def test_other_rows_do_not_change_the_encoder(train, others, altered, drop, names, indicator):
    params = make_params(drop, names, indicator)
    train = make_features(train, 1)
    first = fit(train, make_features(others, 100), params)
    second = fit(train, make_features(altered, 100), params)
    assert first.to_dict() == second.to_dict()


@given(train=tables, others=tables, drop=shares, names=strata_names, indicator=indicator_shares)
@settings(max_examples=30, deadline=None)
def test_imputed_rows_are_complete_and_a_row_does_not_depend_on_its_neighbours(
    train, others, drop, names, indicator
):
    params = make_params(drop, names, indicator)
    encoder = fit_encoder(make_features(train, 1), SPECS, params)
    features = make_features(others, 1)
    together = encode(encoder, features)
    assert not together.isna().any().any()
    alone = pd.concat([encode(encoder, features.iloc[[i]]) for i in range(len(features))])
    pd.testing.assert_frame_equal(together, alone)
