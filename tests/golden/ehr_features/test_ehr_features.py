"""The stage's golden example: three patients in, the feature table out, worked by hand."""

from pathlib import Path

import pandas as pd
import pytest

from histofuse.data.targets import TARGETS
from histofuse.features.ehr import build_features
from histofuse.params.ehr import EhrFeaturesParams

HERE = Path(__file__).parent
TIMES = ["admittime", "dischtime", "prediction_time"]
PARAMS = EhrFeaturesParams(
    comorbidities="elixhauser_ahrq",
    diagnoses_from="prior_and_index",
    index_diagnoses="secondary",
    labs=["haemoglobin", "creatinine", "albumin"],
    lab_lookback_hours=24.0,
    treatments=["chemotherapy", "endocrine", "steroids", "opioids", "antiemetics"],
    treatment_lookback_days=365.0,
)


@pytest.fixture(scope="module")
def features():
    cohort = pd.read_csv(HERE / "cohort.csv", parse_dates=TIMES)
    return build_features(cohort, HERE, PARAMS, TARGETS["mortality_1y"], "discharge")


def test_every_cell_of_the_feature_table(features):
    expected = pd.read_csv(HERE / "expected_features.csv", index_col="feature")
    actual = features.table.set_index("hadm_id").drop(columns="subject_id").T
    expected.columns = expected.columns.astype(int)
    assert list(actual.index) == list(expected.index)
    for hadm_id in expected:
        for name, wanted in expected[hadm_id].items():
            found = actual.at[name, hadm_id]
            if pd.isna(wanted):
                assert pd.isna(found), (hadm_id, name, found)
            elif isinstance(found, str):
                assert found == wanted, (hadm_id, name)
            else:
                assert found == pytest.approx(float(wanted), abs=1e-9), (hadm_id, name)


def test_what_became_of_the_laboratory_rows(features):
    counts = features.quality["laboratory"].set_index("lab")
    fates = ["rows", "as_recorded", "unit_converted", "unit_corrected", "no_number"]
    fates += ["unknown_unit", "implausible"]
    assert counts.loc["haemoglobin", fates].tolist() == [6, 3, 1, 0, 1, 0, 1]
    assert counts.loc["creatinine", fates].tolist() == [2, 0, 0, 1, 0, 1, 0]
    assert counts.loc["albumin", fates].tolist() == [2, 1, 1, 0, 0, 0, 0]


def test_specs_name_the_columns_in_order(features):
    assert [spec.name for spec in features.specs] == list(features.table.columns[2:])
    units = {spec.name: spec.unit for spec in features.specs}
    assert (units["haemoglobin_mean"], units["age_years"]) == ("g/dL", "years")
    assert {s.variable for s in features.specs if s.indicator} == set(PARAMS.labs)
