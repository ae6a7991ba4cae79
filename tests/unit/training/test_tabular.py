"""From an encoded table to a bundle and back, for each kind of model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.core.seeding import derive_seed
from histofuse.core.tables import read_table
from histofuse.models.tabular import MlpModel, load_tabular_model
from histofuse.params.tabular import (
    GradientBoostingParams,
    LogisticRegressionParams,
    MlpParams,
    XgboostParams,
)
from histofuse.training.decision import load_decision
from histofuse.training.recorder import Recorder
from histofuse.training.rows import score_logits
from histofuse.training.tabular import (
    TABULAR_PREDICTIONS,
    describe_training,
    to_columns,
    train_tabular,
)

DECISION = {"calibration": "platt", "threshold": "youden_j", "study": "none"}
PARAMS = {
    "logistic_regression": LogisticRegressionParams(
        kind="logistic_regression", c=0.1, imbalance="class_weights", **DECISION
    ),
    "gradient_boosting": GradientBoostingParams(
        kind="gradient_boosting",
        rounds=15,
        max_depth=3,
        learning_rate=0.1,
        subsample=0.8,
        early_stopping_rounds=5,
        **DECISION,
    ),
    "xgboost": XgboostParams(
        kind="xgboost",
        max_depth=3,
        learning_rate=0.1,
        rounds=30,
        subsample=0.8,
        colsample=0.8,
        min_child_weight=1.0,
        reg_lambda=1.0,
        folds=3,
        early_stopping_rounds=10,
        imbalance="class_weights",
        **DECISION,
    ),
    "mlp": MlpParams(
        kind="mlp",
        hidden=[16, 8],
        dropout=0.3,
        learning_rate=1e-2,
        weight_decay=1e-4,
        batch_size=64,
        epochs=4,
        warmup_epochs=1,
        step_epochs=2,
        step_factor=0.5,
        patience=4,
        monitor="auroc",
        loss="bce",
        imbalance="class_weights",
        **DECISION,
    ),
}
KINDS = list(PARAMS)


def train(table, kind, path: Path, params=None):
    train_tabular(table, params or PARAMS[kind], 7, Recorder(), path)
    return open_bundle(path)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_read_back_predicts_the_very_logits_it_stored(kind, encoded, tmp_path):
    table = encoded(missing=0.1 if kind == "xgboost" else 0.0)
    bundle = train(table, kind, tmp_path / "models" / kind)
    stored = read_table(bundle.path / "predictions.parquet", TABULAR_PREDICTIONS)
    model = load_tabular_model(bundle)
    # Columns and rows in another order: both are found by name and key.
    mixed = table.rows.sample(frac=1, random_state=0)[table.rows.columns[::-1]]
    logits = pd.Series(model.logits(mixed).astype(np.float32), index=mixed["hadm_id"])
    np.testing.assert_array_equal(stored["logit"], logits.loc[stored["hadm_id"]])

    calibrator, thresholds = load_decision(bundle.path)
    p = calibrator.probabilities(to_columns(stored["logit"].to_numpy()))
    np.testing.assert_array_equal(stored["probability"], p[:, 1])
    np.testing.assert_array_equal(stored["prediction"], thresholds.decide(p))
    test = stored[stored["split"] == "test"]
    assert roc_auc_score(test["target"], test["logit"]) > 0.7

    assert bundle.config["classes"] == ["no_mortality_1y", "mortality_1y"]
    assert bundle.config["focus_class"] == "mortality_1y"
    assert bundle.config["architecture"]["n_features"] == 8
    assert json.loads((bundle.path / "feature_order.json").read_text()) == table.features
    assert len(pd.read_csv(bundle.path / "history.csv")) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_same_input_same_bytes(kind, encoded, tmp_path):
    digests = {train(encoded(), kind, tmp_path / f"{i}" / kind).digest for i in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_test_rows_change_nothing_that_is_learnt(kind, encoded, tmp_path):
    table = encoded()
    before = train(table, kind, tmp_path / "before" / kind)
    rows = table.rows.copy()
    test = (rows["split"] == "test").to_numpy()
    rows.loc[test, table.features] = 3.0
    rows.loc[test, "target"] = 1 - rows.loc[test, "target"]
    after = train(dataclasses.replace(table, rows=rows), kind, tmp_path / "after" / kind)
    assert before.files.pop("predictions.parquet") != after.files.pop("predictions.parquet")
    assert before.files == after.files


@pytest.mark.parametrize("kind", ["logistic_regression", "xgboost"])
def test_validation_rows_change_calibrator_and_threshold_but_no_weights(kind, encoded, tmp_path):
    table = encoded()
    before = train(table, kind, tmp_path / "before" / kind)
    rows = table.rows.copy()
    chosen = rows.index[rows["split"] == "validation"][:10]
    rows.loc[chosen, "target"] = 1 - rows.loc[chosen, "target"]
    after = train(dataclasses.replace(table, rows=rows), kind, tmp_path / "after" / kind)
    weights = "model.ubj" if kind == "xgboost" else "weights.safetensors"
    assert before.files[weights] == after.files[weights]
    assert before.files["calibrator.json"] != after.files["calibrator.json"]
    assert before.files["threshold.json"] != after.files["threshold.json"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positives", [0, 1])
def test_next_to_no_positives_in_validation_are_said_and_survived(
    kind, positives, encoded, tmp_path, capsys
):
    table = encoded(n=200)
    rows = table.rows
    validation = rows.index[rows["split"] == "validation"]
    rows.loc[validation, "target"] = (np.arange(len(validation)) < positives).astype(np.int64)
    bundle = train(table, kind, tmp_path / "models" / kind)
    for name in ("calibrator.json", "threshold.json"):
        fitted_on = json.loads((bundle.path / name).read_text())["fitted_on"]
        assert (fitted_on["n"], fitted_on["positives"]) == (20, positives)
        assert fitted_on["note"]
    assert "warning: calibrator, 20 rows" in capsys.readouterr().err
    if kind == "mlp":
        assert bundle.config["training"]["monitor"] == "loss"


def test_few_training_positives_shrink_the_folds_and_then_skip_them(encoded, tmp_path):
    for positives, folds in ((2, 2), (1, 0)):
        table = encoded(n=100)
        table.rows["target"] = 0
        chosen = table.rows.index[table.rows["split"] == "train"][:positives]
        table.rows.loc[chosen, "target"] = 1
        bundle = train(table, "xgboost", tmp_path / str(positives) / "xgboost")
        found = bundle.config["cross_validation"]
        assert found["folds"] == folds
        assert found["note"]
        assert (found["auroc"]["mean"] is None) == (folds == 0)


def test_a_table_that_cannot_be_trained_on_is_refused_with_all_its_faults(encoded, tmp_path):
    table = encoded(n=50)
    table.rows.loc[table.rows["split"] == "train", "target"] = 0
    table.rows.loc[3, "f2"] = np.nan
    with pytest.raises(InputError) as caught:
        train(table, "logistic_regression", tmp_path / "models" / "lr")
    text = str(caught.value)
    assert "target 0 in all 40 training rows" in text
    assert "columns ['f2'] are not finite" in text
    assert not (tmp_path / "models").exists()


def test_logistic_regression_is_scikit_learn_s(encoded, tmp_path):
    table = encoded()
    bundle = train(table, "logistic_regression", tmp_path / "models" / "lr")
    rows = table.rows[table.rows["split"] == "train"]
    peer = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-10)
    x = rows[table.features].astype("float64")
    peer.fit(x, rows["target"])
    ours = load_tabular_model(bundle).logits(rows)
    np.testing.assert_allclose(ours, peer.decision_function(x), atol=1e-5)


def grow(table, rounds):
    """Scikit-learn's own gradient boosting, that never stops early."""
    params = PARAMS["gradient_boosting"]
    peer = GradientBoostingClassifier(
        n_estimators=rounds,
        max_depth=params.max_depth,
        learning_rate=params.learning_rate,
        subsample=params.subsample,
        random_state=derive_seed(7, "gradient_boosting"),
    )
    rows = {split: table.rows[table.rows["split"] == split] for split in ("train", "validation")}
    x = {split: of[table.features].to_numpy(dtype=np.float32) for split, of in rows.items()}
    peer.fit(x["train"], rows["train"]["target"])
    stages = list(peer.staged_decision_function(x["validation"]))
    target = rows["validation"]["target"]
    return [s.ravel() for s in stages], [log_loss(target, expit(s.ravel())) for s in stages]


