"""Tables of a cross-validation: pooled with intervals, and fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from histofuse.core.naming import show_name
from histofuse.evaluation.crossval.evaluate import CrossValidation, Spread
from histofuse.evaluation.crossval.report import (
    FEWEST_PATIENTS,
    RESTRICTED,
    explain_gaps,
    explain_pooling,
)
from histofuse.evaluation.performance.results import Result
from histofuse.evaluation.performance.tables import (
    NOT_DEFINED,
    Cell,
    Table,
    make_fusion_table,
    make_minority_table,
    make_tabular_table,
)
from histofuse.evaluation.predictions import Predictions


def make_crossval_tables(crossval: CrossValidation) -> list[Table]:
    """Make all tables; one without rows is left out."""
    patches = [r for r in crossval.results if r.model.on_patches]
    records = [r for r in crossval.results if not r.model.on_patches]
    facts, intervals = crossval.facts, crossval.intervals
    pooled = [
        _rename(make_minority_table(patches, facts, intervals), "pooled_patches", crossval),
        _rename(make_tabular_table(records, facts, intervals), "pooled_health_records", crossval),
    ]
    if crossval.comparison:
        table = make_fusion_table(crossval.comparison, facts, intervals)
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
    return replace(table, name=name, caption=caption, notes=[*table.notes, *explain_pooling()])


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
    restricted = not rows.on_patches and crossval.facts.patient_source == RESTRICTED
    few = restricted and count < FEWEST_PATIENTS
    return f"fewer than {FEWEST_PATIENTS}" if few else count


def _show(spread: Spread, folds: int) -> str:
    if spread.mean is None:
        return NOT_DEFINED
    of = "" if spread.folds == folds else f" ({spread.folds})"
    sd = "" if spread.sd is None else f" ± {spread.sd:.3f}"
    return f"{spread.mean:.3f}{sd}{of}"
