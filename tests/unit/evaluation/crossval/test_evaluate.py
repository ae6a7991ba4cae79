import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from histofuse.core.errors import LeakageError
from histofuse.evaluation.crossval.evaluate import cross_validate, find_spread, measure_fold
from histofuse.evaluation.crossval.folds import Folds, FoldSplit, pool, require_unseen
from histofuse.evaluation.crossval.report import describe_run, explain_gaps, make_crossval_tables
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.tables import render_markdown
from histofuse.evaluation.predictions import Predictions
from histofuse.params.crossval import CrossvalParams
from histofuse.params.intervals import IntervalParams

CLASSES = ["mitosis", "tumour", "non_tumour"]
BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)
PARAMS = CrossvalParams(
    folds=3,
    validation_unit="case",
    classes_required=[],
    image_models=["resnet18"],
    tabular_models=["mlp"],
    rules=["label_blind"],
    patient_models=[],
    workers=1,
    threads=1,
)


def make_fold(fold, name="resnet18", kind="image", skill=1.0, mitoses=4, seed=0):
    """Make test rows of four cases (patients) of a fold; the more skill, the better told."""
    rng = np.random.default_rng((fold, seed))
    classes = CLASSES if kind != "tabular" else ["no_death", "death"]
    labels = np.concatenate([np.zeros(mitoses, int), 1 + np.arange(40 - mitoses) % 2])
    if kind == "tabular":
        labels = np.arange(40) % 2
    scores = rng.normal(size=(40, len(classes))) + skill * np.eye(len(classes))[labels]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    config = {
        "kind": kind,
        "classes": classes,
        "focus_class": "mitosis" if "mitosis" in classes else classes[-1],
    }
    if kind == "fusion":
        config["encoders"] = {"image": {"name": "resnet18"}, "patient": {"name": "mlp"}}
    return Predictions(
        name=name,
        config=config,
        history=pd.DataFrame(),
        keys=np.array([f"{fold}/{n}" for n in range(40)], dtype=object),
        split=np.array(["test"] * 40, dtype=object),
        labels=labels,
        probabilities=p,
        predictions=p.argmax(axis=1),
        groups=np.array([f"Case_{fold}_{n % 4}" for n in range(40)], dtype=object),
        subjects=None,
        digest="d" * 64,
    )


@pytest.fixture
def folds():
    tests = {
        "resnet18": [make_fold(k, mitoses=4 if k else 0) for k in range(3)],
        "mlp": [make_fold(k, "mlp", "tabular") for k in range(3)],
        "fusion_label_blind": [
            make_fold(k, "fusion_label_blind", "fusion", 1.5, 4 if k else 0, 1) for k in range(3)
        ],
    }
    counts = {s: dict.fromkeys(CLASSES, 3) for s in ("train", "validation", "test")}
    patients = {"train": 20, "validation": 9, "test": 10}
    split = FoldSplit({"test": ["Case_0_0"]}, counts, patients)
    return Folds(tests, [split] * 3)


@pytest.fixture
def found(folds, context):
    return cross_validate(folds, context(rules={"label_blind": "label_blind"}), BOOTSTRAP)


def test_pooled_metrics_are_those_of_all_test_rows_together(found, folds):
    tests = folds.tests["resnet18"]
    labels = np.concatenate([t.labels for t in tests]) == 0
    scores = np.concatenate([t.probabilities[:, 0] for t in tests])
    metrics = found.results[0].metrics
    assert metrics["test/auprc/mitosis"] == pytest.approx(average_precision_score(labels, scores))
    assert metrics["test/auroc/mitosis"] == pytest.approx(roc_auc_score(labels, scores))


def test_pooled_intervals_draw_the_cases_of_all_folds(found, folds):
    pooled = pool(folds.tests["resnet18"])
    assert found.intervals.of["resnet18"] == BOOTSTRAP.estimate_metrics(pooled)
    assert found.intervals.of["resnet18"]["accuracy"].groups == 12
    fused = pool(folds.tests["fusion_label_blind"])
    differences = found.intervals.minus_image["fusion_label_blind"]
    assert differences == BOOTSTRAP.estimate_differences(fused, pooled)