def test_gradient_boosting_keeps_the_round_with_the_lowest_validation_loss(encoded, tmp_path):
    table = encoded()
    stages, losses = grow(table, 120)
    best = int(np.argmin(losses)) + 1
    assert losses[-1] > losses[best - 1] + 0.01  # it would train past its best
    params = PARAMS["gradient_boosting"].model_copy(
        update={"rounds": 120, "early_stopping_rounds": 30}
    )
    bundle = train(table, "gradient_boosting", tmp_path / "models" / "gb", params)
    assert bundle.config["training"] == {"best_round": best, "monitor": "loss", "note": ""}
    assert bundle.config["architecture"]["rounds"] == best
    validation = table.rows[table.rows["split"] == "validation"]
    ours = load_tabular_model(bundle).logits(validation)
    np.testing.assert_allclose(ours, stages[best - 1], atol=1e-6)
    history = pd.read_csv(bundle.path / "history.csv")
    assert len(history) == best + 30
    np.testing.assert_allclose(history["validation_loss"], losses[: best + 30], atol=1e-5)
    assert describe_training(bundle.path).startswith("validation AUROC 0.")


def test_gradient_boosting_takes_few_rounds_where_validation_lacks_a_class(encoded, tmp_path):
    table = encoded(n=200)
    table.rows.loc[table.rows["split"] == "validation", "target"] = 0
    bundle = train(table, "gradient_boosting", tmp_path / "models" / "gb")
    found = bundle.config["training"]
    assert (found["best_round"], "5 rounds taken" in found["note"]) == (5, True)
    assert len(pd.read_csv(bundle.path / "history.csv")) == 5


