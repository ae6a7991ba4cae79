"""XGBoost's cross-validation against XGBoost's own, and against chance."""

import numpy as np
import pytest
import xgboost

from histofuse.core.seeding import derive_seed
from histofuse.models.trees import make_matrix
from histofuse.params.tabular import XgboostParams
from histofuse.training.boosting import cross_validate, fit_booster, make_settings
from histofuse.training.folds import split_folds
from histofuse.training.recorder import Recorder
from histofuse.training.rows import LabelledRows

PARAMS = XgboostParams(
    kind="xgboost",
    max_depth=3,
    learning_rate=0.2,
    rounds=25,
    subsample=1.0,
    colsample=1.0,
    min_child_weight=1.0,
    reg_lambda=1.0,
    folds=4,
    early_stopping_rounds=25,
    imbalance="class_weights",
    calibration="platt",
    threshold="youden_j",
    study="none",
)


def make_rows(n=400, seed=0, shuffle=False, repeats=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    target = (rng.random(n) < 1 / (1 + np.exp(-(2 * x[:, 0] - 1.5)))).astype(np.int64)
    if shuffle:
        target = rng.permutation(target)
    x[rng.random(x.shape) < 0.1] = np.nan
    return LabelledRows(x, target, np.arange(n) // repeats)


def test_mean_and_sd_a_round_are_those_of_xgboost_cv():
    rows = make_rows()
    found = cross_validate(rows, PARAMS, 3, Recorder())
    settings = make_settings(PARAMS, rows, 3)
    peer = xgboost.cv(
        settings,
        make_matrix(rows.x, rows.target),
        num_boost_round=25,
        folds=split_folds(rows.target, rows.subjects, 2, 4, derive_seed(3, "folds")),
        metrics=("auc", "logloss"),
    )
    ours = found.history
    np.testing.assert_allclose(ours["validation_auroc"], peer["test-auc-mean"], atol=1e-6)
    np.testing.assert_allclose(ours["train_auroc"], peer["train-auc-mean"], atol=1e-6)
    # XGBoost divides by n, the table by n - 1; its logloss is weighted only by instance weights.
    factor = np.sqrt(4 / 3)
    np.testing.assert_allclose(
        ours["validation_auroc_sd"], peer["test-auc-std"] * factor, atol=1e-6
    )
    assert found.rounds == int(np.argmax(peer["test-auc-mean"])) + 1
    assert found.scores["auroc"]["mean"] == pytest.approx(peer["test-auc-mean"].max(), abs=1e-6)


def test_growing_stops_once_patience_is_over():
    params = PARAMS.model_copy(update={"early_stopping_rounds": 4, "rounds": 200})
    found = cross_validate(make_rows(), params, 3, Recorder())
    assert len(found.history) == found.rounds + 4 < 200
    assert (
        found.history["validation_auroc"].max()
        == found.history["validation_auroc"].iloc[found.rounds - 1]
    )


def test_shuffled_labels_are_worth_half_an_auroc():
    means = [
        cross_validate(
            make_rows(n=600, seed=s, shuffle=True),
            PARAMS.model_copy(update={"rounds": 10}),
            s,
            Recorder(),
        )
        .history["validation_auroc"]
        .iloc[-1]
        for s in range(4)
    ]
    assert abs(np.mean(means) - 0.5) < 0.04
    assert cross_validate(make_rows(n=600), PARAMS, 0, Recorder()).scores["auroc"]["mean"] > 0.8


def test_a_patient_s_rows_stay_in_one_fold():
    rows = make_rows(n=300, repeats=3)
    for rest, held_out in split_folds(rows.target, rows.subjects, 2, 5, seed=1):
        assert not set(rows.subjects[rest]) & set(rows.subjects[held_out])
        assert 0.1 < rows.target[held_out].mean() / rows.target.mean() < 2


def test_folds_hold_the_same_share_of_positives():
    rows = make_rows(n=500)
    folds = split_folds(rows.target, rows.subjects, 2, 5, seed=1)
    shares = [rows.target[held].mean() for _, held in folds]
    assert max(shares) - min(shares) <= 0.011


def test_positives_weigh_as_much_as_negatives():
    rows = make_rows()
    weight = make_settings(PARAMS, rows, 0)["scale_pos_weight"]
    assert weight == pytest.approx((rows.target == 0).sum() / (rows.target == 1).sum())
    unweighted = PARAMS.model_copy(update={"imbalance": "none"})
    assert make_settings(unweighted, rows, 0)["scale_pos_weight"] == 1


def test_missing_values_are_read_as_missing():
    rows = make_rows(n=400)
    x = rows.x.copy()
    # Whether the second feature is there is all there is to know.
    x[:, 1] = np.where(rows.target == 1, np.nan, 1.0)
    booster = fit_booster(LabelledRows(x, rows.target, rows.subjects), PARAMS, 5, 0)
    margin = booster.predict(make_matrix(x), output_margin=True)
    assert margin[rows.target == 1].min() > margin[rows.target == 0].max()
