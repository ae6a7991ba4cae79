"""Objectives over folds against training's own cross-validation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.core.errors import InputError
from histofuse.core.seeding import derive_seed
from histofuse.models.trees import make_matrix
from histofuse.params.tabular import LogisticRegressionParams, MlpParams, XgboostParams
from histofuse.studies.objectives.folds import (
    MlpObjective,
    XgboostObjective,
    choose_rounds,
    make_objective,
)
from histofuse.studies.trials import StopTrial
from histofuse.training.boosting import cross_validate, fit_booster
from histofuse.training.folds import split_folds
from histofuse.training.recorder import Recorder
from histofuse.training.rows import score_logits, select_rows
from histofuse.training.tabular import EncodedTable

DECISION = {"calibration": "platt", "threshold": "youden_j", "study": "none"}
FEATURES = [f"f{i}" for i in range(5)]
XGBOOST = XgboostParams(
    kind="xgboost", max_depth=3, learning_rate=0.2, rounds=30, subsample=1.0, colsample=1.0,
    min_child_weight=1.0, reg_lambda=1.0, folds=4, early_stopping_rounds=30,
    imbalance="class_weights", **DECISION,
)  # fmt: skip
MLP = MlpParams(
    kind="mlp", hidden=[8], dropout=0.0, learning_rate=0.02, weight_decay=0.0, batch_size=64,
    epochs=4, warmup_epochs=0, step_epochs=10, step_factor=0.5, patience=4, monitor="auroc",
    loss="bce", imbalance="none", **DECISION,
)  # fmt: skip


def make_table(n=400, seed=0, shuffle=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    target = (rng.random(n) < 1 / (1 + np.exp(-(2 * x[:, 0] - 1)))).astype(np.int64)
    if shuffle:
        target = rng.permutation(target)
    key = {"subject_id": np.arange(n), "hadm_id": np.arange(n), "target": target}
    split = pd.array(np.resize(["train", "train", "train", "test"], n), dtype="str")
    return pd.DataFrame({**key, "split": split, **dict(zip(FEATURES, x.T, strict=True))})


def ignore(step, value):
    pass


def test_the_value_is_that_of_training_s_cross_validation():
    table = make_table()
    found = cross_validate(select_rows(table, FEATURES, "train"), XGBOOST, 3, Recorder())
    for metric in ("auroc", "macro_f1"):
        result = XgboostObjective(table, FEATURES, XGBOOST, 3, metric)(XGBOOST, ignore)
        assert result.value == pytest.approx(found.scores[metric]["mean"], abs=1e-6)
        assert result.scores["cv/rounds"] == found.rounds
        assert np.mean(result.steps["cv/auroc/fold"]) == pytest.approx(result.scores["cv/auroc"])
        assert len(result.steps["cv/f1/macro/fold"]) == 4


def test_folds_that_stop_alone_score_almost_as_those_that_grow_together():
    params = XGBOOST.model_copy(
        update={"rounds": 200, "early_stopping_rounds": 10, "subsample": 0.8, "colsample": 0.8}
    )
    table = make_table(n=1200)
    found = cross_validate(select_rows(table, FEATURES, "train"), params, 3, Recorder())
    assert len(found.history) < 200, "nothing stopped early"
    result = XgboostObjective(table, FEATURES, params, 3, "auroc")(params, ignore)
    assert result.value == pytest.approx(found.scores["auroc"]["mean"], abs=0.01)


def spoil_all_but_training(table):
    """Give validation and test rows other features and other targets."""
    spoilt, others = table.copy(), table["split"] != "train"
    spoilt.loc[others, FEATURES] = spoilt.loc[others, FEATURES].to_numpy()[::-1] * 7
    spoilt.loc[others, "target"] = 1 - spoilt.loc[others, "target"]
    return spoilt


def test_only_training_patients_are_looked_at():
    table = make_table()
    table.loc[table.index[::8], "split"] = "validation"
    spoilt = spoil_all_but_training(table)
    assert not spoilt.equals(table)
    for make, params in (
        (lambda t: XgboostObjective(t, FEATURES, XGBOOST, 3, "auroc"), XGBOOST),
        (lambda t: MlpObjective(t, FEATURES, 3, "auroc"), MLP),
    ):
        assert make(spoilt)(params, ignore) == make(table)(params, ignore)


def test_a_patient_s_admissions_stay_in_one_fold():
    """Targets that only the patient's own number gives away cannot be told across patients."""
    table, rng = make_table(n=1200), np.random.default_rng(4)
    table["subject_id"] = table.index // 4
    table["split"] = "train"
    table["target"] = rng.integers(0, 2, 300).repeat(4)
    table["f0"] = rng.permutation(300).repeat(4).astype(np.float32)
    params = XGBOOST.model_copy(update={"max_depth": 8, "min_child_weight": 0.0})
    value = XgboostObjective(table, FEATURES, params, 3, "auroc")(params, ignore).value
    assert value < 0.65, "a patient stands on both sides of a fold"


