"""The paper's numbers, ours by its protocol, and ours by an honest split of the same model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from histofuse.core.artifacts import load_json, render, round_number, write_json
from histofuse.core.naming import name_model, show_name
from histofuse.core.tables import read_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.leakage import audit_patches
from histofuse.data.patches import load_index, load_meta
from histofuse.data.splits import PATCH_SPLITS
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval, explain_resampling
from histofuse.evaluation.performance.tables import Cell, Table, write_tables
from histofuse.evaluation.predictions import Predictions, load_predictions
from histofuse.params.intervals import IntervalParams
from histofuse.training.protocols.paper import SPLITS, make_paper_params

# Source: paper, Table 3.
PAPER: Final[Mapping[str, Mapping[str, float]]] = {
    "simple_cnn": {
        "auroc/mitosis": 1.0,
        "f1/macro": 0.999,
        "auroc/macro": 0.999,
        "accuracy": 0.9999,
    },
    "resnet18": {"auroc/mitosis": 0.927, "f1/macro": 1.0, "auroc/macro": 1.0, "accuracy": 1.0},
}
COLUMNS: Final = {
    "auprc/mitosis": "Mitosis AUPRC",
    "recall/mitosis": "Mitosis recall",
    "f1/mitosis": "Mitosis F1",
    "auroc/mitosis": "Mitosis AUC",
    "f1/macro": "Macro F1",
    "auroc/macro": "Macro AUC",
    "accuracy": "Accuracy",
}
ARMS: Final = {
    "paper": "the paper",
    "paper_protocol": "ours, its protocol",
    "honest": "ours, split by {unit}",
}


@dataclass(frozen=True)
class Arm:
    """A model under one protocol."""

    rows: Predictions  # those it is judged on
    intervals: Mapping[str, Interval]  # metric to value and interval
    # side of the window in px to the share of these rows whose window shares pixels with a training
    # patch
    shared: Mapping[int, float]
    leaky: str  # why its numbers flatter it; empty where nothing is declared leaky


@dataclass(frozen=True)
class Protocol:
    """A model under both protocols."""

    name: str
    paper: Arm  # ours by the paper's protocol
    honest: Arm  # ours by the split of the pipeline
    unit: str  # the unit that split keeps together
    simulated: bool  # whether the images are simulated


def compare_protocols(  # noqa: PLR0917
    leaky: Path,
    honest: Path,
    patches: Path,
    frames: Path,
    splits: Path,
    bootstrap: Bootstrap,
    folds: int,
) -> Protocol:
    """Measure a model under both protocols; the bundle `leaky` is next to its splits."""
    audit = load_json(splits / "patches_audit.json")
    by_paper = read_table(leaky.parent / SPLITS, PATCH_SPLITS)
    by_case = read_table(splits / "patches.parquet", PATCH_SPLITS)
    declared = "patches split by patch" if audit["leaky"] else ""

    def judge(bundle: Path, table: pd.DataFrame, split: str, why: str) -> Arm:
        rows = load_predictions(bundle).of(split)
        shared = measure_shared(table, split, patches, frames, folds)
        return Arm(rows, bootstrap.estimate_metrics(rows), shared, why)

    why = "patches split by patch, judged on the rows that epoch and thresholds were chosen on"
    return Protocol(
        name=honest.name,
        paper=judge(leaky, by_paper, "validation", why),
        honest=judge(honest, by_case, "test", declared),
        unit=audit["unit"],
        simulated=load_meta(patches).source == "simulated",
    )


def measure_shared(
    splits: pd.DataFrame, judged: str, patches: Path, frames: Path, folds: int
) -> dict[int, float]:
    """Measure the share of judged patches whose window, by its px, meets a training patch."""
    index, meta = load_index(patches), load_meta(patches)
    table = read_table(frames, FRAMES)
    count = int((splits["split"] == judged).sum())
    found = {}
    for side in sorted({meta.patch_px, meta.stored_px}):
        audit = audit_patches(splits, index, table, side, make_paper_params(folds))
        found[side] = audit["shared"][f"train-{judged}"]["overlapping_patches"] / count
    return found


def write_protocols(protocols: Sequence[Protocol], params: IntervalParams, folder: Path) -> None:
    """Write ``protocol.json`` and the table."""
    write_json(describe_protocols(protocols, params), folder / "protocol.json")
    write_tables([make_protocol_table(protocols, params)], folder / "tables")


def describe_protocols(protocols: Sequence[Protocol], params: IntervalParams) -> dict[str, Any]:
    """Render ``protocol.json``; None is not defined."""
    return {
        "models": {
            p.name: {
                "paper": dict(PAPER[p.name]),
                "paper_protocol": _describe(p.paper, "validation", "patch"),
                "honest": _describe(p.honest, "test", p.unit),
            }
            for p in protocols
        },
        "intervals": params.model_dump(),
        "simulated": any(p.simulated for p in protocols),
    }


def _describe(arm: Arm, split: str, unit: str) -> dict[str, Any]:
    return {
        "split": split,
        "unit": unit,
        "leaky": arm.leaky,
        "rows": len(arm.rows),
        "groups": arm.rows.count_groups(),
        "classes": arm.rows.count_classes(),
        "shares_pixels_with_training": {
            str(px): round_number(share) for px, share in arm.shared.items()
        },
        "metrics": render(arm.intervals),
    }


def make_protocol_table(protocols: Sequence[Protocol], params: IntervalParams) -> Table:
    """Make the table: three rows a model."""
    rows: list[dict[str, Cell]] = []
    for p in protocols:
        printed = {m: PAPER[p.name].get(m, "not reported") for m in COLUMNS}
        said = {"shared": "not reported", "n": "not reported", "leaky": "not declared"}
        rows.append({"model": name_model(p.name), "protocol": ARMS["paper"], **printed, **said})
        for key, arm in (("paper_protocol", p.paper), ("honest", p.honest)):
            values: dict[str, Cell] = {m: arm.intervals.get(m) for m in COLUMNS}
            shares = ", ".join(f"{share:.0%} at {px} px" for px, share in arm.shared.items())
            counts = arm.rows.count_classes().items()
            size = f"{len(arm.rows):,} ({', '.join(f'{show_name(c)} {n:,}' for c, n in counts)})"
            rows.append(
                {"model": name_model(p.name), "protocol": ARMS[key].format(unit=p.unit)}
                | values
                | {"shared": shares, "n": size, "leaky": arm.leaky or "no"}
            )
    headings = {"model": "Model", "protocol": "Protocol", **COLUMNS}
    headings |= {"shared": "Share pixels with training", "n": "Judged on", "leaky": "Leaky"}
    simulated = any(p.simulated for p in protocols)
    marked = " Simulated data: no patients, no claim." if simulated else ""
    notes = [
        explain_resampling(params, "cases"),
        "The paper assigns patches to training and validation at random and reports on validation, "
        "on which its epochs were chosen too. Rows by its protocol are there to show how much that "
        "is worth; they are no results.",
        "An interval by the paper's protocol says how the number varies over cases the model has "
        "been trained on, not over new ones.",
    ]
    caption = f"One model under two protocols, next to the paper's Table 3.{marked}"
    return Table("protocol", caption, headings, rows, notes)
