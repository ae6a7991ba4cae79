"""Thresholds by value, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from overconfident import make_model, to_columns
from sklearn.metrics import recall_score, roc_curve

from histofuse.training.calibrate import fit_calibrator
from histofuse.training.thresholds import Thresholds, fit_thresholds


def test_too_few_rows_put_the_threshold_at_the_prevalence():
    # The one positive is ranked last: Youden's J would call everyone positive.
    p = np.linspace(0.2, 0.4, 30)
    labels = (np.arange(30) == 0).astype(np.int64)
    for rule in ("youden_j", "balanced"):
        thresholds = fit_thresholds(np.column_stack([1 - p, p]), labels, rule)
        assert thresholds.values[1] == pytest.approx(2 / 32)
        assert "1 row inside and 29 outside" in thresholds.fitted_on.to_dict()["note"]


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
    p = fit_calibrator(logits, labels, np.arange(len(labels)), "platt").probabilities(logits)
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
