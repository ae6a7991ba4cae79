"""A cross-validation in words and as ``crossval.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from histofuse.core.naming import show_name
from histofuse.core.tables import read_table
from histofuse.data.splits import PATCH_SPLITS
from histofuse.evaluation.crossval.evaluate import CrossValidation, Spread, measure_rows
from histofuse.evaluation.crossval.folds import TEST, FoldSplit
from histofuse.evaluation.metrics.bootstrap import round_number
from histofuse.evaluation.performance.intervals import render_ends
from histofuse.evaluation.performance.results import Facts, Result, find_focus
from histofuse.evaluation.predictions import load_predictions
from histofuse.params.crossval import CrossvalParams
from histofuse.training.crossval import MODELS, PATCHES

RESTRICTED: Final = "restricted"
FEWEST_PATIENTS: Final = 10  # smaller counts of restricted patients are withheld
_EFFECTS: Final = {
    "train": "the class cannot be learnt",
    "validation": "no threshold is fitted for the class, and argmax decides on it",
    "test": "its metrics are not defined in this fold",
}


def explain_pooling() -> list[str]:
    """Say what the two kinds of numbers mean."""
    return [
        "Pooled metrics are computed on the test predictions of all folds together. Those of rank "
        "(AUROC, AUPRC) compare calibrated probabilities of different models, so the mean over the "
        "folds is given too; their spread over the folds is no interval.",
        "Models take the values of params.yaml, not those of a study, which has seen the "
        "patients tested here.",
    ]


def explain_gaps(folds: Sequence[FoldSplit]) -> list[str]:
    """Say which classes a fold lacks where, and what that does."""
    notes = []
    for number, split in enumerate(folds):
        for where, counts in split.patches.items():
            missing = [show_name(label) for label, count in counts.items() if not count]
            if missing:
                notes.append(
                    f"Fold {number + 1}: {where} holds no {' and no '.join(missing)}; "
                    f"{_EFFECTS[where]}."
                )
    return notes


def describe_fold(path: Path) -> str:
    """Say in a line how a fold went: test cases, and the AUPRC of the image models."""
    splits = read_table(path / PATCHES, PATCH_SPLITS)
    cases = sorted(splits.loc[splits["split"] == TEST, "case_id"].unique())
    parts = [f"tested on {', '.join(cases)}"]
    for folder in sorted((path / MODELS).iterdir()):
        model = load_predictions(folder).of(TEST)
        if model.kind == "image":
            focus = model.focus_class
            value = measure_rows(model)[f"auprc/{focus}"]
            shown = "not defined" if value is None else f"{value:.3f}"
            parts.append(f"{model.name} {focus} AUPRC {shown}")
    return "; ".join(parts)


def describe_run(crossval: CrossValidation, params: CrossvalParams) -> dict[str, Any]:
    """Render ``crossval.json``.

    Returns:
        ``how`` (unit, folds, validation_unit, threads), ``data`` (images, patients), ``minority``,
        ``simulated``; ``folds``: a list of ``cases`` (split to names), ``patches`` (split to class
        to count), ``patients`` (split to count; None for fewer than ten restricted ones);
        ``models``: name to ``title``, ``kind``, ``leaky``, ``rows``, ``groups``, ``group_unit``,
        ``digests``, ``per_fold`` (a list of metric to value), ``over_folds`` (metric to ``mean``,
        ``sd``, ``folds``) and ``pooled`` (metric to ``value``, ``low``, ``high``, ``groups``,
        ``defined`` and, without an interval, ``note``); ``minus_image_model``: fusion model to
        ``image_model`` and ``metrics`` (as pooled, with ``probability_above``: the share of
        resamples in which fusion is higher); ``intervals`` (confidence, method, resamples);
        ``notes``. Values that are not defined are None.
    """
    facts = crossval.facts
    return {
        "how": {"unit": "case", "folds": len(crossval.folds.splits)}
        | params.model_dump(include={"validation_unit", "threads"}),
        "data": {"images": facts.image_source, "patients": facts.patient_source},
        "simulated": any(r.simulated for r in crossval.results),
        "minority": find_focus(crossval.results),
        "folds": [_describe_split(split, facts) for split in crossval.folds.splits],
        "models": {r.name: _describe_model(r, crossval) for r in crossval.results},
        "minus_image_model": _describe_differences(crossval),
        "intervals": crossval.intervals.params.model_dump(),
        "notes": [*explain_gaps(crossval.folds.splits), *explain_pooling()],
    }


def _describe_split(split: FoldSplit, facts: Facts) -> dict[str, Any]:
    hidden = facts.patient_source == RESTRICTED
    return {
        "cases": dict(split.cases),
        "patches": dict(split.patches),
        "patients": {
            s: None if hidden and n < FEWEST_PATIENTS else n for s, n in split.patients.items()
        },
    }


def _describe_model(result: Result, crossval: CrossValidation) -> dict[str, Any]:
    name, rows = result.name, result.model
    per_fold = crossval.per_fold[name]
    return {
        "title": result.title,
        "kind": rows.kind,
        "leaky": result.leaky,
        "rows": len(rows),
        "groups": rows.count_groups(),
        "group_unit": rows.group_unit,
        "digests": list(crossval.folds.digests[name]),
        "per_fold": [{m: round_number(v) for m, v in metrics.items()} for metrics in per_fold],
        "over_folds": {m: _describe_spread(crossval.spread(name, m)) for m in per_fold[0]},
        "pooled": {
            m: render_ends(crossval.intervals.of[name][m])
            | {"value": round_number(result.metrics[f"{TEST}/{m}"])}
            for m in per_fold[0]
        },
    }


def _describe_spread(spread: Spread) -> dict[str, Any]:
    mean, sd = round_number(spread.mean), round_number(spread.sd)
    return {"mean": mean, "sd": sd, "folds": spread.folds}


def _describe_differences(crossval: CrossValidation) -> dict[str, dict[str, Any]]:
    if crossval.comparison is None:
        return {}
    return {
        name: {
            "image_model": crossval.comparison.image.name,
            "metrics": {
                m: d.interval.to_dict("value", "low", "high", "groups", "defined")
                | {"probability_above": round_number(d.probability_above)}
                for m, d in differences.items()
            },
        }
        for name, differences in crossval.intervals.minus_image.items()
    }
