"""The model card: what a registered model is, how it did, and what it must not be used for."""

from collections.abc import Mapping
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import Bundle
from histofuse.core.naming import show_interval, show_value
from histofuse.tracking.names import SHOWN_DIGITS, name_end
from histofuse.training.decision import name_decision_rows

_KINDS: Final = {
    "image": "a patch of H&E-stained breast tissue -> a probability for each class of nucleus",
    "tabular": "an admission's health record -> the probability of the target",
    "fusion": "a patch and a patient's health record -> a probability for each class of nucleus",
    "detector": "a whole frame of H&E-stained breast tissue -> the places of its nuclei",
    "patient": "a patient's nuclei and record, or one of them -> the probability of the outcome",
}
_USES: Final = {
    "image": "Classes of nuclei about a point that is given; it finds none by itself.",
    "tabular": "Risk at the admission it was defined for; the record as in its signature.",
    "fusion": "Both a patch and the record of the same patient; without a record the image encoder "
    "answers alone.",
    "detector": "Frames and slides without points, at the resolution that it was trained on.",
    "patient": "One answer a patient; without nuclei or without a record the same model answers "
    "from what is given, calibrated for that case.",
}
# Metrics of the class that counts most come before these, accuracy after them.
_FOCUSED: Final = ("auprc", "recall", "f1", "auroc", "ece")
_SHOWN: Final = (
    "auprc/macro", "auroc/macro", "f1/macro", "ece/macro", "brier", "accuracy",
    "f1/nuclei", "precision/nuclei", "recall/nuclei", "ap/nuclei",
)  # fmt: skip
_TESTS: Final = (
    "empty_share", "cam_mass_inside", "deletion_gain_over_random", "insertion_gain_over_random",
    "additivity_error", "rank_stability",
)  # fmt: skip
_ECE_NOTE: Final = (
    "ece, by class, is biased upwards on few rows: its interval is a basic bootstrap interval."
)
_LIMIT: Final = 4900  # MLflow's registry takes 5,000 characters


def write_card(registered: str, bundle: Bundle, metrics: Mapping[str, float | None]) -> str:
    """Write a model card in Markdown, the same text for the same bundle and metrics."""
    config = bundle.config
    sections = [
        summarise_version(bundle, metrics),
        f"# {registered}",
        _describe_model(bundle),
        _list_warnings(config),
        _tabulate(metrics, config.get("focus_class", "")),
        _tabulate_faithfulness(metrics),
        "Load it where `histofuse` is installed:\n\n"
        f'```python\nmodel = mlflow.pyfunc.load_model("models:/{registered}/<version>")\n```',
    ]
    return "\n\n".join(filter(None, sections))[:_LIMIT]


def summarise_version(bundle: Bundle, metrics: Mapping[str, float | None]) -> str:
    """Say in a line what distinguishes a version from others of its model.

    MLflow shows the beginning of a description in its list of versions.
    """
    config = bundle.config
    focus, rule = config.get("focus_class", ""), config.get("pairing", {})
    names = [f"auprc/{focus}", f"auroc/{focus}", "brier", "f1/nuclei"]
    scores = [
        f"{name} {_show_interval(f'test/{name}', metrics)}"
        for name in names
        if metrics.get(f"test/{name}") is not None
    ]
    encoders = [str(e["name"]) for e in config.get("encoders", {}).values() if "name" in e]
    parts = [
        f"Test: {', '.join(scores)}" if scores else "Not evaluated yet",
        " + ".join(encoders),
        f"pairs {rule['rule']}" if isinstance(rule, Mapping) and "rule" in rule else "",
        "leaky" if config.get("leaky") else "",
        f"{config.get('source', 'unknown')} data",
        f"bundle {bundle.digest[:SHOWN_DIGITS]}",
    ]
    return "; ".join(filter(None, parts)) + "."


def describe_kind(config: Mapping[str, Any]) -> str:
    """Describe in a line what a model does, for the registry's list of models."""
    does = _KINDS.get(str(config.get("kind")), "not stated")
    return (
        f"{config.get('name', 'A model')}: {does}. Classes: {', '.join(config.get('classes', []))}."
    )


