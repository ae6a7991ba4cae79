"""The default params on the simulated hospital, made small."""

import pytest

from histofuse.data.cohort import build_cohort
from histofuse.data.mimic import load_hospital
from histofuse.data.simulate.mimiciv.tables import simulate_hospital, write_hospital
from histofuse.data.splits import split_patients
from histofuse.features.ehr import build_features
from histofuse.features.encoding import encode_table, fit_encoder, join_splits
from histofuse.params.base import load_section
from histofuse.params.ehr import CohortParams, EhrFeaturesParams, EncodingParams
from histofuse.params.simulation import MimicSimulationParams
from histofuse.params.splits import PatientSplitParams

PATIENTS = MimicSimulationParams(patients=1500, breast_cancer_fraction=0.4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("mimiciv")
    write_hospital(simulate_hospital(PATIENTS, seed=1).tables, root)
    cohort = build_cohort(load_hospital(root), load_section(CohortParams, "cohort"), root)
    params = load_section(EhrFeaturesParams, "ehr_features")
    features = build_features(cohort.table, root, params, cohort.target, cohort.prediction_time)
    splits = split_patients(
        cohort.table, load_section(PatientSplitParams, "splits.patients"), seed=1
    )
    joined = join_splits(features.table, splits, cohort.table)
    train = joined[joined["split"] == "train"]
    encoder = fit_encoder(train, features.specs, load_section(EncodingParams, "encoding"))
    return features, joined, encoder


def test_the_default_run_has_80_to_100_encoded_features(run):
    assert 80 <= len(run[2].feature_order) <= 100


def test_laboratory_values_missing_as_in_mimic_get_indicators(run):
    assert [indicator.column for indicator in run[2].indicators] == [
        "calcium_missing",
        "albumin_missing",
        "alkaline_phosphatase_missing",
        "lactate_dehydrogenase_missing",
    ]


def test_train_is_standardised_and_complete(run):
    _, joined, encoder = run
    with_missing = encode_table(encoder, joined, impute=False)
    train = with_missing[with_missing["split"] == "train"]
    continuous = [f.name for f in encoder.features if f.kind == "continuous"]
    assert train[continuous].mean().abs().max() < 1e-4
    assert (train[continuous].std(ddof=0) - 1).abs().max() < 1e-4
    assert with_missing.isna().any().any()
    assert not encode_table(encoder, joined, impute=True).isna().any().any()


def test_simulated_unit_mix_ups_are_found(run):
    quality = run[0].quality["laboratory"].set_index("lab")
    assert quality.loc["haemoglobin", "unit_converted"] > 0
    assert (quality["implausible"] > 0).any()
    assert quality["as_recorded"].sum() / quality["rows"].sum() > 0.95
