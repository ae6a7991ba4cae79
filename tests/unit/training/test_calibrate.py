"""Calibration and thresholds by value, against scikit-learn and against brute force."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score, roc_curve

from histofuse.params.decision import read_precision_target
from histofuse.training.calibrate import (
    Calibrator,
    Thresholds,
    compute_log_odds,
    fit_calibrator,
    fit_decision,
    fit_thresholds,
    load_decision,
    write_decision,
)


def make_model(classes: int, seed: int = 0):
    features, labels = make_classification(
        900, 8, n_informative=5, n_classes=classes, class_sep=0.6, random_state=seed
    )
    model = LogisticRegression(C=100.0).fit(features[:300], labels[:300])
    # Overconfident on purpose, so that there is something to calibrate.
    model.coef_ *= 3
    return model, features[300:], labels[300:]


def to_columns(logits):
    return np.column_stack([np.zeros_like(logits), logits])


@pytest.mark.parametrize(("method", "peer"), [("platt", "sigmoid"), ("temperature", "temperature")])
def test_binary_calibration_equals_scikit_learn(method, peer):
    model, features, labels = make_model(2)
    logits = to_columns(model.decision_function(features))
    ours = fit_calibrator(logits, labels, method).probabilities(logits)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method=peer).fit(features, labels)
    np.testing.assert_allclose(ours, theirs.predict_proba(features), atol=1e-5)
    assert np.abs(ours - model.predict_proba(features)).max() > 0.05


def test_isotonic_equals_scikit_learn_inside_and_beyond_the_range():
    model, features, labels = make_model(2)
    logits = model.decision_function(features)
    fitted = fit_calibrator(to_columns(logits), labels, "isotonic")
    peer = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    asked = np.concatenate([logits, np.linspace(-50, 50, 41)])
    ours = fitted.probabilities(to_columns(asked))[:, 1]
    np.testing.assert_allclose(ours, peer.predict(asked), atol=1e-9)


def test_temperature_of_three_classes_equals_scikit_learn():
    model, features, labels = make_model(3)
    logits = model.decision_function(features)
    calibrator = fit_calibrator(logits, labels, "temperature")
    peer = CalibratedClassifierCV(FrozenEstimator(model), method="temperature")
    theirs = peer.fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(calibrator.probabilities(logits), theirs, atol=1e-5)
    assert calibrator.temperature > 1.5


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_three_classes_are_one_against_the_rest_renormalised(method):
    model, features, labels = make_model(3)
    logits = model.decision_function(features)
    ours = fit_calibrator(logits, labels, method).probabilities(logits)
    each = []
    for c in range(3):
        binary = to_columns(compute_log_odds(logits)[:, c])
        fitted = fit_calibrator(binary, (labels == c).astype(np.int64), method)
        each.append(fitted.probabilities(binary)[:, 1])
    each = np.column_stack(each)
    np.testing.assert_allclose(ours, each / each.sum(axis=1, keepdims=True), atol=1e-9)


def test_log_odds_are_those_of_the_softmax():
    logits = np.array([[1.0, 2.0, -0.5], [0.0, 0.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(compute_log_odds(logits), np.log(p / (1 - p)), atol=1e-12)


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic"])
@pytest.mark.parametrize("classes", [2, 3])
def test_json_brings_the_same_probabilities_back(method, classes):
    model, features, labels = make_model(classes)
    logits = model.decision_function(features)
    logits = to_columns(logits) if classes == 2 else logits
    calibrator = fit_calibrator(logits, labels, method)
    again = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert again == calibrator
    np.testing.assert_array_equal(again.probabilities(logits), calibrator.probabilities(logits))


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("positives", [0, 1, 2, 28])
@pytest.mark.parametrize("rule", ["youden_j", "max_f1", "balanced", "precision_target:0.9"])
def test_tiny_or_one_sided_validation_still_decides_and_says_so(method, positives, rule, capsys):
    rng = np.random.default_rng(positives)
    labels = (np.arange(28) < positives).astype(np.int64)
    logits = to_columns(rng.normal(labels, 1.0))
    calibrator, thresholds = fit_decision(logits, labels, method, rule)
    probabilities = calibrator.probabilities(logits)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert set(thresholds.decide(probabilities)) <= {0, 1}
    assert thresholds.fitted_on.to_dict()["positives"] == positives
    assert thresholds.fitted_on.to_dict()["n"] == 28
    assert thresholds.fitted_on.to_dict()["note"]
    assert "warning: threshold, 28 validation rows" in capsys.readouterr().err


def test_an_absent_class_gets_the_prior_and_the_argmax_threshold():
    logits = to_columns(np.random.default_rng(0).normal(size=30))
    labels = np.zeros(30, dtype=np.int64)
    calibrator, thresholds = fit_decision(logits, labels, "platt", "youden_j")
    # The smoothed target of 30 negatives is 1 / 32.
    assert calibrator.probabilities(logits)[:, 1].mean() == pytest.approx(1 / 32)
    assert thresholds.values == (0.5, 0.5)
    assert "class 1 is absent" in calibrator.fitted_on.to_dict()["note"]


def test_too_few_rows_put_the_threshold_at_the_prevalence():
    # The one positive is ranked last: Youden's J would call everyone positive.
    p = np.linspace(0.2, 0.4, 30)
    labels = (np.arange(30) == 0).astype(np.int64)
    for rule in ("youden_j", "balanced"):
        thresholds = fit_thresholds(np.column_stack([1 - p, p]), labels, rule)
        assert thresholds.values[1] == pytest.approx(2 / 32)
        assert "1 row inside and 29 outside" in thresholds.fitted_on.to_dict()["note"]


def test_platt_never_turns_the_order_round():
    logits = to_columns(np.linspace(-2, 2, 40))
    labels = (np.arange(40) < 20).astype(np.int64)
    calibrator = fit_calibrator(logits, labels, "platt")
    assert np.all(np.diff(calibrator.probabilities(logits)[:, 1]) > 0)
    assert "turn the order round" in calibrator.fitted_on.to_dict()["note"]


def test_no_validation_rows_leave_the_logits_alone():
    nothing = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    calibrator, thresholds = fit_decision(*nothing, "isotonic", "max_f1")
    np.testing.assert_allclose(calibrator.probabilities(np.zeros((1, 3))), 1 / 3)
    assert thresholds.values == (1 / 3,) * 3


def test_nonsense_is_refused_with_its_reason():
    labels = np.zeros(4, dtype=np.int64)
    with pytest.raises(ValueError, match="1 rows are not finite"):
        fit_calibrator(np.array([[0, np.nan], [0, 1], [0, 1], [0, 1]]), labels, "platt")
    with pytest.raises(ValueError, match="expected 0 to 1"):
        fit_calibrator(np.zeros((4, 2)), labels + 2, "platt")
    with pytest.raises(ValueError, match="unknown threshold rule"):
        fit_thresholds(np.full((4, 2), 0.5), labels, "coin")
    for rule in ("precision_target:", "precision_target:0", "precision_target:1.2"):
        with pytest.raises(ValueError, match="a precision above 0"):
            read_precision_target(rule)


def test_youden_decides_as_the_roc_curve_says():
    model, features, labels = make_model(2)
    p = model.predict_proba(features)
    fpr, tpr, levels = roc_curve(labels, p[:, 1], drop_intermediate=False)
    theirs = p[:, 1] >= levels[np.argmax((tpr - fpr).round(12))]
    thresholds = fit_thresholds(p, labels, "youden_j")
    np.testing.assert_array_equal(thresholds.decide(p), theirs)
    assert thresholds.values[0] == pytest.approx(1 - thresholds.values[1])


scores = st.lists(
    st.tuples(st.integers(0, 20).map(lambda i: i / 20), st.booleans()), min_size=12, max_size=40
).filter(lambda rows: 5 <= sum(r[1] for r in rows) <= len(rows) - 5)


def judge(rule, labels, decided):
    tp = int((labels & decided).sum())
    recall, specificity = (
        tp / labels.sum(),
        ((1 - labels) & (1 - decided)).sum() / (1 - labels).sum(),
    )
    match rule:
        case "youden_j":
            return recall + specificity
        case "max_f1":
            return 2 * tp / (labels.sum() + decided.sum())
        case "balanced":
            return -abs(recall - specificity)
    precision = tp / max(decided.sum(), 1)
    reached = precision >= 0.6
    return (reached, recall if reached else precision)


@pytest.mark.parametrize("rule", ["youden_j", "max_f1", "balanced", "precision_target:0.6"])
@settings(max_examples=40, deadline=None)
@given(rows=scores)
def test_no_other_threshold_does_better(rule, rows):
    p = np.array([r[0] for r in rows])
    labels = np.array([int(r[1]) for r in rows])
    thresholds = fit_thresholds(np.column_stack([1 - p, p]), labels, rule)
    ours = judge(rule, labels, thresholds.decide(np.column_stack([1 - p, p])))
    tried = [judge(rule, labels, (p >= t).astype(int)) for t in np.arange(1, 40) / 40]
    best = max(tried)
    if rule.startswith("precision"):
        assert ours[0] == best[0]
        assert ours[1] == pytest.approx(best[1])
    else:
        assert ours == pytest.approx(best)


def test_balanced_evens_out_what_argmax_neglects():
    rng = np.random.default_rng(1)
    labels = (rng.random(600) < 0.1).astype(np.int64)
    logits = to_columns(rng.normal(2.0 * labels, 1.0) - 3)
    p = fit_calibrator(logits, labels, "platt").probabilities(logits)
    decided = fit_thresholds(p, labels, "balanced").decide(p)
    recall, specificity = recall_score(labels, decided), recall_score(1 - labels, 1 - decided)
    assert abs(recall - specificity) < 0.02
    assert recall > 0.75 > recall_score(labels, p[:, 1] >= 0.5)


def test_precision_out_of_reach_takes_the_highest_and_says_so():
    p = np.array([0.9, 0.8, 0.7, 0.2])
    labels = np.array([0, 1, 0, 0])
    thresholds = fit_thresholds(np.column_stack([1 - p, p]), labels, "precision_target:0.95")
    assert thresholds.values[1] == pytest.approx(0.75)
    assert "out of reach" in thresholds.fitted_on.to_dict()["note"]


def test_three_classes_decide_by_the_ratio_to_their_thresholds():
    thresholds = Thresholds.from_dict(
        {
            "rule": "max_f1",
            "values": [0.1, 0.6, 0.4],
            "fitted_on": {"n": 3, "per_class": [1, 1, 1], "positives": None, "note": ""},
        }
    )
    p = np.array([[0.2, 0.5, 0.3], [0.02, 0.58, 0.4], [0.05, 0.75, 0.2]])
    np.testing.assert_array_equal(thresholds.decide(p), [0, 2, 1])


def test_a_threshold_lies_between_scores_so_that_float32_decides_alike():
    p = np.random.default_rng(3).random(200)
    labels = (p + np.random.default_rng(4).normal(0, 0.3, 200) > 0.5).astype(np.int64)
    columns = np.column_stack([1 - p, p])
    thresholds = fit_thresholds(columns, labels, "max_f1")
    np.testing.assert_array_equal(
        thresholds.decide(columns), thresholds.decide(columns.astype(np.float32))
    )
    assert thresholds.values[1] not in p


def test_decision_files_bring_both_back(tmp_path):
    model, features, labels = make_model(2)
    logits = to_columns(model.decision_function(features))
    calibrator, thresholds = fit_decision(logits, labels, "isotonic", "precision_target:0.8")
    write_decision(calibrator, thresholds, tmp_path)
    assert load_decision(tmp_path) == (calibrator, thresholds)
