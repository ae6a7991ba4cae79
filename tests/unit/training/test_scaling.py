"""Temperatures with a bias a class, and the choice between them and a temperature alone."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import brier_score
from overconfident import make_model, to_columns
from scipy.optimize import minimize
from scipy.special import log_softmax
from shifted import FULL_SHIFT, NO_SHIFT, draw_rows
from sklearn.linear_model import LogisticRegression

from histofuse.training.calibrate import SCALING_FITS, Calibrator, fit_calibrator
from histofuse.training.scaling import fit_temperature_and_biases


def measure_loss(p, labels):
    return -np.log(p[np.arange(len(labels)), labels]).mean()


def test_biases_and_temperature_are_the_maximum_of_the_likelihood():
    logits, labels, _ = draw_rows(0, FULL_SHIFT)
    scaling, notes = fit_temperature_and_biases(logits, labels)

    def slow_loss(w):
        scaled = log_softmax(w[0] * logits + np.append(0, w[1:]), axis=1)
        return -scaled[np.arange(len(labels)), labels].mean()

    best = minimize(
        slow_loss, [0.1, 0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}
    )
    assert not notes
    assert 1 / scaling.temperature == pytest.approx(best.x[0], abs=1e-4)
    assert np.diff(scaling.biases)[0] == pytest.approx(best.x[1], abs=1e-3)
    assert sum(scaling.biases) == pytest.approx(0, abs=1e-12)
    # What was planted: logits twice too large, and log-odds shifted by the weights.
    assert scaling.temperature == pytest.approx(2, rel=0.2)
    shift = np.array(scaling.biases) + FULL_SHIFT
    np.testing.assert_allclose(shift - shift.mean(), 0, atol=0.5)


def test_of_two_classes_it_is_a_logistic_regression_on_the_logit():
    model, features, labels = make_model(2)
    logits = model.decision_function(features)
    scaling, _ = fit_temperature_and_biases(to_columns(logits), labels)
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], labels)
    theirs = peer.predict_proba(logits[:, None])
    np.testing.assert_allclose(scaling.probabilities(to_columns(logits)), theirs, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_mean_probability_of_each_class_is_its_share_where_a_temperature_leaves_it_off(seed):
    logits, labels, cases = draw_rows(seed, FULL_SHIFT)
    shares = np.bincount(labels) / len(labels)
    cooled = fit_calibrator(logits, labels, cases, "temperature").probabilities(logits)
    p = fit_calibrator(logits, labels, cases, "auto").probabilities(logits)
    assert cooled.mean(axis=0)[0] > 1.5 * shares[0]
    np.testing.assert_allclose(p.mean(axis=0), shares, atol=1e-6)
    assert brier_score(p, labels) < brier_score(cooled, labels)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("shift", "taken"), [(NO_SHIFT, "temperature"), (FULL_SHIFT, "temperature_bias")]
)
def test_auto_takes_biases_where_they_are_needed_and_leaves_them_where_not(seed, shift, taken):
    logits, labels, cases = draw_rows(seed, shift)
    found = fit_calibrator(logits, labels, cases, "auto")
    assert found.choice.method == taken
    assert bool(found.scaling.biases) == (taken == "temperature_bias")
    again = fit_calibrator(logits, labels, cases, taken)
    assert again.scaling == found.scaling
    # On rows of other cases the one taken is no worse.
    others = draw_rows(1000 + seed, shift, cases=200)
    loss = {
        method: measure_loss(
            fit_calibrator(logits, labels, cases, method).probabilities(others[0]), others[1]
        )
        for method in SCALING_FITS
    }
    assert loss[taken] < min(loss.values()) + 0.002


def test_choice_is_made_over_cases_and_recorded():
    logits, labels, cases = draw_rows(0, FULL_SHIFT)
    found = fit_calibrator(logits, labels, cases, "auto")
    record = json.loads(json.dumps(found.to_dict()))
    assert Calibrator.from_dict(record) == found
    choice = record["choice"]
    assert (choice["folds"], choice["groups"]) == (5, 12)
    losses = choice["log_loss"]
    assert losses["temperature"] - losses["temperature_bias"] > choice["standard_error"] > 0
    # Cross-fitted, so worse than on the rows that were fitted.
    assert losses["temperature_bias"] > measure_loss(found.probabilities(logits), labels)


def test_folds_keep_the_rows_of_a_case_together(monkeypatch):
    logits, labels, cases = draw_rows(0, NO_SHIFT)
    fitted = []

    def spy(rest, _labels):
        fitted.append(set(rest[:, 0].tolist()))
        return fit_temperature_and_biases(rest, _labels)

    monkeypatch.setitem(SCALING_FITS, "temperature_bias", spy)
    fit_calibrator(logits, labels, cases, "auto")
    per_fold = fitted[:5]
    for case in range(12):
        rows = set(logits[cases == case, 0].tolist())
        assert all(rows <= fold or not rows & fold for fold in per_fold)
        assert sum(rows <= fold for fold in per_fold) == 4


def test_few_cases_are_not_compared_and_the_record_says_so():
    logits, labels, cases = draw_rows(0, FULL_SHIFT)
    cases[labels == 0] = 0  # all mitoses in one case
    found = fit_calibrator(logits, labels, cases, "auto")
    assert found.choice.method == "temperature_bias"
    assert found.choice.log_loss == {}
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(found.probabilities(logits).mean(axis=0), shares, atol=1e-6)
    assert (
        "a class is in too few of 12 cases or patients, methods not compared"
        in found.to_dict()["fitted_on"]["note"]
    )


def test_a_class_of_few_rows_gets_no_biases():
    logits, labels, cases = draw_rows(0, FULL_SHIFT)
    rows = np.sort(np.append(np.flatnonzero(labels == 0)[:4], np.flatnonzero(labels)))
    found = fit_calibrator(logits[rows], labels[rows], cases[rows], "temperature_bias")
    assert not found.scaling.biases
    assert "class 0: 4 rows, no biases fitted" in found.fitted_on.notes


@pytest.mark.parametrize(("sign", "note"), [(1, "separable"), (-1, "no better than chance")])
def test_separable_or_reversed_rows_have_true_shares_and_keep_their_ranks(sign, note):
    labels = np.repeat([0, 1, 2], [10, 80, 30])
    logits = sign * 5.0 * np.eye(3)[labels]
    found = fit_calibrator(logits, labels, np.arange(120), "temperature_bias")
    assert found.scaling.temperature > 0
    p = found.probabilities(logits)
    np.testing.assert_allclose(p.mean(axis=0), [10 / 120, 80 / 120, 30 / 120], atol=1e-3)
    assert note in found.fitted_on.notes[0]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(2, 5),
    n=st.integers(0, 200),
    exponent=st.integers(-6, 6),
    signal=st.sampled_from([-1.0, 0.0, 0.1, 1.0, 5.0]),
    offset=st.sampled_from([0.0, 1e3]),
)
def test_shares_are_true_whatever_the_scale_of_the_logits(seed, k, n, exponent, signal, offset):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(k), 5), rng.integers(0, k, n)])
    logits = rng.normal(size=(len(labels), k)) + signal * np.eye(k)[labels]
    logits = 10.0**exponent * logits + offset * rng.normal(size=k)
    found = fit_calibrator(logits, labels, np.arange(len(labels)), "temperature_bias")
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(found.probabilities(logits).mean(axis=0), shares, atol=1e-3)


def test_logits_that_are_equal_in_every_row_give_the_shares():
    labels = np.repeat([0, 1, 2], [10, 80, 30])
    found = fit_calibrator(np.ones((120, 3)), labels, np.arange(120), "temperature_bias")
    expected = np.bincount(labels) / 120
    np.testing.assert_allclose(found.probabilities(np.ones((1, 3)))[0], expected, atol=1e-6)


def test_a_calibrator_of_an_older_bundle_is_read():
    logits, labels, cases = draw_rows(0, FULL_SHIFT)
    old = fit_calibrator(logits, labels, cases, "temperature").to_dict()
    del old["biases"], old["choice"]
    p = Calibrator.from_dict(old).probabilities(logits)
    expected = fit_calibrator(logits, labels, cases, "temperature").probabilities(logits)
    np.testing.assert_array_equal(p, expected)
