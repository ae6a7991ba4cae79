import json

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.tables import write_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.patches import PATCH_INDEX
from histofuse.evaluation.crossval.protocol import (
    PAPER,
    Arm,
    Protocol,
    describe_protocols,
    make_protocol_table,
    measure_shared,
    write_protocols,
)
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.tables import render_markdown
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalParams

INTERVALS = IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10)
CLASSES = ["mitosis", "tumour", "non_tumour"]


def make_arm(skill, leaky):
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 3
    scores = rng.normal(size=(120, 3)) + skill * np.eye(3)[labels]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    rows = Predictions(
        name="resnet18",
        config={"kind": "image", "classes": CLASSES},
        history=pd.DataFrame(),
        keys=np.arange(120).astype(str).astype(object),
        split=np.array(["test"] * 120, dtype=object),
        labels=labels,
        probabilities=p,
        predictions=p.argmax(axis=1),
        groups=np.array([f"Case_{n // 10}" for n in range(120)], dtype=object),
        subjects=None,
    )
    intervals = Bootstrap(INTERVALS, seed=1).estimate_metrics(rows)
    return Arm(rows, intervals, {64: 0.87 if leaky else 0.0}, leaky)


@pytest.fixture
def found():
    return [
        Protocol(name, make_arm(4, "patches split by patch"), make_arm(1, ""), "case", True)
        for name in PAPER
    ]


def test_table_holds_the_paper_ours_by_its_protocol_and_ours_by_case(found):
    table = make_protocol_table(found, INTERVALS)

    rows = table.rows[3:]
    assert [r["protocol"] for r in rows] == [
        "the paper",
        "ours, its protocol",
        "ours, split by case",
    ]
    assert rows[0]["auroc/mitosis"] == 0.927
    assert rows[0]["auprc/mitosis"] == "not reported"
    assert rows[1]["leaky"] == "patches split by patch"
    assert rows[1]["shared"] == "87% at 64 px"
    assert rows[2]["leaky"] == "no"
    assert rows[2]["f1/macro"] == found[1].honest.intervals["f1/macro"]
    assert list(table.headings)[2] == "auprc/mitosis"
    assert "Simulated data" in render_markdown(table)


def test_json_holds_the_same(found):
    described = json.loads(json.dumps(describe_protocols(found, INTERVALS), allow_nan=False))
    model = described["models"]["simple_cnn"]
    assert model["paper"]["accuracy"] == 0.9999
    assert model["paper_protocol"]["leaky"]
    assert model["paper_protocol"]["shares_pixels_with_training"] == {"64": 0.87}
    value = model["honest"]["metrics"]["auroc/mitosis"]
    assert value["low"] < value["value"] < value["high"]
    assert value["groups"] == 12


def test_outputs_are_the_same_bytes_twice(found, tmp_path):
    for name in ("a", "b"):
        write_protocols(found, INTERVALS, tmp_path / name)
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_shares_of_pixels_are_those_of_a_slow_count(tmp_path):
    rng = np.random.default_rng(0)
    n = 60
    x, y, frame = rng.integers(0, 700, n), rng.integers(0, 700, n), rng.integers(0, 2, n)
    names = [f"Case_1-{f:02d}" for f in frame]
    index = pd.DataFrame({"patch_id": [f"{f}/{i:04d}" for i, f in enumerate(names)]})
    index = index.assign(frame_id=names, case_id="Case_1", x_px=x * 1.0, y_px=y * 1.0)
    index = index.assign(label="tumour", shard=0, row=np.arange(n))
    write_table(index, tmp_path / "patches" / "index.parquet", PATCH_INDEX)
    meta = {"patch_px": 64, "margin_px": 16, "stored_px": 96, "classes": CLASSES}
    meta |= {"source": "simulated", "stain_normalisation": "none"}
    write_json(meta, tmp_path / "patches" / "meta.json")
    frames = pd.DataFrame({"frame_id": ["Case_1-00", "Case_1-01"], "case_id": "Case_1"})
    frames = frames.assign(file="f", width_px=400, height_px=400, pixels_sha256=["0", "1"])
    write_table(frames, tmp_path / "frames.parquet", FRAMES)
    judged = np.arange(n) % 4 == 0
    splits = index[["patch_id", "frame_id", "case_id", "label"]]
    splits = splits.assign(split=np.where(judged, "validation", "train"))

    found = measure_shared(
        splits, "validation", tmp_path / "patches", tmp_path / "frames.parquet", folds=5
    )

    for side in (64, 96):
        hits = [
            any(
                frame[i] == frame[j] and max(abs(x[i] - x[j]), abs(y[i] - y[j])) < side
                for j in np.flatnonzero(~judged)
            )
            for i in np.flatnonzero(judged)
        ]
        assert found[side] == pytest.approx(np.mean(hits))
        assert 0 < found[side] < 1