def test_the_mean_over_folds_leaves_out_those_that_define_nothing(found, folds):
    values = [measure_fold(t)["auprc/mitosis"] for t in folds.tests["resnet18"]]
    assert values[0] is None
    spread = found.spread("resnet18", "auprc/mitosis")
    assert spread.folds == 2
    known = np.array(values[1:], dtype=float)
    assert spread.mean == pytest.approx(known.mean())
    assert spread.sd == pytest.approx(known.std(ddof=1))
    assert find_spread([None]) == find_spread([])
    assert find_spread([0.5]).sd is None


def test_a_row_tested_twice_stops_it(folds):
    tests = folds.tests["resnet18"]
    with pytest.raises(LeakageError, match="tested in more than one fold"):
        pool([tests[0], tests[1], tests[0]])


def test_a_case_tested_on_and_fitted_on_stops_it():
    rows = make_fold(0)
    rows.split[:20:4] = "train"
    with pytest.raises(LeakageError, match=r"fold_0, resnet18: 1 case, such as Case_0_0"):
        require_unseen(rows, Path("fold_0"))
    rows.split[::4] = "train"
    require_unseen(rows, Path("fold_0"))


def test_json_holds_folds_and_pooled_numbers(found, folds):
    described = json.loads(json.dumps(describe_run(found, PARAMS), allow_nan=False))

    model = described["models"]["resnet18"]
    assert model["per_fold"][0]["auprc/mitosis"] is None
    assert model["over_folds"]["auprc/mitosis"]["folds"] == 2
    pooled = model["pooled"]["auprc/mitosis"]
    assert pooled["low"] < pooled["value"] < pooled["high"]
    assert pooled["groups"] == 12
    difference = described["minus_image_model"]["fusion_label_blind"]
    assert difference["image_model"] == "resnet18"
    fused = described["models"]["fusion_label_blind"]["pooled"]["f1/macro"]["value"]
    value = fused - model["pooled"]["f1/macro"]["value"]
    assert difference["metrics"]["f1/macro"]["value"] == pytest.approx(value, abs=2e-6)
    assert described["how"] == {
        "unit": "case",
        "folds": 3,
        "validation_unit": "case",
        "threads": 1,
    }


def test_few_restricted_patients_are_not_counted(folds, context):
    known = context(rules={"label_blind": "label_blind"}, patient_source="restricted")
    described = describe_run(cross_validate(folds, known, BOOTSTRAP), PARAMS)
    assert described["folds"][0]["patients"] == {"train": 20, "validation": None, "test": 10}


def test_what_a_fold_lacks_is_said():
    counts = {"train": {"mitosis": 2}, "validation": {"mitosis": 0}, "test": {"mitosis": 1}}
    found = explain_gaps([FoldSplit({}, counts, {})])
    assert found == [
        "Fold 1: validation holds no mitosis; no threshold is fitted for the class, and argmax "
        "decides on it."
    ]


def test_tables_lead_with_mitosis_and_end_with_accuracy(found):
    tables = {t.name: t for t in make_crossval_tables(found)}

    assert set(tables) == {
        "pooled_patches",
        "pooled_health_records",
        "fusion_minus_image",
        "folds_patches",
        "folds_health_records",
    }
    by_fold = tables["folds_patches"]
    assert list(by_fold.headings)[4:] == [
        "auprc",
        "recall",
        "f1",
        "auroc",
        "macro_f1",
        "macro_auroc",
        "accuracy",
    ]
    assert [row["fold"] for row in by_fold.rows] == ["1", "2", "3", "all"] * 2
    spread = found.spread("resnet18", "auprc/mitosis")
    shown = f"{spread.mean:.3f} ± {spread.sd:.3f} (2)"
    assert by_fold.rows[3]["auprc"] == shown
    text = render_markdown(tables["pooled_patches"])
    assert "test predictions of all 3 folds" in text
    assert "Simulated data" in text
