"""A cross-validation in words, as ``crossval.json`` and as tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from histofuse.core.artifacts import render
from histofuse.core.naming import show_name
from histofuse.core.privacy import FEWEST_PATIENTS, RESTRICTED
from histofuse.evaluation.crossval.evaluate import CrossValidation, Spread
from histofuse.evaluation.crossval.folds import FoldSplit
from histofuse.evaluation.performance.intervals import describe_between
from histofuse.evaluation.performance.results import Context, Result, find_focus
from histofuse.evaluation.performance.tables import (
    NOT_DEFINED,
    Cell,
    Table,
    make_fusion_table,
    make_minority_table,
    make_tabular_table,
)
from histofuse.evaluation.predictions import Predictions
from histofuse.params.crossval import CrossvalParams

_EFFECTS: Final = {
    "train": "the class cannot be learnt",
    "validation": "no threshold is fitted for the class, and argmax decides on it",
    "test": "its metrics are not defined in this fold",
}
_POOLING: Final = (
    "Pooled metrics are computed on the test predictions of all folds together. Those of rank "
    "(AUROC, AUPRC) compare calibrated probabilities of different models, so the mean over the "
    "folds is given too; their spread over the folds is no interval.",
    "Models take the values of params.yaml, not those of a study, which has seen the "
    "patients tested here.",
)


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


def describe_run(crossval: CrossValidation, params: CrossvalParams) -> dict[str, Any]:
    """Render ``crossval.json``; values that are not defined are None."""
    context = crossval.context
    return {
        "how": {"unit": "case", "folds": len(crossval.folds.splits)}
        | params.model_dump(include={"validation_unit", "threads"}),
        "data": {"images": context.image_source, "patients": context.patient_source},
        "simulated": any(r.simulated for r in crossval.results),
        "minority": find_focus(crossval.results),
        "folds": [_describe_split(split, context) for split in crossval.folds.splits],
        "models": {r.name: _describe_model(r, crossval) for r in crossval.results},
        "minus_image_model": _describe_differences(crossval),
        "between_models": describe_between(crossval.intervals),
        "intervals": crossval.intervals.params.model_dump(),
        "notes": [*explain_gaps(crossval.folds.splits), *_POOLING],
    }


def _describe_split(split: FoldSplit, context: Context) -> dict[str, Any]:
    hidden = context.patient_source == RESTRICTED
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
        "digests": [tested.digest for tested in crossval.folds.tests[name]],
        "per_fold": render(per_fold),
        "over_folds": render({m: crossval.spread(name, m) for m in per_fold[0]}),
        "pooled": render({m: crossval.intervals.of[name][m] for m in per_fold[0]}),
    }


def _describe_differences(crossval: CrossValidation) -> dict[str, dict[str, Any]]:
    if crossval.comparison is None:
        return {}
    return {
        name: {"image_model": crossval.comparison.image.name, "metrics": render(differences)}
        for name, differences in crossval.intervals.minus_image.items()
    }


def make_crossval_tables(crossval: CrossValidation) -> list[Table]:
    """Make all tables; one without rows is left out."""
    patches = [r for r in crossval.results if r.model.on_patches]
    records = [r for r in crossval.results if not r.model.on_patches]
    context, intervals = crossval.context, crossval.intervals
    pooled = [
        _rename(make_minority_table(patches, context, intervals), "pooled_patches", crossval),
        _rename(make_tabular_table(records, context, intervals), "pooled_health_records", crossval),
    ]
    if crossval.comparison:
        table = make_fusion_table(crossval.comparison, context, intervals)
        pooled.append(_rename(table, "fusion_minus_image", crossval))
    by_fold = [
        _make_fold_table("folds_patches", "Models on patches, fold by fold", patches, crossval),
        _make_fold_table(
            "folds_health_records", "Models on health records, fold by fold", records, crossval
        ),
    ]
    return [t for t in (*pooled, *by_fold) if t.rows]


def _rename(table: Table, name: str, crossval: CrossValidation) -> Table:
    of = f"test predictions of all {len(crossval.folds.splits)} folds"
    caption = table.caption.replace("Table 2. ", "").replace("test split", of)
    return replace(table, name=name, caption=caption, notes=[*table.notes, *_POOLING])


def choose_metrics(results: Sequence[Result]) -> dict[str, tuple[str, str]]:
    """Choose the metrics to show of models on the same rows: column to heading and metric."""
    focus = results[0].model.focus_class
    shown = show_name(focus).capitalize()
    return {
        "auprc": (f"{shown} AUPRC", f"auprc/{focus}"),
        "recall": (f"{shown} recall", f"recall/{focus}"),
        "f1": (f"{shown} F1", f"f1/{focus}"),
        "auroc": (f"{shown} AUROC", f"auroc/{focus}"),
        "macro_f1": ("Macro F1", "f1/macro"),
        "macro_auroc": ("Macro AUROC", "auroc/macro"),
        "accuracy": ("Accuracy", "accuracy"),
    }


def _make_fold_table(
    name: str, caption: str, results: Sequence[Result], crossval: CrossValidation
) -> Table:
    if not results:
        return Table(name, caption, {}, [], [])
    columns = choose_metrics(results)
    focus = columns["auprc"][1].split("/")[1]
    rows = [row for r in results for row in _list_folds(r, columns, focus, crossval)]
    headings = {"model": "Model", "fold": "Fold", "tested": "Tested on", "n": show_name(focus)}
    headings |= {c: heading for c, (heading, _) in columns.items()}
    marked = " Simulated data: no patients, no claim." if results[0].simulated else ""
    gaps = explain_gaps(crossval.folds.splits) if results[0].model.on_patches else []
    notes = [
        *gaps,
        "Mean ± standard deviation over the folds in which a metric is defined (their number, "
        "where it is not all).",
        f"{NOT_DEFINED}: not defined, for a class has no example in the fold.",
    ]
    return Table(name, f"{caption}.{marked}", headings, rows, notes)


def _list_folds(
    result: Result, columns: dict[str, tuple[str, str]], focus: str, crossval: CrossValidation
) -> list[dict[str, Cell]]:
    metrics = crossval.per_fold[result.name]
    rows: list[dict[str, Cell]] = []
    for number, tested in enumerate(crossval.folds.tests[result.name]):
        groups = ", ".join(sorted(set(tested.groups))) if tested.on_patches else ""
        first = {"model": result.title, "fold": str(number + 1)}
        size = {"tested": groups or tested.describe_size(), "n": _count(tested, focus, crossval)}
        values = {c: metrics[number][m] for c, (_, m) in columns.items()}
        rows.append({**first, **size, **values})
    means = {
        c: _show(crossval.spread(result.name, m), len(metrics)) for c, (_, m) in columns.items()
    }
    rows.append({"model": result.title, "fold": "all", "tested": "mean ± SD", "n": "", **means})
    return rows


def _count(rows: Predictions, focus: str, crossval: CrossValidation) -> Cell:
    count = rows.count_classes()[focus]
    restricted = not rows.on_patches and crossval.context.patient_source == RESTRICTED
    few = restricted and count < FEWEST_PATIENTS
    return f"fewer than {FEWEST_PATIENTS}" if few else count


def _show(spread: Spread, folds: int) -> str:
    if spread.mean is None:
        return NOT_DEFINED
    of = "" if spread.folds == folds else f" ({spread.folds})"
    sd = "" if spread.sd is None else f" ± {spread.sd:.3f}"
    return f"{spread.mean:.3f}{sd}{of}"
