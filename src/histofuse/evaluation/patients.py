"""Methods of fusion at patient level, measured on the same resamples of the same patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from histofuse.core.artifacts import render
from histofuse.core.bundle import Bundle
from histofuse.core.naming import name_model, name_patient_model
from histofuse.evaluation.metrics.bootstrap import (
    Bootstrap,
    Interval,
    Resampled,
    explain_resampling,
)
from histofuse.evaluation.metrics.weighted import measure_rows, measure_splits
from histofuse.evaluation.performance.intervals import render_metrics
from histofuse.evaluation.performance.tables import Table
from histofuse.evaluation.predictions import Predictions, read_view

SIDES: Final = ("image", "record")
VIEWS: Final = ("both", *SIDES)
_MACRO: Final = "auroc/macro"  # of two classes, that of the outcome


@dataclass(frozen=True)
class Measured:
    """AUROCs of one method on the test patients, with intervals."""

    views: Mapping[str, Interval]  # by the sides given
    # from both sides, less the better model of one side; None for such a model
    gain: Interval | None
    behind: Mapping[str, Interval]  # by side, from that side alone less the model of that side
    parameters: int  # numbers that were learnt


@dataclass(frozen=True)
class Comparison:
    """All methods."""

    methods: Mapping[str, Measured]  # by the model's name, in the order given
    better_side: str  # the model of one side that ranks validation patients better
    # the simplest method that no other beats by its interval; None without fusion
    default: str | None


def rank_by_size(bundle: Bundle) -> tuple[bool, int]:
    """Sort key of models at patient level: those of one side first, then by their parameters."""
    architecture = bundle.config["architecture"]
    return architecture["kind"] != "side", architecture["parameters"]


def compare_methods(
    models: Mapping[str, Mapping[str, Predictions]], split: str, bootstrap: Bootstrap
) -> Comparison:
    """Measure fusions against each other and the models of one side; models to views to rows."""
    alone = {side: name_patient_model(side) for side in SIDES}
    drawn = {
        name: {
            view: bootstrap.resample_metrics(rows.of(split), [_MACRO])
            for view, rows in views.items()
        }
        for name, views in models.items()
    }
    sides = {side: drawn[name][side] for side, name in alone.items()}
    validated = {
        side: measure_rows(models[name][side].of("validation"), "validation")
        for side, name in alone.items()
    }
    better = max(SIDES, key=lambda side: validated[side][f"validation/{_MACRO}"] or 0.0)
    methods = {}
    for name, views in drawn.items():
        fused = name not in alone.values()
        answered = [view for view in VIEWS if fused or alone.get(view) == name]
        methods[name] = Measured(
            {view: views[view].interval(_MACRO) for view in answered},
            _subtract(views["both"], sides[better]) if fused else None,
            {s: _subtract(views[s], sides[s]) for s in SIDES} if fused else {},
            models[name]["both"].config["architecture"]["parameters"],
        )
    fusions = {n: drawn[n]["both"] for n, m in methods.items() if m.gain is not None}
    return Comparison(methods, alone[better], choose_default(fusions, methods))


def _subtract(new: Resampled, old: Resampled) -> Interval:
    return new.minus_paired(old).interval(_MACRO)


def choose_default(fusions: Mapping[str, Resampled], methods: Mapping[str, Measured]) -> str | None:
    """Choose the simplest method, by its parameters, that no other beats by a whole interval."""
    for name in sorted(fusions, key=lambda name: methods[name].parameters):
        rivals = (_subtract(other, fusions[name]) for n, other in fusions.items() if n != name)
        if not any(gain.low is not None and gain.low > 0 for gain in rivals):
            return name
    return None


def make_methods_table(comparison: Comparison, bootstrap: Bootstrap, split: str) -> Table:
    """Make the table of methods: AUROC by the sides given, gain, and what is lost with one side."""
    headings = {
        "model": "Method",
        "both": "Both sides",
        "gain": f"Less {name_model(comparison.better_side)}",
        "image": "Image given",
        "record": "Record given",
        "behind_image": "Less the image's model",
        "behind_record": "Less the record's model",
        "parameters": "Parameters",
    }
    rows = [
        {
            "model": name_model(name),
            **{view: measured.views.get(view) for view in VIEWS},
            "gain": measured.gain,
            **{f"behind_{side}": measured.behind.get(side) for side in SIDES},
            "parameters": measured.parameters,
        }
        for name, measured in comparison.methods.items()
    ]
    notes = [
        explain_resampling(bootstrap.params, "patients"),
        "Every method answers from both sides or from one; it is measured against the models of "
        "one side alone.",
    ]
    if comparison.default:
        chosen = name_model(comparison.default)
        notes.append(f"Default: {chosen}, the simplest that no other beats by a whole interval.")
    caption = f"AUROC on {split} patients, by the sides given"
    return Table("methods", caption, headings, rows, notes)


def summarise_patients(
    bundles: Sequence[Bundle], comparison: Comparison, split: str, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Render ``metrics.json`` at patient level, in the form of `performance.results.summarise`."""
    models, declared, intervals = {}, {}, {}
    for bundle in bundles:
        rows = read_view(bundle, "both")
        models[bundle.name] = measure_splits(rows)
        estimated = bootstrap.estimate_metrics(rows.of(split))
        intervals[bundle.name] = render_metrics(estimated, f"{split}/")
        declared[bundle.name] = {
            "data": bundle.config["source"],
            "leaky": "no",
            "focus_class": rows.focus_class,
            "digest": bundle.digest,
        }
    return {
        "models": models,
        "declared": declared,
        "intervals": {"models": intervals},
        **render(comparison),
    }
