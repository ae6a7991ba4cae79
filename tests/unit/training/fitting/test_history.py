"""Metrics against scikit-learn, the best epoch, and the file."""

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from histofuse.training.fitting.history import (
    FitResult,
    find_best,
    is_finished,
    measure,
    write_history,
)
from histofuse.training.fitting.recipe import (
    Recipe,
)


@pytest.mark.parametrize("k", [2, 3])
def test_metrics_equal_those_of_scikit_learn(k):
    rng = np.random.default_rng(k)
    labels = rng.integers(0, k, 200)
    logits = rng.normal(size=(200, k)) + np.eye(k)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = np.arange(1.0, k + 1)
    found = measure(logits, labels, weights)

    assert found["accuracy"] == pytest.approx((p.argmax(axis=1) == labels).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(labels, p.argmax(axis=1), average="macro"))
    assert found["loss"] == pytest.approx(log_loss(labels, p, sample_weight=weights[labels]))
    scores = p[:, 1] if k == 2 else p
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))


def test_ties_count_half_in_auroc():
    logits = np.array([[0.0, s] for s in (0.1, 0.5, 0.5, 0.5, 0.9)])
    # Pairs of a positive and a negative: 0.5 > 0.1, 0.5 = 0.5 twice, 0.9 above all three.
    assert measure(logits, np.array([0, 0, 1, 0, 1]))["auroc"] == pytest.approx(
        (1 + 2 * 0.5 + 3) / 6
    )


def test_auroc_without_a_second_class_is_not_a_number():
    found = measure(np.zeros((3, 2)), np.array([0, 0, 0]))
    assert math.isnan(found["auroc"])
    assert found["macro_f1"] == 1


def make_history(*scores: float, losses: tuple[float, ...] = ()) -> list[dict[str, float]]:
    losses = losses or (1.0,) * len(scores)
    rows = zip(scores, losses, strict=True)
    return [{"validation_macro_f1": s, "validation_loss": loss} for s, loss in rows]


def test_the_best_epoch_is_the_first_of_equals_but_for_a_lower_loss():
    assert find_best(make_history(0.1, 0.7, 0.7, 0.6), "macro_f1") == 1
    assert find_best(make_history(0.7, 0.7, losses=(0.9, 0.8)), "macro_f1") == 1
    assert find_best(make_history(0.1, math.nan), "macro_f1") == 0
    assert find_best(make_history(0.9, 0.1, losses=(0.9, 0.8)), "loss") == 1


def test_training_ends_with_patience_or_epochs():
    recipe = Recipe(epochs=10, batch_size=16, patience=2, monitor="macro_f1", seed=1, groups=())
    assert not is_finished([], recipe)
    assert not is_finished(make_history(0.5, 0.4), recipe)
    assert is_finished(make_history(0.5, 0.4, 0.3), recipe)
    assert not is_finished(make_history(0.5, 0.4, 0.6), recipe)
    assert is_finished(make_history(*np.linspace(0, 1, 10)), recipe)


def test_history_is_written_as_csv_with_gaps_for_what_is_not_a_number(tmp_path):
    history = [{"epoch": 1.0, "train_loss": 1 / 3}, {"epoch": 2.0, "train_loss": math.nan}]
    write_history(FitResult(history, 1), tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text() == "epoch,train_loss\n1,0.333333\n2,\n"


def test_many_rows_measure_as_few(monkeypatch):
    rng = np.random.default_rng(0)
    logits, labels, weights = rng.normal(size=(10, 3)), rng.integers(0, 3, 10), np.arange(1.0, 4.0)
    whole = measure(logits, labels, weights)
    monkeypatch.setattr("histofuse.training.fitting.history._ROWS_AT_ONCE", 4)
    assert measure(logits, labels, weights) == pytest.approx(whole)