def test_the_running_mean_is_reported_and_its_last_is_the_value():
    table, told = make_table(), []
    for objective, params in (
        (XgboostObjective(table, FEATURES, XGBOOST, 3, "macro_f1"), XGBOOST),
        (MlpObjective(table, FEATURES, 3, "macro_f1"), MLP),
    ):
        told.clear()
        result = objective(params, lambda step, value: told.append(value))
        scores = result.steps["cv/f1/macro/fold"]
        assert len(told) == len(scores)
        assert told[-1] == result.value == pytest.approx(np.mean(scores))


def test_shared_matrices_do_not_change_a_trial():
    table = make_table()
    shared = XgboostObjective(table, FEATURES, XGBOOST, 3, "auroc")
    sampled = {"subsample": 0.7, "colsample": 0.6}
    for change in ({}, {"max_depth": 5}, sampled, {"learning_rate": 0.05}, sampled, {}):
        params = XGBOOST.model_copy(update=change)
        alone = XgboostObjective(table, FEATURES, XGBOOST, 3, "auroc")
        assert shared(params, ignore) == alone(params, ignore)


def test_random_targets_score_as_chance():
    table = make_table(n=1200, shuffle=True)
    for objective, params in (
        (XgboostObjective(table, FEATURES, XGBOOST, 3, "auroc"), XGBOOST),
        (MlpObjective(table, FEATURES, 3, "auroc"), MLP),
    ):
        assert objective(params, ignore).value < 0.6


@pytest.mark.parametrize("kind", [XGBOOST, MLP])
def test_folds_are_reported_as_they_come_and_a_stop_ends_the_trial(kind):
    table = make_table()
    objective = (
        XgboostObjective(table, FEATURES, XGBOOST, 3, "auroc")
        if kind is XGBOOST
        else MlpObjective(table, FEATURES, 3, "auroc")
    )
    told = []

    def stop(step, value):
        told.append((step, value))
        if step == 1:
            raise StopTrial

    with pytest.raises(StopTrial):
        objective(kind, stop)
    assert [step for step, _ in told] == [0, 1]
    assert all(0.5 < value < 1 for _, value in told)


def test_the_mlp_s_objective_repeats_and_heeds_its_params():
    objective = MlpObjective(make_table(), FEATURES, 3, "auroc")
    first = objective(MLP, ignore)
    assert objective(MLP, ignore) == first
    assert objective(MLP.model_copy(update={"learning_rate": 1e-5}), ignore) != first
    assert len(first.steps["cv/auroc/fold"]) == 5


def test_rounds_are_those_of_the_best_mean():
    assert choose_rounds([np.array([0.5, 0.9, 0.6]), np.array([0.5, 0.6, 0.8, 0.9])]) == 2
    assert choose_rounds([np.array([0.5]), np.array([0.5, 0.9])]) == 1


def test_models_that_cannot_be_tuned_are_refused():
    table = EncodedTable(make_table(), FEATURES, Path("encoder.json"), "died", "simulated", {})
    lr = LogisticRegressionParams(kind="logistic_regression", c=1.0, imbalance="none", **DECISION)
    with pytest.raises(InputError, match="kind logistic_regression; expected xgboost or mlp"):
        make_objective(table, lr, 1, "auroc")
    assert isinstance(make_objective(table, XGBOOST, 1, "auroc"), XgboostObjective)
    assert isinstance(make_objective(table, MLP, 1, "auroc"), MlpObjective)
    few = make_table()
    few.loc[few["split"] == "train", "target"] = 0
    few.loc[few.index[0], "target"] = 1
    with pytest.raises(InputError, match="1 of 300 training rows"):
        XgboostObjective(few, FEATURES, XGBOOST, 3, "auroc")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folds_side_by_side_are_those_of_two_threads_bit_by_bit(seed):
    table, params = make_table(n=900, seed=seed), XGBOOST.model_copy(update={"subsample": 0.7})
    result = XgboostObjective(table, FEATURES, params, seed, "auroc")(params, ignore)
    rows = select_rows(table, FEATURES, "train")
    for number, (rest, held_out) in enumerate(
        split_folds(rows.target, rows.subjects, 2, params.folds, derive_seed(seed, "folds"))
    ):
        booster = fit_booster(rows.take(rest), params, int(result.scores["cv/rounds"]), seed)
        margin = booster.predict(make_matrix(rows.x[held_out]), output_margin=True)
        scores = score_logits(margin, rows.target[held_out])
        assert result.steps["cv/auroc/fold"][number] == scores["auroc"]
        assert result.steps["cv/f1/macro/fold"][number] == scores["macro_f1"]


def test_a_stopped_trial_stops_the_folds_that_still_grow(monkeypatch):
    params = XGBOOST.model_copy(update={"rounds": 100_000, "early_stopping_rounds": 100_000})
    short = XGBOOST.model_copy(update={"rounds": 1})
    objective = XgboostObjective(make_table(), FEATURES, XGBOOST, 3, "auroc")
    grow, grown = objective._grow, []

    def grow_first_alone(prepared, ended, params):
        first = prepared is objective._folds[0]
        found = grow(prepared, ended, short if first else params)
        grown.append(len(found[1]))
        return found

    def stop(step, value):
        raise StopTrial

    monkeypatch.setattr(objective, "_grow", grow_first_alone)
    with pytest.raises(StopTrial):
        objective(params, stop)
    assert len(grown) <= 3 and max(grown) < 100_000
