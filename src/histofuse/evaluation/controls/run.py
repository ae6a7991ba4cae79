"""Run the controls: compare pairing arms, and train on shuffled labels, targets and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histofuse.core.naming import name_fusion
from histofuse.core.progress import report
from histofuse.evaluation.controls.measure import (
    IMAGE,
    Controls,
    Shuffled,
    compare_arms,
    measure_shuffles,
)
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.predictions import Predictions, load_predictions, name_admissions
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import AnyPairing, PairingParams
from histofuse.params.promotion import ControlParams, name_focus
from histofuse.params.tabular import AnyTabularParams
from histofuse.training.fusion import PairedEmbeddings, load_pairs
from histofuse.training.protocols.controls import run_fusion_control, run_tabular_control
from histofuse.training.tabular import EncodedTable


@dataclass(frozen=True)
class ControlInputs:
    """Data and params of the controls."""

    pairings: Mapping[str, AnyPairing]  # name to rule; labels are shuffled under the first
    pairs: Path
    embeddings: Path
    fusion: FusionParams  # params of the heads
    table: EncodedTable  # encoded health records
    tabular: AnyTabularParams  # params of the model trained on them


def load_arms(
    models: Path, image_encoder: str, pairings: Mapping[str, AnyPairing]
) -> dict[str, Predictions]:
    """Load test predictions of the image model, on patches all arms hold, and of each fusion."""
    names = {pairing.rule: name_fusion(name) for name, pairing in pairings.items()}
    fused = {rule: load_predictions(models / name).of("test") for rule, name in names.items()}
    image = load_predictions(models / image_encoder).of("test")
    shared = np.all([np.isin(image.keys, arm.keys) for arm in (image, *fused.values())], axis=0)
    return {IMAGE: image.take(np.flatnonzero(shared)), **fused}


def run_controls(
    arms: Mapping[str, Predictions],
    inputs: ControlInputs,
    params: ControlParams,
    bootstrap: Bootstrap,
) -> Controls:
    """Compare the arms, train on shuffles and measure what is left of each metric."""
    metrics = _name_metrics(params, arms[IMAGE].focus_class)
    intervals, differences = compare_arms(arms, metrics, bootstrap)
    shuffled = _shuffle_fusion(inputs, metrics, params.repeats, bootstrap)
    shuffled["shuffled_targets"], admissions = _shuffle_targets(inputs, params, bootstrap)
    sizes = {"patches": arms[IMAGE].describe_size(), "admissions": admissions}
    return Controls(tuple(metrics), intervals, differences, shuffled, sizes)


def _name_metrics(params: ControlParams, focus_class: str) -> list[str]:
    return [name_focus(metric, focus_class) for metric in params.metrics]


def _shuffle_fusion(
    inputs: ControlInputs, metrics: Sequence[str], repeats: int, bootstrap: Bootstrap
) -> dict[str, dict[str, Shuffled]]:
    """Train heads on shuffled images under each rule, and on shuffled labels under the first."""
    shuffled: dict[str, dict[str, Shuffled]] = {}
    for number, (name, pairing) in enumerate(inputs.pairings.items()):
        pairs = inputs.pairs / f"{name}.parquet"
        data = load_pairs(pairs, inputs.embeddings, PairingParams(pairing))
        controls = {"shuffled_images": f"shuffled_images[{pairing.rule}]"}
        if not number:
            controls = {"shuffled_labels": "shuffled_labels"} | controls
        for control, title in controls.items():
            answers = run_fusion_control(data, inputs.fusion, control, repeats, bootstrap.seed)
            shuffled[title] = measure_shuffles(_take_test(data), answers, metrics, bootstrap)
            report(f"trained {len(answers)} heads: {title}")
    return shuffled


def _take_test(data: PairedEmbeddings) -> Predictions:
    """Take the test pairs in their order, with true labels and no predictions yet."""
    pairs = data.pairs[data.pairs["split"] == "test"]
    labels = np.array([data.classes.index(label) for label in pairs["label"]], dtype=np.int64)
    config = {"kind": "fusion", "classes": data.classes}
    keys, cases = (pairs[name].to_numpy(dtype=object) for name in ("patch_id", "case_id"))
    return _make_rows(config, keys, labels, cases)


def _shuffle_targets(
    inputs: ControlInputs, params: ControlParams, bootstrap: Bootstrap
) -> tuple[dict[str, Shuffled], str]:
    """Train a model of the record on shuffled targets; also describe the size of its test split."""
    table = inputs.table
    answers = run_tabular_control(table, inputs.tabular, params.repeats, bootstrap.seed)
    rows = table.rows[table.rows["split"] == "test"]
    subjects = rows["subject_id"].to_numpy()
    test = _make_rows(
        {"kind": "tabular", "classes": [f"no_{table.target}", table.target]},
        name_admissions(subjects, rows["hadm_id"].to_numpy()),
        rows["target"].to_numpy(dtype=np.int64),
        subjects,
    )
    metrics = _name_metrics(params, table.target)
    return measure_shuffles(test, answers, metrics, bootstrap), test.describe_size()


def _make_rows(
    config: dict, keys: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> Predictions:
    """Make test rows without predictions."""
    n, k = len(labels), len(config["classes"])
    return Predictions(
        name=config["kind"],
        config=config,
        history=pd.DataFrame(),
        keys=keys,
        split=np.full(n, "test", dtype=object),
        labels=labels,
        probabilities=np.full((n, k), 1 / k),
        predictions=np.zeros(n, dtype=np.int64),
        groups=groups,
        subjects=None,
    )
