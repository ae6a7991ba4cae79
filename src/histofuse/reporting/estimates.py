"""Measurements for the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histofuse.core.artifacts import load_json
from histofuse.core.naming import is_fusion
from histofuse.reporting.inputs import Run
from histofuse.reporting.paper import AREA, FUSION, IMAGE, Estimate, Measured

Key = tuple[str, str, str]


def collect_honest(run: Run) -> Measured:
    """Collect what was measured on honest splits: by cross-validation, or else by the run.

    A model declared leaky is left out.
    """
    measured = _collect_split(run)
    pooled = run.read("crossval")
    return measured if pooled is None else {**measured, **_collect_crossval(run, pooled)}


def collect_protocol(run: Run) -> Measured:
    """Collect what was measured by the paper's protocol.

    Image models by a random split of patches; fusion on pairs that follow the label, which is all
    the paper's protocol leaves for a gain.
    """
    measured: dict[Key, Estimate] = {}
    for name, arms in ((run.read("protocol") or {}).get("models") or {}).items():
        for metric, entry in arms["paper_protocol"]["metrics"].items():
            _put(measured, (name, metric, ""), entry)
    for name, pair in run.metrics["paired"].items():
        if pair["leaky"]:
            measured |= _collect_pair(run, name, pair)
            measured |= _collect_model(run, name, FUSION)
    return measured


def _collect_split(run: Run) -> dict[Key, Estimate]:
    measured: dict[Key, Estimate] = {}
    for name, facts in run.metrics["declared"].items():
        if facts["leaky"] == "no" and (name == run.primary or not is_fusion(name)):
            measured |= _collect_model(run, name, FUSION if name == run.primary else name)
    pair = run.metrics["paired"].get(run.primary)
    if pair and not pair["leaky"]:
        measured |= _collect_pair(run, run.primary, pair)
    _subtract(measured, "xgboost", "mlp", "auroc/macro")
    tested = run.locate("explain") / "gradcam" / IMAGE / "faithfulness.json"
    if tested.is_file():
        mass = "cam_mass_inside"
        _put(measured, (IMAGE, mass, AREA), load_json(tested).get(mass, {}))
    return measured


def _collect_scores(
    run: Run, values: Mapping[str, float], ends: Mapping[str, Any], model: str, over: str = ""
) -> dict[Key, Estimate]:
    """Collect scores on the reported split, or differences from the model `over`."""
    scores: dict[Key, Estimate] = {}
    for metric, value in values.items():
        split, _, bare = metric.partition("/")
        if split == run.split:
            _put(scores, (model, bare, over), {"value": value} | ends.get(metric, {}))
    return scores


def _collect_model(run: Run, name: str, known_as: str) -> dict[Key, Estimate]:
    ends = run.metrics["intervals"]["models"].get(name, {})
    return _collect_scores(run, run.metrics["models"][name], ends, known_as)


def _collect_pair(run: Run, name: str, pair: Mapping[str, Any]) -> dict[Key, Estimate]:
    ends = run.metrics["intervals"]["minus_image_model"].get(name, {})
    return _collect_scores(run, pair["minus_image_model"], ends, FUSION, pair["image_model"])


def _collect_crossval(run: Run, pooled: Mapping[str, Any]) -> dict[Key, Estimate]:
    measured: dict[Key, Estimate] = {}
    for name, facts in pooled["models"].items():
        if facts["leaky"] or (is_fusion(name) and name != run.primary):
            continue
        for metric, entry in facts["pooled"].items():
            _put(measured, (FUSION if name == run.primary else name, metric, ""), entry)
    if less := pooled["minus_image_model"].get(run.primary):
        for metric, entry in less["metrics"].items():
            _put(measured, (FUSION, metric, less["image_model"]), entry)
    _subtract(measured, "xgboost", "mlp", "auroc/macro")
    return measured


def _put(measured: dict[Key, Estimate], key: Key, entry: Mapping[str, Any]) -> None:
    if entry.get("value") is not None:
        measured[key] = Estimate(entry["value"], entry.get("low"), entry.get("high"))


def _subtract(measured: dict[Key, Estimate], a: str, b: str, metric: str) -> None:
    """Add a difference without pairs: its interval subtracts opposite ends."""
    first, second = measured.get((a, metric, "")), measured.get((b, metric, ""))
    if first is None or second is None or None in (first.low, first.high, second.low, second.high):
        return
    assert first.low is not None and first.high is not None
    assert second.low is not None and second.high is not None
    low, high = first.low - second.high, first.high - second.low
    measured[a, metric, b] = Estimate(first.value - second.value, low, high)
