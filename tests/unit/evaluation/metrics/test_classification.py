import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import classification_metrics
from sklearn import metrics as peer

from histofuse.evaluation.metrics.classification import count_confusion, count_cuts

CLASSES = ["mitosis", "tumour", "non_tumour"]


def draw_problem(seed, n, k, ties):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n)])
    raw = rng.random((len(labels), k)) + np.eye(k)[labels] * rng.random()
    if ties:
        raw = np.round(raw * 3) + 1
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    predictions = rng.integers(0, k, len(labels))
    return labels, probabilities, predictions


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([2, 3, 4]), st.booleans())
def test_every_metric_is_scikit_learns(seed, n, k, ties):
    labels, p, predictions = draw_problem(seed, n, k, ties)
    classes = [f"c{c}" for c in range(k)]
    found = classification_metrics(labels, p, predictions, classes, "test")

    each = peer.precision_recall_fscore_support(
        labels, predictions, labels=range(k), zero_division=0
    )
    expected = {
        "accuracy": peer.accuracy_score(labels, predictions),
        "brier": peer.brier_score_loss(labels, p if k > 2 else p[:, 1]),
    }
    for name, values in zip(("precision", "recall", "f1"), each, strict=False):
        expected |= {f"{name}/{c}": v for c, v in zip(classes, values, strict=True)}
        expected[f"{name}/macro"] = np.mean(values)
    for name, score in (
        ("auroc", peer.roc_auc_score),
        ("auprc", peer.average_precision_score),
    ):
        values = [score(labels == c, p[:, c]) for c in range(k)]
        expected |= {f"{name}/{c}": v for c, v in zip(classes, values, strict=True)}
        expected[f"{name}/macro"] = np.mean(values)
    values = [slow_calibration_error(p[:, c], labels == c) for c in range(k)]
    expected |= {f"ece/{c}": v for c, v in zip(classes, values, strict=True)}
    expected["ece/macro"] = np.mean(values)
    expected["ece/top_label"] = slow_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels)

    assert found == pytest.approx({f"test/{name}": v for name, v in expected.items()})


def slow_calibration_error(claimed, happened):
    pairs = list(zip(claimed, happened, strict=True))
    total = 0.0
    for b in range(10):
        held = [q for q in pairs if min(int(q[0] * 10), 9) == b]
        if held:
            total += abs(sum(q for q, _ in held) - sum(hit for _, hit in held))
    return total / len(pairs)


def test_by_hand():
    labels = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.35, 0.65], [0.2, 0.8]])
    found = classification_metrics(labels, p, np.array([0, 1, 1, 1]), ["no", "yes"], "test")

    assert found["test/accuracy"] == 0.75
    assert found["test/precision/yes"] == pytest.approx(2 / 3)
    assert found["test/recall/macro"] == 0.75
    assert found["test/f1/no"] == pytest.approx(2 / 3)
    assert found["test/auroc/yes"] == 1.0
    assert found["test/brier"] == pytest.approx((0.01 + 0.36 + 0.1225 + 0.04) / 4)
    assert found["test/ece/yes"] == pytest.approx((0.1 + abs(1.25 - 1) + 0.2) / 4)
    assert found["test/ece/top_label"] == pytest.approx((0.1 + abs(1.25 - 1) + 0.2) / 4)


def test_a_rare_class_that_is_overrated_shows_in_its_own_calibration_error_alone():
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) > 0.03).astype(int)  # class 0 in 3 of 100
    p = np.column_stack([np.full(4000, 0.08), np.full(4000, 0.47), np.full(4000, 0.45)])
    labels[labels == 1] = rng.choice([1, 2], (labels == 1).sum(), p=[0.49, 0.51])
    found = classification_metrics(labels, p, labels, CLASSES, "test")
    assert found["test/ece/mitosis"] == pytest.approx(0.05, abs=0.01)
    assert found["test/ece/top_label"] < 0.02
    each = [found[f"test/ece/{c}"] for c in CLASSES]
    assert found["test/ece/macro"] == pytest.approx(np.mean(each))


def test_absent_class_has_no_metric_and_no_macro_mean():
    labels, predictions = np.array([1, 1, 2, 2]), np.array([1, 0, 2, 2])
    p = np.full((4, 3), 1 / 3)
    found = classification_metrics(labels, p, predictions, CLASSES, "validation")

    for name in ("precision", "recall", "f1", "auroc", "auprc"):
        assert found[f"validation/{name}/mitosis"] is None
        assert found[f"validation/{name}/macro"] is None
    assert found["validation/recall/tumour"] == 0.5
    assert found["validation/auroc/tumour"] == 0.5
    assert found["validation/accuracy"] == 0.75


def test_class_never_predicted_has_precision_zero():
    labels, predictions = np.array([0, 1, 2]), np.array([1, 1, 2])
    found = classification_metrics(labels, np.eye(3), predictions, CLASSES, "test")
    assert found["test/precision/mitosis"] == found["test/f1/mitosis"] == 0.0
    assert found["test/precision/macro"] == pytest.approx((0 + 0.5 + 1) / 3)


def test_one_class_alone_has_no_auroc():
    labels = np.zeros(3, dtype=int)
    found = classification_metrics(labels, np.eye(3)[[0, 0, 0]], labels, CLASSES, "test")
    assert found["test/auroc/mitosis"] is None
    assert found["test/auprc/mitosis"] == 1.0


def test_no_rows_no_metrics():
    none = np.array([], dtype=int)
    found = classification_metrics(none, np.empty((0, 3)), none, CLASSES, "test")
    assert set(found.values()) == {None}
    assert len(found) == 3 + 6 * 4


def test_confusion_has_the_truth_in_rows():
    counts = count_confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_curves_are_scikit_learns():
    labels, p, _ = draw_problem(7, 50, 2, ties=True)
    cuts = count_cuts(p[:, 1], labels == 1)
    fpr, tpr, _ = peer.roc_curve(labels, p[:, 1], drop_intermediate=False)
    precision, recall, _ = peer.precision_recall_curve(labels, p[:, 1])

    np.testing.assert_allclose(cuts.false_positive_rate, fpr[1:])
    np.testing.assert_allclose(cuts.recall, tpr[1:])
    np.testing.assert_allclose(cuts.precision, precision[::-1][1:])
    np.testing.assert_allclose(cuts.recall, recall[::-1][1:])
