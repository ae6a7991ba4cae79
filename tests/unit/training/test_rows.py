"""Rows that stand for others, because those were censored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from histofuse.params.base import load_section
from histofuse.params.tabular import TabularParams
from histofuse.training.recorder import Recorder
from histofuse.training.rows import repeat_by_weight, select_rows
from histofuse.training.tabular import fit_model, load_table

PARAMS = Path(__file__).parents[3] / "params.yaml"


@given(st.lists(st.floats(0, 4, width=32), min_size=1, max_size=50))
def test_rows_are_repeated_as_often_as_their_weight_says(weights):
    rows = repeat_by_weight(np.array(weights, dtype=np.float32), len(weights))
    counts = np.bincount(rows, minlength=len(weights))
    assert (np.abs(counts - weights) <= 1).all()
    assert abs(len(rows) - sum(weights)) <= 0.5 + 1e-3


def test_without_weights_each_row_is_itself():
    assert repeat_by_weight(None, 3).tolist() == [0, 1, 2]


@pytest.fixture
def weighted(small_project):
    """The encoded table of a cohort whose first patients count ten times."""
    cohort = pd.read_parquet("data/cohort/cohort.parquet")
    weight = np.where(np.arange(len(cohort)) < len(cohort) // 2, 10.0, 1.0)
    cohort.assign(weight=weight).to_parquet("data/cohort/cohort.parquet")
    meta = Path("data/cohort/meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"weighted": True}))
    return load_table(Path("data/encoded"), meta, "logistic_regression")


def test_models_learn_from_weighted_rows(weighted):
    assert "weight" not in weighted.features
    train = select_rows(weighted.rows, weighted.features, "train")
    assert set(train.take(np.arange(5)).weight) <= {1.0, 10.0}
    params = load_section(TabularParams, "tabular.logistic_regression").root
    fit = fit_model(weighted, params, 0, Recorder())
    peer = LogisticRegression(C=params.c, class_weight="balanced", max_iter=5000, tol=1e-8)
    peer.fit(train.x.astype(float), train.target, train.weight)
    np.testing.assert_allclose(fit.model.coefficients, peer.coef_[0], rtol=1e-5)
    plain = peer.fit(train.x.astype(float), train.target).coef_[0]
    assert not np.allclose(fit.model.coefficients, plain, rtol=1e-2)


@pytest.mark.parametrize("name", ["gradient_boosting", "xgboost", "mlp"])
def test_weights_change_every_kind_of_model(weighted, name):
    section = load_section(TabularParams, f"tabular.{name}", PARAMS).root
    few = {"rounds": 5} if name != "mlp" else {"epochs": 2}
    params = section.model_copy(update=few)
    rows = weighted.rows.fillna(0.0)
    logits = []
    for table in (rows, rows.drop(columns="weight")):
        fit = fit_model(replace(weighted, rows=table), params, 0, Recorder())
        logits.append(fit.model.logits(rows))
    assert not np.allclose(*logits)
