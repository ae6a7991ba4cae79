"""Metrics under weightings of the groups against scikit-learn with ``sample_weight``."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from histofuse.evaluation.metrics.weighted import measure_rows, name_metrics, prepare_metrics
from histofuse.evaluation.predictions import Predictions


def draw_predictions(seed, n, k, groups, levels):
    """Rows whose probabilities take few values, so that ties run across classes and groups."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(1, levels + 1, (n, k)).astype(float)
    return Predictions(
        name="m",
        config={"kind": "image" if k > 2 else "tabular", "classes": [f"c{i}" for i in range(k)]},
        history=pd.DataFrame(),
        keys=np.arange(n).astype(object),
        split=np.full(n, "test", dtype=object),
        labels=rng.integers(0, k, n),
        probabilities=raw / raw.sum(axis=1, keepdims=True),
        predictions=rng.integers(0, k, n),
        groups=rng.integers(0, groups, n),
        subjects=None,
    )


def slow_metrics(rows, weight):
    """Every metric by scikit-learn on the rows that count, or NaN by the rule of `metrics`."""
    kept = weight > 0
    labels, p, called, w = (
        a[kept] for a in (rows.labels, rows.probabilities, rows.predictions, weight)
    )
    k = p.shape[1]
    present = [bool((labels == c).any()) for c in range(k)]
    found = {
        "accuracy": peer.accuracy_score(labels, called, sample_weight=w),
        "brier": (w * slow_squares(p, labels)).sum() / w.sum(),
        "ece/top_label": slow_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels, w),
    }
    found |= {f"ece/c{c}": slow_calibration_error(p[:, c], labels == c, w) for c in range(k)}
    each = peer.precision_recall_fscore_support(
        labels, called, labels=range(k), sample_weight=w, zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1"), each, strict=False):
        found |= {f"{name}/c{c}": values[c] if present[c] else np.nan for c in range(k)}
    for c in range(k):
        hit, scores = labels == c, p[:, c]
        both = hit.any() and not hit.all()
        found[f"auroc/c{c}"] = peer.roc_auc_score(hit, scores, sample_weight=w) if both else np.nan
        found[f"auprc/c{c}"] = (
            peer.average_precision_score(hit, scores, sample_weight=w) if present[c] else np.nan
        )
    for name in ("precision", "recall", "f1", "auroc", "auprc", "ece"):
        found[f"{name}/macro"] = np.mean([found[f"{name}/c{c}"] for c in range(k)])
    return found


def slow_squares(p, labels):
    squared = (p - np.eye(p.shape[1])[labels]) ** 2
    return squared[:, 1] if p.shape[1] == 2 else squared.sum(axis=1)


def slow_calibration_error(claimed, happened, w):
    bins = np.minimum((claimed * 10).astype(int), 9)
    gaps = [abs((w * (claimed - happened))[bins == b].sum()) for b in range(10)]
    return sum(gaps) / w.sum()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    k=st.sampled_from([2, 3, 4]),
    groups=st.integers(1, 8),
    levels=st.sampled_from([1, 3, 10**6]),
)
@example(seed=0, n=1, k=3, groups=1, levels=1)
def test_every_weighting_is_scikit_learns_sample_weight(seed, n, k, groups, levels):
    rows = draw_predictions(seed, n, k, groups, levels)
    names = name_metrics(rows.classes)
    prepared = prepare_metrics(rows, names)
    weights = np.random.default_rng(seed).integers(0, 4, (5, prepared.clusters.count))
    weights[:, 0] += weights.sum(axis=1) == 0

    measured = prepared.measure(weights)

    for line, weighting in zip(measured, weights, strict=True):
        expected = slow_metrics(rows, weighting[prepared.clusters.number].astype(float))
        found = dict(zip(names, line.tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.sampled_from([2, 3]), st.sampled_from([2, 99]))
def test_equal_weights_give_the_metrics_of_the_rows(seed, n, k, levels):
    rows = draw_predictions(seed, n, k, 5, levels)
    names = name_metrics(rows.classes)
    prepared = prepare_metrics(rows, names)
    line = prepared.measure(np.full((1, prepared.clusters.count), 3))[0]

    found = {f"test/{n}": None if np.isnan(v) else v for n, v in zip(names, line, strict=True)}
    assert found == pytest.approx(measure_rows(rows, "test"))


def test_a_few_metrics_cost_and_give_only_themselves():
    rows = draw_predictions(0, 40, 3, 6, 99)
    every = prepare_metrics(rows, name_metrics(rows.classes))
    few = prepare_metrics(rows, ["auprc/c1", "brier"])
    weights = np.random.default_rng(0).integers(0, 3, (20, every.clusters.count))

    where = [every.metrics.index(name) for name in few.metrics]
    np.testing.assert_array_equal(few.measure(weights), every.measure(weights)[:, where])
    assert list(few._rankings) == [1]


def test_blocks_do_not_change_the_numbers(monkeypatch):
    rows = draw_predictions(0, 40, 3, 6, 99)
    prepared = prepare_metrics(rows, name_metrics(rows.classes))
    weights = np.random.default_rng(0).integers(0, 3, (50, prepared.clusters.count))
    at_once = prepared.measure(weights)
    monkeypatch.setattr("histofuse.evaluation.metrics.weighted._CELLS", 41 * 3)

    np.testing.assert_allclose(prepared.measure(weights), at_once, rtol=1e-12)


def test_unknown_metric_is_refused():
    rows = draw_predictions(0, 4, 2, 2, 9)
    with pytest.raises(ValueError, match="no metrics \\['auroc/tumour'\\]"):
        prepare_metrics(rows, ["auroc/tumour", "brier"])
