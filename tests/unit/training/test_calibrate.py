"""Calibration by value, against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
from overconfident import make_model, to_columns
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression

from histofuse.core.errors import InputError
from histofuse.params.base import load_section
from histofuse.params.decision import read_precision_target
from histofuse.params.fusion import FusionParams
from histofuse.training.calibrate import (
    CURVE_FITS,
    SCALING_FITS,
    Calibrator,
    SigmoidCurve,
    check_method,
    compute_log_odds,
    fit_calibrator,
)
from histofuse.training.decision import fit_decision, load_decision, write_decision
from histofuse.training.thresholds import fit_thresholds

PARAMS = Path(__file__).parents[3] / "params.yaml"
METHODS = ["none", "auto", *SCALING_FITS, *CURVE_FITS]
ALONE = np.arange(600)  # each row a case of its own


@pytest.mark.parametrize(("method", "peer"), [("platt", "sigmoid"), ("temperature", "temperature")])
def test_binary_calibration_equals_scikit_learn(method, peer):
    model, features, labels = make_model(2)
    logits = to_columns(model.decision_function(features))
    ours = fit_calibrator(logits, labels, ALONE, method).probabilities(logits)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method=peer).fit(features, labels)
    np.testing.assert_allclose(ours, theirs.predict_proba(features), atol=1e-5)
    assert np.abs(ours - model.predict_proba(features)).max() > 0.05


def test_isotonic_equals_scikit_learn_inside_and_beyond_the_range():
    model, features, labels = make_model(2)
    logits = model.decision_function(features)
    fitted = fit_calibrator(to_columns(logits), labels, ALONE, "isotonic")
    peer = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    asked = np.concatenate([logits, np.linspace(-50, 50, 41)])
    ours = fitted.probabilities(to_columns(asked))[:, 1]
    np.testing.assert_allclose(ours, peer.predict(asked), atol=1e-9)


def test_temperature_of_three_classes_equals_scikit_learn():
    model, features, labels = make_model(3)
    logits = model.decision_function(features)
    calibrator = fit_calibrator(logits, labels, ALONE, "temperature")
    peer = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    theirs = peer.fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(calibrator.probabilities(logits), theirs, atol=1e-5)
    assert calibrator.scaling.temperature > 1.5


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_three_classes_are_one_against_the_rest_renormalised(method):
    model, features, labels = make_model(3)
    logits = model.decision_function(features)
    ours = fit_calibrator(logits, labels, ALONE, method).probabilities(logits)
    each = []
    for c in range(3):
        binary = to_columns(compute_log_odds(logits)[:, c])
        fitted = fit_calibrator(binary, (labels == c).astype(np.int64), ALONE, method)
        each.append(fitted.probabilities(binary)[:, 1])
    each = np.column_stack(each)
    np.testing.assert_allclose(ours, each / each.sum(axis=1, keepdims=True), atol=1e-9)


def test_log_odds_are_those_of_the_softmax():
    logits = np.array([[1.0, 2.0, -0.5], [0.0, 0.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(compute_log_odds(logits), np.log(p / (1 - p)), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 3])
def test_json_brings_the_same_probabilities_back(method, classes):
    model, features, labels = make_model(classes)
    logits = model.decision_function(features)
    logits = to_columns(logits) if classes == 2 else logits
    calibrator = fit_calibrator(logits, labels, ALONE, method)
    again = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert again == calibrator
    np.testing.assert_array_equal(again.probabilities(logits), calibrator.probabilities(logits))


def test_platt_never_turns_the_order_round():
    logits = to_columns(np.linspace(-2, 2, 40))
    labels = (np.arange(40) < 20).astype(np.int64)
    calibrator = fit_calibrator(logits, labels, ALONE[:40], "platt")
    assert np.all(np.diff(calibrator.probabilities(logits)[:, 1]) > 0)
    (curve,) = calibrator.curves
    assert isinstance(curve, SigmoidCurve)
    assert curve.slope == 1
    assert calibrator.fitted_on.notes


def test_nonsense_is_refused_with_its_reason():
    labels, alone = np.zeros(4, dtype=np.int64), np.arange(4)
    with pytest.raises(ValueError, match="1 rows are not finite"):
        fit_calibrator(np.array([[0, np.nan], [0, 1], [0, 1], [0, 1]]), labels, alone, "platt")
    with pytest.raises(ValueError, match="expected 0 to 1"):
        fit_calibrator(np.zeros((4, 2)), labels + 2, alone, "platt")
    with pytest.raises(ValueError, match="unknown threshold rule"):
        fit_thresholds(np.full((4, 2), 0.5), labels, "coin")
    for rule in ("precision_target:", "precision_target:0", "precision_target:1.2"):
        with pytest.raises(ValueError, match="a precision above 0"):
            read_precision_target(rule)


def fit_prevalence(log_odds, is_class):
    """A toy: the prevalence, whatever the logits."""
    return SigmoidCurve(0.0, float(np.log(is_class.mean() / (1 - is_class.mean())))), ["a toy"]


def test_a_method_is_added_in_one_place(monkeypatch, tmp_path):
    monkeypatch.setitem(CURVE_FITS, "prevalence", fit_prevalence)
    check_method("prevalence")
    params = load_section(FusionParams, "fusion", PARAMS)
    params = FusionParams.model_validate({**params.model_dump(), "calibration": "prevalence"})
    logits = to_columns(np.random.default_rng(0).normal(size=40))
    labels = (np.arange(40) < 10).astype(np.int64)
    decision = fit_decision(logits, labels, ALONE[:40], params.calibration, params.threshold)
    write_decision(decision, tmp_path, "simulated")
    probabilities, _ = load_decision(tmp_path).decide(logits)
    np.testing.assert_allclose(probabilities[:, 1], 0.25)


def test_an_unknown_method_is_refused_with_those_there_are():
    known = "none, auto, temperature, temperature_bias, platt, isotonic"
    with pytest.raises(InputError, match=f"'plat'.*{known}"):
        check_method("plat")
