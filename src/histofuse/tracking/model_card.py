"""The model card: what a registered model is, how it did, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import Bundle
from histofuse.core.naming import show_interval, show_value
from histofuse.tracking.names import name_end

_KINDS: Final = {
    "image": "a patch of H&E-stained breast tissue -> a probability for each class of nucleus",
    "tabular": "an admission's health record -> the probability of the target",
    "fusion": "a patch and a patient's health record -> a probability for each class of nucleus",
}
_USES: Final = {
    "image": "Classes of nuclei about a point that is given; it finds none by itself.",
    "tabular": "Risk at the admission it was defined for; the record as in its signature.",
    "fusion": "Both a patch and the record of the same patient; without a record the image encoder "
    "answers alone.",
}
# Metrics of the class that counts most come before these, accuracy after them.
_FOCUSED: Final = ("auprc", "recall", "f1", "auroc")
_SHOWN: Final = ("auprc/macro", "auroc/macro", "f1/macro", "brier", "ece", "accuracy")
_FAITHFULNESS: Final = "faithfulness/"
_TESTS: Final = (
    "cam_mass_inside",
    "empty_share",
    "deletion_gain_over_random",
    "insertion_gain_over_random",
    "additivity_error",
    "rank_stability",
)
_FEWEST: Final = 10  # patients of whom a count may be told where they are under an agreement
_LIMIT: Final = 4900  # MLflow's registry takes 5,000 characters


def write_card(registered: str, bundle: Bundle, metrics: Mapping[str, float | None]) -> str:
    """Write a model card in Markdown, the same text for the same bundle and metrics."""
    config = bundle.config
    sections = [
        f"# {registered}",
        _describe_model(bundle, config),
        _list_warnings(config),
        _tabulate(metrics, config.get("focus_class", "")),
        _tabulate_faithfulness(metrics),
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
        f"- For: {_USES.get(str(config.get('kind')), 'not stated')}",
        f"- Trained on: {config.get('source', 'not stated')} data",
        f"- {_describe_calibration(bundle)}; seed {config.get('seed', 'not stated')}",
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


def _describe_calibration(bundle: Bundle) -> str:
    """Say on how much calibration and thresholds were fitted: with little they are coarse."""
    said = "Calibrated and given its thresholds on validation rows"
    path = bundle.path / "calibrator.json"
    if not path.is_file():
        return f"{said} (how many: not stated)"
    calibrator = load_json(path)
    fitted = calibrator.get("fitted_on", {})
    classes = list(bundle.config.get("classes", []))
    counts = fitted.get("per_class") or []
    if bundle.config.get("source") == "restricted" and min(counts, default=0) < _FEWEST:
        counts = []
    shown = ", ".join(f"{n:,} {c}" for c, n in zip(classes, counts, strict=False))
    number = f"{fitted['n']:,}" if "n" in fitted else "how many: not stated"
    return f"{said} ({number}{f': {shown}' if shown else ''}), by {calibrator.get('method')}"


def _tabulate(metrics: Mapping[str, float | None], focus: str) -> str:
    """Table the scores, the class that counts most first and accuracy last, test with intervals."""
    names = [*(f"{name}/{focus}" for name in _FOCUSED if focus), *_SHOWN]
    rows = [
        (name, metrics.get(f"validation/{name}"), metrics.get(f"test/{name}")) for name in names
    ]
    shown = [row for row in rows if row[1] is not None or row[2] is not None]
    if not shown:
        return ""
    lines = ["| metric | validation | test |", "|---|---|---|"]
    lines += [
        f"| {name} | {show_value(first)} | {_show_interval(f'test/{name}', metrics)} |"
        for name, first, _ in shown
    ]
    return "\n".join(lines)


def _tabulate_faithfulness(metrics: Mapping[str, float | None]) -> str:
    """Table how its explanations came out of their tests."""
    names = [_FAITHFULNESS + name for name in _TESTS]
    lines = [
        f"| {name.removeprefix(_FAITHFULNESS).replace('_', ' ')} | "
        f"{_show_interval(name, metrics)} |"
        for name in names
        if metrics.get(name) is not None
    ]
    return "\n".join(["| explanations | tested |", "|---|---|", *lines]) if lines else ""


def _show_interval(metric: str, metrics: Mapping[str, float | None]) -> str:
    low, high = (metrics.get(name_end(metric, end)) for end in ("low", "high"))
    return show_interval(metrics.get(metric), low, high)


def _describe_use(registered: str) -> str:
    return (
        "Load it where `histofuse` is installed:\n\n"
        f'```python\nmodel = mlflow.pyfunc.load_model("models:/{registered}/<version>")\n```'
    )