@pytest.mark.parametrize("monitor", ["loss", "auroc"])
def test_the_network_keeps_the_epoch_its_monitor_says(monitor, encoded, tmp_path):
    update = {"monitor": monitor, "epochs": 12, "patience": 12}
    params = PARAMS["mlp"].model_copy(update=update)
    bundle = train(encoded(), "mlp", tmp_path / "models" / "mlp", params)
    curve = pd.read_csv(bundle.path / "history.csv")[f"validation_{monitor}"]
    kept = bundle.config["training"]
    assert kept["monitor"] == monitor
    assert curve[kept["best_epoch"] - 1] == (curve.min() if monitor == "loss" else curve.max())


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
@pytest.mark.parametrize("imbalance", ["none", "class_weights", "balanced_sampling"])
def test_the_network_overfits_eight_samples(loss, imbalance, encoded, tmp_path):
    table = encoded(n=80)
    rows = table.rows.groupby("split").head(8).reset_index(drop=True)
    rows["target"] = np.resize([0, 1, 1, 0, 1, 0, 0, 1], len(rows))
    wishes = {"loss": loss, "imbalance": imbalance, "dropout": 0.0, "weight_decay": 0.0}
    wishes |= {"epochs": 60, "patience": 60, "batch_size": 8, "step_epochs": 60}
    # What is kept is the best epoch on validation, so here validation repeats the training rows.
    train_rows = rows[rows["split"] == "train"]
    again = train_rows.assign(split="validation", hadm_id=train_rows["hadm_id"] + 1_000)
    table = dataclasses.replace(table, rows=pd.concat([train_rows, again], ignore_index=True))
    params = PARAMS["mlp"].model_copy(update={**wishes, "calibration": "none"})
    bundle = train(table, "mlp", tmp_path / "models" / "mlp", params)
    logits = load_tabular_model(bundle).logits(train_rows)
    target = train_rows["target"].to_numpy()
    assert score_logits(logits, target)["accuracy"] == 1
    assert score_logits(logits, target)["loss"] < 0.1


def test_the_embedding_is_what_the_output_layer_reads(encoded, tmp_path):
    bundle = train(encoded(), "mlp", tmp_path / "models" / "mlp")
    model = load_tabular_model(bundle)
    assert isinstance(model, MlpModel)
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    output = model.network.output
    embedded = model.embed(x)
    assert embedded.shape == (5, 8) == (5, bundle.config["architecture"]["embedding_dim"])
    expected = embedded @ output.weight.numpy()[0] + output.bias.numpy()[0]
    np.testing.assert_allclose(model.logits(x), expected, atol=1e-6)


def test_scores_equal_scikit_learn_s():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=300).round(1)
    target = (rng.random(300) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    scores = score_logits(logits, target)
    assert scores["auroc"] == pytest.approx(roc_auc_score(target, logits), abs=1e-12)
    assert scores["loss"] == pytest.approx(log_loss(target, 1 / (1 + np.exp(-logits))), abs=1e-12)
    assert scores["macro_f1"] == pytest.approx(f1_score(target, logits >= 0, average="macro"))
    assert np.isnan(score_logits(logits, np.zeros(300, dtype=np.int64))["auroc"])
