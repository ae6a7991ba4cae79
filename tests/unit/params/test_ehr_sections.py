from contextlib import nullcontext

import pytest

from histofuse.core.errors import InputError
from histofuse.params.base import load_section
from histofuse.params.ehr import EhrFeaturesParams, EncodingParams

FEATURES = {
    "comorbidities": "elixhauser_quan",
    "diagnoses_from": "prior",
    "index_diagnoses": "all",
    "labs": ["albumin"],
    "lab_lookback_hours": 0.0,
    "treatments": [],
    "treatment_lookback_days": 0.0,
}
ENCODING = {
    "maximum_missing": 0.8, "strata": ["sex"], "indicator_minimum_missing": 0.05,
    "fewest_patients": 10,
}  # fmt: skip


def test_default_sections_load():
    assert len(load_section(EhrFeaturesParams, "ehr_features").treatments) >= 10
    assert load_section(EncodingParams, "encoding").maximum_missing == 0.8


@pytest.mark.parametrize(
    ("model", "values", "changes", "message"),
    [
        (EhrFeaturesParams, FEATURES, {"comorbidities": "charlson"}, "elixhauser_ahrq"),
        (EhrFeaturesParams, FEATURES, {"diagnoses_from": "index"}, "prior_and_index"),
        (EhrFeaturesParams, FEATURES, {"labs": ["a", "b", "a"]}, "found a more than once"),
        (EhrFeaturesParams, FEATURES, {"lab_lookback_hours": -1.0}, "greater than or equal"),
        (EhrFeaturesParams, FEATURES, {"window": 1}, "Extra inputs"),
        (EncodingParams, ENCODING, {"maximum_missing": 0.0}, "greater than 0"),
        (EncodingParams, ENCODING, {"maximum_missing": "0.8"}, "valid number"),
        (EncodingParams, ENCODING, {"strata": ["race"]}, "'sex' or 'age_band'"),
        (EncodingParams, ENCODING, {"strata": ["sex", "sex"]}, "each name once"),
        (EncodingParams, ENCODING, {"indicator_minimum_missing": 1.1}, "less than or equal"),
    ],
)
def test_nonsense_is_refused(model, values, changes, message):
    model.model_validate(values)
    with pytest.raises(ValueError, match=message):
        model.model_validate(values | changes)


@pytest.mark.parametrize(
    ("source", "fewest", "refused"),
    [("restricted", 9, True), ("new", 9, True), ("restricted", 10, False), ("simulated", 1, False)],
)
def test_encoding_of_restricted_records_is_learnt_from_ten_patients_or_more(
    source, fewest, refused
):
    params = EncodingParams.model_validate(ENCODING | {"fewest_patients": fewest})
    with (
        pytest.raises(InputError, match=r"encoding\.fewest_patients") if refused else nullcontext()
    ):
        params.check_source(source)
