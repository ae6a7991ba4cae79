"""Measurements for the paper's claims."""

from collections.abc import Mapping
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.core.naming import is_fusion
from histofuse.evaluation.metrics.sides import Estimate
from histofuse.reporting.inputs import Run
from histofuse.reporting.paper import AREA, FUSION, IMAGE, Measured

Key = tuple[str, str, str]
# Metric to an entry with value, low, high and groups, as the stages render intervals.
Entries = Mapping[str, Mapping[str, Any]]
_BETWEEN: Final = " - "


def collect_honest(run: Run) -> Measured:
    """Collect what was measured without leaks: by cross-validation, or else by the run."""
    measured = _collect_split(run)
    pooled = run.read("crossval")
    return measured if pooled is None else {**measured, **_collect_crossval(run, pooled)}


def collect_protocol(run: Run) -> Measured | None:
    """Collect what was measured by the paper's protocol; None until it was run."""
    protocol = run.read("protocol")
    if protocol is None:
        return None
    measured: dict[Key, Estimate] = {}
    for name, arms in protocol["models"].items():
        _put(measured, arms["paper_protocol"]["metrics"], name)
    return measured


def find_simulated(run: Run) -> frozenset[str]:
    """Find the models whose data are simulated, at least in part."""
    return frozenset(
        FUSION if name == run.primary else name
        for name, facts in run.metrics["declared"].items()
        if "simulated" in facts["data"]
    )


def _collect_split(run: Run) -> dict[Key, Estimate]:
    measured: dict[Key, Estimate] = {}
    intervals, prefix = run.metrics["intervals"], f"{run.split}/"
    for name, facts in run.metrics["declared"].items():
        if facts["leaky"] == "no" and (name == run.primary or not is_fusion(name)):
            ends = intervals["models"].get(name, {})
            values = {
                metric: {"value": value} | ends.get(metric, {})
                for metric, value in run.metrics["models"][name].items()
            }
            _put(measured, values, _rename(run, name), prefix=prefix)
    pair = run.metrics["paired"].get(run.primary)
    if pair and not pair["leaky"]:
        differences = intervals["minus_image_model"].get(run.primary, {})
        _put(measured, differences, FUSION, pair["image_model"], prefix=prefix)
    _put_between(measured, intervals["between_models"], prefix)
    tested = run.locate("explain") / "gradcam" / IMAGE / "faithfulness.json"
    if tested.is_file():
        mass = "cam_mass_inside"
        _put(measured, {mass: load_json(tested)["scores"].get(mass, {})}, IMAGE, AREA)
    return measured


def _collect_crossval(run: Run, pooled: Mapping[str, Any]) -> dict[Key, Estimate]:
    measured: dict[Key, Estimate] = {}
    for name, facts in pooled["models"].items():
        if not facts["leaky"] and (name == run.primary or not is_fusion(name)):
            _put(measured, facts["pooled"], _rename(run, name))
    if less := pooled["minus_image_model"].get(run.primary):
        _put(measured, less["metrics"], FUSION, less["image_model"])
    _put_between(measured, pooled["between_models"])
    return measured


def _rename(run: Run, name: str) -> str:
    return FUSION if name == run.primary else name


def _put_between(
    measured: dict[Key, Estimate], between: Mapping[str, Entries], prefix: str = ""
) -> None:
    for pair, entries in between.items():
        new, old = pair.split(_BETWEEN)
        _put(measured, entries, new, old, prefix=prefix)
        _put(measured, {m: _negate(e) for m, e in entries.items()}, old, new, prefix=prefix)


def _negate(entry: Mapping[str, Any]) -> dict[str, Any]:
    ends = {"value": entry["value"], "low": entry["high"], "high": entry["low"]}
    return {**entry, **{name: None if end is None else -end for name, end in ends.items()}}


def _put(
    measured: dict[Key, Estimate], entries: Entries, model: str, over: str = "", prefix: str = ""
) -> None:
    """Put the metrics of a model, or its difference from the model `over`."""
    for metric, entry in entries.items():
        if metric.startswith(prefix) and entry.get("value") is not None:
            ends = entry.get("low"), entry.get("high"), entry.get("groups", 0)
            key = (model, metric.removeprefix(prefix), over)
            measured[key] = Estimate(entry["value"], *ends)
