"""Predictions of fabricated models, as results and as bundles."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import writing_bundle
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.comparison import Comparison, compare_fusion
from histofuse.evaluation.performance.intervals import Intervals, estimate_intervals
from histofuse.evaluation.performance.results import Context, Result, evaluate_model
from histofuse.evaluation.predictions import Predictions, load_predictions
from histofuse.params.intervals import IntervalParams

CLASSES = ["mitosis", "tumour", "non_tumour"]
LABELS = ["mitosis"] * 2 + ["tumour"] * 6 + ["non_tumour"] * 2
ENCODERS = {"image": {"name": "resnet18"}, "patient": {"name": "mlp"}}


def write_patch_bundle(folder: Path, name: str, wrong: int = 0, **config) -> Path:
    """Write a bundle that is right on test but for the first `wrong` of ten patches."""
    called = LABELS.copy()
    called[:wrong] = ["tumour" if c == "mitosis" else "mitosis" for c in called[:wrong]]
    rows = [
        {
            "patch_id": f"{split}/{n:04d}",
            "case_id": f"Case_{split}_{n % 2}",
            "frame_id": "f",
            "split": split,
            "label": LABELS[n],
            "prediction": called[n],
            **{f"probability_{c}": 0.8 if c == called[n] else 0.1 for c in CLASSES},
        }
        for split in ("train", "validation", "test")
        for n in range(10)
    ]
    table = pd.DataFrame(rows)
    if config.get("kind") == "fusion":
        table["subject_id"] = table["hadm_id"] = np.arange(30) // 5
    return _write(
        folder / name,
        table,
        {"kind": "image", "classes": CLASSES, "focus_class": "mitosis", **config},
    )


def write_tabular_bundle(folder: Path, name: str) -> Path:
    target = np.resize([0, 0, 0, 1], 40)
    probability = np.where(target == 1, 0.7, 0.2)
    probability[1] = 0.9
    table = pd.DataFrame(
        {
            "subject_id": np.arange(40),
            "hadm_id": np.arange(40),
            "split": np.resize(["test"] * 4 + ["train"] * 16, 40),
            "target": target,
            "probability": probability,
            "prediction": (probability > 0.5).astype(int),
        }
    )
    return _write(
        folder / name,
        table,
        {"kind": "tabular", "classes": ["no_death", "death"], "focus_class": "death"},
    )


def _write(path: Path, table: pd.DataFrame, config: dict) -> Path:
    history = "epoch,train_loss,validation_loss,validation_macro_f1\n1,1.0,1.1,0.5\n2,0.5,0.8,0.6\n"
    with writing_bundle(path, path.name) as folder:
        table.to_parquet(folder / "predictions.parquet")
        (folder / "history.csv").write_text(history)
        write_json({"name": path.name, **config}, folder / "config.json")
    return path


@pytest.fixture
def context() -> Callable[..., Context]:
    """Make context; words given replace the usual ones."""

    def make(**changes) -> Context:
        values = {
            "image_source": "simulated",
            "patient_source": "simulated",
            "patch_audit": {"leaky": False},
            "rules": {"label_blind": "label_blind", "aligned": "label_aligned"},
            "split": "test",
            "primary": "label_blind",
            "alarm_at": 0.98,
        }
        return Context(**(values | changes))

    return make


@pytest.fixture
def models(tmp_path) -> list[Predictions]:
    """An image model, one on health records, and fusion models of two rules."""
    fusion = {"kind": "fusion", "encoders": ENCODERS}
    paths = [
        write_patch_bundle(tmp_path, "resnet18", wrong=3),
        write_tabular_bundle(tmp_path, "mlp"),
        write_patch_bundle(tmp_path, "fusion_aligned", **fusion),
        write_patch_bundle(tmp_path, "fusion_label_blind", wrong=2, **fusion),
    ]
    return [load_predictions(path) for path in paths]


BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)


def measure(
    models: list[Predictions], context: Context
) -> tuple[list[Result], Comparison | None, Intervals]:
    """Evaluate models, compare fusion with its image model, and put intervals on all of it."""
    results = [evaluate_model(model, context) for model in models]
    comparison = compare_fusion(results, context)
    return results, comparison, estimate_intervals(results, comparison, context, BOOTSTRAP)


@pytest.fixture
def measured() -> Callable[..., tuple[list[Result], Comparison | None, Intervals]]:
    """Give `measure`, which makes what tables and figures are made of."""
    return measure
