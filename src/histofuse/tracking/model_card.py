"""The model card: what a registered model is, how it did, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from histofuse.core.bundle import Bundle

_KINDS: Final = {
    "image": "a patch of H&E-stained breast tissue -> a probability for each class of nucleus",
    "tabular": "an admission's health record -> the probability of the target",
    "fusion": "a patch and a patient's health record -> a probability for each class of nucleus",
}
_SHOWN: Final = ("auroc/macro", "auprc/macro", "f1/macro", "recall/macro", "brier", "ece")
_LIMIT: Final = 4900  # MLflow's registry takes 5,000 characters


def write_card(registered: str, bundle: Bundle, metrics: Mapping[str, float | None]) -> str:
    """Write a model card in Markdown, the same text for the same bundle and metrics."""
    config = bundle.config
    sections = [
        f"# {registered}",
        _describe_model(bundle, config),
        _list_warnings(config),
        _tabulate(metrics),
        _describe_use(registered),
    ]
    return "\n\n".join(filter(None, sections))[:_LIMIT]


def describe_kind(config: Mapping[str, Any]) -> str:
    """Say in a line what a model does, for the registry's list of models."""
    does = _KINDS.get(str(config.get("kind")), "not stated")
    return (
        f"{config.get('name', 'A model')}: {does}. Classes: {', '.join(config.get('classes', []))}."
    )


def _describe_model(bundle: Bundle, config: Mapping[str, Any]) -> str:
    lines = [
        f"- Does: {_KINDS.get(str(config.get('kind')), 'not stated')}",
        f"- Classes: {', '.join(map(str, config.get('classes', []))) or 'not stated'}",
        f"- Trained on: {config.get('source', 'not stated')} data",
        f"- Calibrated and given its thresholds on validation rows (`calibrator.json`, "
        f"`threshold.json`); seed {config.get('seed', 'not stated')}",
        f"- Bundle: `{bundle.digest}`",
    ]
    lines += [
        f"- Encoder of the {side}: {facts.get('registered', facts.get('name'))} `{facts['digest']}`"
        for side, facts in sorted(config.get("encoders", {}).items())
        if isinstance(facts, Mapping) and "digest" in facts
    ]
    return "\n".join(lines)


def _list_warnings(config: Mapping[str, Any]) -> str:
    warnings = []
    if config.get("source") == "simulated":
        warnings.append(
            "Trained on simulated data: its numbers say whether the code works, nothing about "
            "patients."
        )
    if config.get("leaky"):
        warnings.append(
            "Its pairs were chosen by the label, so the label leaks into the record: its scores "
            "measure that leak."
        )
    if config.get("kind") == "fusion" and not config.get("leaky"):
        warnings.append(
            "Patches and records are of different people unless the pairing is `linked`."
        )
    warnings.append("For research. Not a medical device; not to be used for decisions on patients.")
    return "\n".join(f"> {warning}" for warning in warnings)


def _tabulate(metrics: Mapping[str, float | None]) -> str:
    rows = [
        (name, metrics.get(f"validation/{name}"), metrics.get(f"test/{name}")) for name in _SHOWN
    ]
    shown = [row for row in rows if row[1] is not None or row[2] is not None]
    if not shown:
        return ""
    lines = ["| metric | validation | test |", "|---|---|---|"]
    lines += [f"| {name} | {_show(first)} | {_show(second)} |" for name, first, second in shown]
    return "\n".join(lines)


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _describe_use(registered: str) -> str:
    return (
        "Load it where `histofuse` is installed:\n\n"
        f'```python\nmodel = mlflow.pyfunc.load_model("models:/{registered}/<version>")\n```'
    )
