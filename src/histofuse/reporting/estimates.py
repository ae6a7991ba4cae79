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
    """Collect what was measured on honest splits: the run's, in place of them cross-validation.

    A model declared leaky is left out.
    """
    found = _collect_split(run)
    pooled = run.read("crossval")
    return found if pooled is None else {**found, **_collect_crossval(run, pooled)}


def collect_protocol(run: Run) -> Measured:
    """Collect what was measured by the paper's protocol.

    Image models by a random split of patches; fusion on pairs that follow the label, which is all
    the paper's protocol leaves for a gain.
    """
    found: dict[Key, Estimate] = {}
    for name, arms in ((run.read("protocol") or {}).get("models") or {}).items():
        for metric, entry in arms["paper_protocol"]["metrics"].items():
            _put(found, (name, metric, ""), entry)
    for name, pair in run.metrics["paired"].items():
        if pair["leaky"]:
            found |= _collect_pair(run, name, pair)
            found |= _collect_model(run, name, FUSION)
    return found


def _collect_split(run: Run) -> dict[Key, Estimate]:
    found: dict[Key, Estimate] = {}
    for name, facts in run.metrics["declared"].items():
        if facts["leaky"] == "no" and (name == run.primary or not is_fusion(name)):
            found |= _collect_model(run, name, FUSION if name == run.primary else name)
    pair = run.metrics["paired"].get(run.primary)
    if pair and not pair["leaky"]:
        found |= _collect_pair(run, run.primary, pair)
    _subtract(found, "xgboost", "mlp", "auroc/macro")
    tested = run.locate("explain") / "gradcam" / IMAGE / "faithfulness.json"
    if tested.is_file():
        mass = "cam_mass_inside"
        _put(found, (IMAGE, mass, AREA), load_json(tested).get(mass, {}))
    return found


def _collect_model(run: Run, name: str, known_as: str) -> dict[Key, Estimate]:
    ends = run.metrics["intervals"]["models"].get(name, {})
    found: dict[Key, Estimate] = {}
    for metric, value in run.metrics["models"][name].items():
        split, _, bare = metric.partition("/")
        if split == run.split:
            _put(found, (known_as, bare, ""), {"value": value} | ends.get(metric, {}))
    return found


def _collect_pair(run: Run, name: str, pair: Mapping[str, Any]) -> dict[Key, Estimate]:
    ends = run.metrics["intervals"]["minus_image_model"].get(name, {})
    found: dict[Key, Estimate] = {}
    for metric, value in pair["minus_image_model"].items():
        key = (FUSION, metric.partition("/")[2], pair["image_model"])
        _put(found, key, {"value": value} | ends.get(metric, {}))
    return found


def _collect_crossval(run: Run, pooled: Mapping[str, Any]) -> dict[Key, Estimate]:
    found: dict[Key, Estimate] = {}
    for name, facts in pooled["models"].items():
        if facts["leaky"] or (is_fusion(name) and name != run.primary):
            continue
        for metric, entry in facts["pooled"].items():
            _put(found, (FUSION if name == run.primary else name, metric, ""), entry)
    if less := pooled["minus_image_model"].get(run.primary):
        for metric, entry in less["metrics"].items():
            _put(found, (FUSION, metric, less["image_model"]), entry)
    _subtract(found, "xgboost", "mlp", "auroc/macro")
    return found


def _put(found: dict[Key, Estimate], key: Key, entry: Mapping[str, Any]) -> None:
    if entry.get("value") is not None:
        found[key] = Estimate(entry["value"], entry.get("low"), entry.get("high"))


def _subtract(found: dict[Key, Estimate], a: str, b: str, metric: str) -> None:
    """Add a difference without pairs: its interval sets the ends against each other."""
    first, second = found.get((a, metric, "")), found.get((b, metric, ""))
    if first is None or second is None or None in (first.low, first.high, second.low, second.high):
        return
    assert first.low is not None and first.high is not None
    assert second.low is not None and second.high is not None
    low, high = first.low - second.high, first.high - second.low
    found[a, metric, b] = Estimate(first.value - second.value, low, high)
