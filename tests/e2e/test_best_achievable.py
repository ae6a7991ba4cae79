"""XGBoost against the risk model that drew the simulated outcomes: the best score there can be."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from project import copy_sources
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from histofuse.core.tables import read_table
from histofuse.data.cohort import COHORT
from histofuse.data.simulate.mimiciv.tables import RISK_MODEL
from histofuse.features.encoding import encode_table, fit_encoder
from histofuse.features.specs import FEATURES, load_specs
from histofuse.params.base import load_section
from histofuse.params.ehr import EncodingParams
from histofuse.params.tabular import TabularParams
from histofuse.training.boosting import cross_validate, fit_booster
from histofuse.training.recorder import Recorder
from histofuse.training.rows import select_rows

pytestmark = pytest.mark.e2e

KEY = ["subject_id", "hadm_id"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """Features, target and true probability of the default cohort."""
    project = copy_sources(tmp_path_factory.mktemp("cohort") / "histofuse")
    for stage in ("simulate_mimiciv", "cohort", "ehr_features"):
        project.run("python", f"pipelines/{stage}.py")
    data = project.root / "data"
    features = read_table(data / "ehr/features.parquet", FEATURES)
    targets = read_table(data / "cohort/cohort.parquet", COHORT)[[*KEY, "target"]]
    risk = read_table(data / "simulated/risk_model.parquet", RISK_MODEL)
    table = features.merge(targets, on=KEY, validate="1:1").merge(risk, on=KEY, validate="1:1")
    return project.root, table


def predict_out_of_fold(root: Path, table: pd.DataFrame, rounds: int | None) -> np.ndarray:
    """Predict each row by models fitted without it; encoder and rounds are chosen inside."""
    params = load_section(TabularParams, "tabular.xgboost", root / "params.yaml").root
    encoding = load_section(EncodingParams, "encoding", root / "params.yaml")
    specs = load_specs(root / "data/ehr/features.json")
    predicted = np.empty(len(table))
    for _, held_out in StratifiedKFold(5, shuffle=True, random_state=1).split(table, table.target):
        split = np.full(len(table), "train", dtype=object)
        split[held_out] = "test"
        joined = table.drop(columns="true_probability").assign(split=pd.array(split, dtype="str"))
        encoder = fit_encoder(joined[joined["split"] == "train"], specs, encoding)
        encoded = encode_table(encoder, joined, impute=False).set_index(KEY, drop=False)
        encoded = encoded.loc[pd.MultiIndex.from_frame(table[KEY])]
        train = select_rows(encoded, encoder.feature_order, "train")
        test = select_rows(encoded, encoder.feature_order, "test")
        chosen = rounds or cross_validate(train, params, 1, Recorder()).rounds
        booster = fit_booster(train, params, chosen, seed=1)
        predicted[held_out] = booster.inplace_predict(test.x)
    return predicted


def test_xgboost_comes_within_a_twentieth_of_the_best_achievable(cohort):
    root, table = cohort
    best = roc_auc_score(table["target"], table["true_probability"])

    reached = roc_auc_score(table["target"], predict_out_of_fold(root, table, rounds=None))

    assert 0.78 < best < 0.90
    assert best - 0.05 < reached < best + 0.01, f"reached {reached:.3f} of {best:.3f}"


def test_shuffled_labels_are_a_coin_toss(cohort):
    root, table = cohort
    shuffled = table.assign(target=np.random.default_rng(1).permutation(table["target"]))

    reached = roc_auc_score(shuffled["target"], predict_out_of_fold(root, shuffled, rounds=50))

    # Three standard errors of an AUROC with about 450 positives among 1,900.
    assert abs(reached - 0.5) < 0.05
