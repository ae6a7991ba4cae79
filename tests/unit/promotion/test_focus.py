"""Report, MLflow tag, model card and gate agree on the class in focus of data without mitoses."""

import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.comparison import compare_fusion
from histofuse.evaluation.performance.intervals import estimate_intervals
from histofuse.evaluation.performance.results import Context, evaluate_model, summarise
from histofuse.evaluation.performance.tables import make_tables
from histofuse.evaluation.predictions import load_predictions
from histofuse.params.base import load_section
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import PromotionParams
from histofuse.promotion.gate import Evidence, Scored, decide
from histofuse.reporting.chapters.framing import find_focus
from histofuse.tracking.model_card import write_card
from histofuse.tracking.names import FOCUS_TAG
from histofuse.tracking.publish import describe_run
from histofuse.training.decision import choose_focus_class

CLASSES = ["apoptosis", "tumour", "non_tumour"]
# The rarest class differs between training, validation and test rows.
COUNTS = {"train": (30, 10, 60), "validation": (10, 30, 60), "test": (10, 60, 30)}


@pytest.fixture
def bundle(tmp_path):
    labels, splits = [], []
    for split, counts in COUNTS.items():
        labels += np.repeat(CLASSES, counts).tolist()
        splits += [split] * sum(counts)
    n, probabilities = len(labels), np.random.default_rng(0).dirichlet([1, 1, 1], len(labels))
    table = pd.DataFrame(
        {
            "patch_id": [f"p{i}" for i in range(n)],
            "case_id": [f"c{i % 12}" for i in range(n)],
            "split": splits,
            "label": labels,
            "prediction": np.array(CLASSES)[probabilities.argmax(axis=1)],
        }
        | {f"probability_{c}": probabilities[:, k] for k, c in enumerate(CLASSES)}
    )
    training = table.loc[table["split"] == "train", "label"]
    focus = choose_focus_class(CLASSES, training)
    with writing_bundle(tmp_path / "simple_cnn", "simple_cnn") as folder:
        config = {"kind": "image", "classes": CLASSES, "focus_class": focus}
        write_json({"name": "simple_cnn", **config}, folder / "config.json")
        table.to_parquet(folder / "predictions.parquet")
        (folder / "history.csv").write_text("epoch,train_loss\n1,1.0\n")
    return open_bundle(tmp_path / "simple_cnn")


def unchecked(function):
    """Take a function without the check of its arguments' types."""
    return inspect.unwrap(function)


def test_all_agree_without_mitoses(bundle):
    rows, focus = load_predictions(bundle.path), "tumour"
    context = Context("brecahad", "simulated", {"leaky": False}, {}, "test", "label_blind", 0.98)
    results = [evaluate_model(rows, context)]
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), seed=1)
    intervals = estimate_intervals(results, compare_fusion(results, context), context, bootstrap)
    tables = make_tables(results, None, context, intervals)
    assert {t.name for t in tables} >= {focus}
    assert all("tumour_auprc" in t.headings for t in tables)

    reported = SimpleNamespace(metrics=summarise(results, {}), params={"image": {"simple_cnn": {}}})
    assert unchecked(find_focus)(reported) == focus

    published = SimpleNamespace(bundle=bundle, config=bundle.config, registered="histofuse-x")
    assert unchecked(describe_run)(published, 1)[FOCUS_TAG] == focus
    scores = {f"test/auprc/{c}": 0.5 for c in CLASSES}
    assert f"auprc/{focus}" in write_card("histofuse-x", bundle, scores)
    assert "auprc/apoptosis" not in write_card("histofuse-x", bundle, scores)

    candidate = Scored(1, bundle.digest, bundle.config, "", rows.of("test"), "", rows)
    evidence = Evidence(candidate, None, frozenset(), signature=True, card=True, seed=1)
    names = [c.name for c in decide(evidence, load_section(PromotionParams, "promotion")).checks]
    assert f"minimum[recall/{focus}]" in names
