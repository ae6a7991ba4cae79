"""Calibrator and thresholds together, also on tiny validation sets."""

import json

import numpy as np
import pytest
from overconfident import make_model, to_columns

from histofuse.training.calibrate import CURVE_FITS, SCALING_FITS
from histofuse.training.decision import fit_decision, load_decision, write_decision


@pytest.mark.parametrize("method", ["auto", *SCALING_FITS, *CURVE_FITS])
@pytest.mark.parametrize("positives", [0, 1, 2, 28])
@pytest.mark.parametrize("rule", ["youden_j", "max_f1", "balanced", "precision_target:0.9"])
def test_tiny_or_one_sided_validation_still_decides_and_says_so(method, positives, rule, capsys):
    rng = np.random.default_rng(positives)
    labels = (np.arange(28) < positives).astype(np.int64)
    logits = to_columns(rng.normal(labels, 1.0))
    calibrator, thresholds = fit_decision(logits, labels, np.arange(len(labels)), method, rule)
    probabilities = calibrator.probabilities(logits)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert set(thresholds.decide(probabilities)) <= {0, 1}
    assert thresholds.fitted_on.to_dict()["positives"] == positives
    assert thresholds.fitted_on.to_dict()["n"] == 28
    assert thresholds.fitted_on.to_dict()["note"]
    assert "warning: threshold, 28 rows" in capsys.readouterr().err


def test_an_absent_class_gets_the_prior_and_the_argmax_threshold():
    logits = to_columns(np.random.default_rng(0).normal(size=30))
    labels = np.zeros(30, dtype=np.int64)
    calibrator, thresholds = fit_decision(
        logits, labels, np.arange(len(labels)), "platt", "youden_j"
    )
    # The smoothed target of 30 negatives is 1 / 32.
    assert calibrator.probabilities(logits)[:, 1].mean() == pytest.approx(1 / 32)
    assert thresholds.values == (0.5, 0.5)
    assert "class 1 is absent" in calibrator.fitted_on.to_dict()["note"]


def test_no_validation_rows_leave_the_logits_alone():
    nothing = np.zeros((0, 3)), np.zeros(0, dtype=np.int64), np.zeros(0)
    calibrator, thresholds = fit_decision(*nothing, "isotonic", "max_f1")
    np.testing.assert_allclose(calibrator.probabilities(np.zeros((1, 3))), 1 / 3)
    assert thresholds.values == (1 / 3,) * 3


def test_decision_files_bring_both_back(tmp_path):
    model, features, labels = make_model(2)
    logits = to_columns(model.decision_function(features))
    decision = fit_decision(
        logits, labels, np.arange(len(labels)), "isotonic", "precision_target:0.8"
    )
    write_decision(decision, tmp_path, "simulated")
    assert load_decision(tmp_path) == decision


@pytest.mark.parametrize(("few", "kept"), [(7, [47]), (10, [40, 10])])
def test_of_a_restricted_source_no_class_of_few_rows_is_counted(tmp_path, few, kept):
    labels = np.repeat([0, 1], [40, few])
    scores = np.random.default_rng(0).normal(size=len(labels)) + labels
    decision = fit_decision(
        to_columns(scores), labels, np.arange(len(labels)), "isotonic", "max_f1"
    )
    write_decision(decision, tmp_path, "restricted")
    for name in ("calibrator.json", "threshold.json"):
        text = (tmp_path / name).read_text()
        fitted = json.loads(text)["fitted_on"]
        assert (fitted["n"], fitted["per_class"]) == (40 + few, kept)
        assert "7 rows" not in text and "7 inside" not in text
    again, thresholds = load_decision(tmp_path)
    np.testing.assert_array_equal(
        again.probabilities(to_columns(scores)),
        decision.calibrator.probabilities(to_columns(scores)),
    )
    assert thresholds.values == decision.thresholds.values