def _describe_model(bundle: Bundle) -> str:
    config, kind = bundle.config, str(bundle.config.get("kind"))
    lines = [
        f"- Does: {_KINDS.get(kind, 'not stated')}",
        f"- Classes: {', '.join(map(str, config.get('classes', []))) or 'not stated'}",
        f"- For: {_USES.get(kind, 'not stated')}",
        f"- Trained on: {config.get('source', 'not stated')} data{_name_cohort(config)}",
        f"- {_describe_calibration(bundle)}; seed {config.get('seed', 'not stated')}",
        f"- Bundle: `{bundle.digest}`",
    ]
    lines += [
        f"- Encoder of the {side}: {facts.get('registered', facts.get('name'))} `{facts['digest']}`"
        for side, facts in sorted(config.get("encoders", {}).items())
        if isinstance(facts, Mapping) and "digest" in facts
    ]
    return "\n".join(lines)


def _name_cohort(config: Mapping[str, Any]) -> str:
    own = config.get("cohort") == "crosswalk"
    return ", patients whom a crosswalk links to their own tissue" if own else ""


def _list_warnings(config: Mapping[str, Any]) -> str:
    leaky = bool(config.get("leaky"))
    warnings = {
        "Trained on simulated data: its numbers say whether the code works, nothing about "
        "patients.": config.get("source") == "simulated",
        "Its pairs were chosen by the label, so the label leaks into the record: its scores "
        "measure that leak.": leaky,
        "Patches and records are of different people unless the pairing is `linked`.": (
            config.get("kind") == "fusion" and not leaky
        ),
        "Its image encoder learnt from nuclei of its own train patients, whose embeddings tell "
        "more than those of new patients.": config.get("cohort") == "crosswalk",
        "For research. Not a medical device; do not use it for decisions on patients.": True,
    }
    return "\n".join(f"> {warning}" for warning, holds in warnings.items() if holds)


def _describe_calibration(bundle: Bundle) -> str:
    """Describe the rows that fitted calibration and thresholds: with few both are coarse."""
    rows = name_decision_rows(bundle.config.get("params", {}).get("strategy"))
    intro = f"Calibrated and given its thresholds on {rows} rows"
    if bundle.config.get("kind") == "detector":
        return "Its threshold gives the highest F1 on validation frames"
    path = bundle.path / "calibrator.json"
    if not path.is_file():
        return f"{intro} (number not stated)"
    calibrator = load_json(path)
    fitted = calibrator.get("fitted_on", {})
    counts, classes = fitted.get("per_class") or [], bundle.config.get("classes", [])
    # Of restricted data the sum alone is kept where a class has few rows.
    pairs = zip(classes, counts, strict=True) if len(counts) == len(classes) else ()
    shown = ", ".join(f"{count:,} {name}" for name, count in pairs)
    number = f"{fitted['n']:,}" if "n" in fitted else "number not stated"
    method, choice = calibrator.get("method"), calibrator.get("choice")
    taken = f"{method} ({choice['method']})" if choice else method
    return f"{intro} ({number}{f': {shown}' if shown else ''}), by {taken}"


def _tabulate(metrics: Mapping[str, float | None], focus: str) -> str:
    """Table the scores, the class that counts most first and accuracy last, test with intervals."""
    lines = [
        f"| {name} | {show_value(metrics.get(f'validation/{name}'))} | "
        f"{_show_interval(f'test/{name}', metrics)} |"
        for name in [*(f"{name}/{focus}" for name in _FOCUSED if focus), *_SHOWN]
        if any(metrics.get(f"{split}/{name}") is not None for split in ("validation", "test"))
    ]
    header = ["| metric | validation | test |", "|---|---|---|"]
    note = f"\n{_ECE_NOTE}\n" if any("| ece/" in line for line in lines) else ""
    return "\n".join([*header, *lines]) + note if lines else ""


def _tabulate_faithfulness(metrics: Mapping[str, float | None]) -> str:
    """Table the results of the tests of its explanations."""
    lines = [
        f"| {name.replace('_', ' ')} | {_show_interval(f'faithfulness/{name}', metrics)} |"
        for name in _TESTS
        if metrics.get(f"faithfulness/{name}") is not None
    ]
    return "\n".join(["| explanations | tested |", "|---|---|", *lines]) if lines else ""


def _show_interval(metric: str, metrics: Mapping[str, float | None]) -> str:
    low, high = (metrics.get(name_end(metric, end)) for end in ("low", "high"))
    return show_interval(metrics.get(metric), low, high)
