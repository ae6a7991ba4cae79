"""Tables in the layout of the paper's, as CSV and Markdown, with what must be said beside them.

Source: paper, Tables 1 to 3.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofuse.core.artifacts import write_text
from histofuse.evaluation.comparison import Comparison, subtract_metrics
from histofuse.evaluation.predictions import Predictions
from histofuse.evaluation.results import Facts, Result, find_minority, show_name

NOT_APPLICABLE = "NA"
NOT_DEFINED = "–"
# At or above this an honest result on these data is more likely a leak than a success.
ALARM = 0.98
Cell = float | int | str | None


@dataclass(frozen=True)
class Table:
    """A table for readers.

    Attributes:
        name: Its files' stem.
        caption: One sentence.
        headings: Column name to heading.
        rows: Values by column name; None is "not defined".
        notes: Sentences under the table.
    """

    name: str
    caption: str
    headings: dict[str, str]
    rows: list[dict[str, Cell]]
    notes: list[str]


def make_tables(
    results: Sequence[Result], comparison: Comparison | None, facts: Facts
) -> list[Table]:
    """Make all tables; one without rows is left out."""
    tables = [
        make_image_table([r for r in results if r.model.kind == "image"], facts),
        make_tabular_table([r for r in results if r.model.kind == "tabular"], facts),
        make_overview(results, facts),
        make_minority_table([r for r in results if r.model.on_patches], facts),
    ]
    if comparison:
        tables.append(make_fusion_table(comparison, facts))
    return [t for t in tables if t.rows]


# --- the paper's tables -------------------------------------------------------------------------

PAPER_METRICS = {
    "accuracy": "accuracy",
    "precision": "precision/macro",
    "recall": "recall/macro",
    "f1": "f1/macro",
    "roc_auc": "auroc/macro",
}
PAPER_HEADINGS = {
    "model": "Model",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1-Score",
    "roc_auc": "ROC-AUC",
}
DECLARED = {"leaky": "Leaky", "data": "Data"}


def make_image_table(results: Sequence[Result], facts: Facts) -> Table:
    """Make Table 1: image models on patches."""
    return _make_paper_table("table1_image", "Table 1. Image models", results, facts)


def make_tabular_table(results: Sequence[Result], facts: Facts) -> Table:
    """Make Table 2: models on health records."""
    target = results[0].model.classes[1] if results else ""
    caption = f"Table 2. Models on health records, target {target}"
    return _make_paper_table("table2_tabular", caption, results, facts)


def _make_paper_table(name: str, caption: str, results: Sequence[Result], facts: Facts) -> Table:
    rows = [{"model": r.title, **_read(r, facts, PAPER_METRICS), **_declare(r)} for r in results]
    notes = ["Precision, recall, F1 and ROC-AUC are plain means over the classes."]
    notes += describe_data(results, facts)
    return Table(name, _caption(caption, results, facts), PAPER_HEADINGS | DECLARED, rows, notes)


def make_overview(results: Sequence[Result], facts: Facts) -> Table:
    """Make Table 3: all models, with the AUC of the class that counts most."""
    focus = find_minority(results)
    headings = {"model": "Model", "accuracy": "Accuracy", "macro_f1": "Macro F1"}
    headings |= {"macro_auc": "Macro AUC"}
    metrics = {"accuracy": "accuracy", "macro_f1": "f1/macro", "macro_auc": "auroc/macro"}
    if focus:
        headings[f"{focus}_auc"] = f"{show_name(focus).capitalize()} AUC"
    rows: list[dict[str, Cell]] = []
    for result in results:
        row: dict[str, Cell] = {"model": _name_modality(result), **_read(result, facts, metrics)}
        if focus:
            only = {f"{focus}_auc": f"auroc/{focus}"}
            on_patches = result.model.on_patches
            row |= _read(result, facts, only) if on_patches else {f"{focus}_auc": NOT_APPLICABLE}
        rows.append(row | _declare(result))
    notes = []
    if any(not r.model.on_patches for r in results):
        notes.append(
            "NA: models on health records classify no patches. Their rows and the rows on patches "
            "answer different questions and are not to be ranked together."
        )
    caption = _caption("Table 3. All models", results, facts)
    notes += describe_data(results, facts)
    return Table("table3_all", caption, headings | DECLARED, rows, notes)


def _name_modality(result: Result) -> str:
    suffix = {"image": " (image only)", "tabular": " (health record only)", "fusion": ""}
    return result.title + suffix[result.model.kind]


# --- beyond the paper ---------------------------------------------------------------------------


def make_minority_table(results: Sequence[Result], facts: Facts) -> Table:
    """Make the table that begins with the rarest class and ends with accuracy."""
    focus = find_minority(results) or "minority"
    shown = show_name(focus).capitalize()
    columns = {
        f"{focus}_auprc": (f"{shown} AUPRC", f"auprc/{focus}"),
        f"{focus}_recall": (f"{shown} recall", f"recall/{focus}"),
        f"{focus}_f1": (f"{shown} F1", f"f1/{focus}"),
        f"{focus}_precision": (f"{shown} precision", f"precision/{focus}"),
        f"{focus}_auc": (f"{shown} AUC", f"auroc/{focus}"),
        "macro_f1": ("Macro F1", "f1/macro"),
        "macro_auc": ("Macro AUC", "auroc/macro"),
        "brier": ("Brier", "brier"),
        "ece": ("ECE", "ece"),
        "accuracy": ("Accuracy", "accuracy"),
    }
    headings = {"model": "Model", **{c: h for c, (h, _) in columns.items()}, **DECLARED}
    metrics = {c: m for c, (_, m) in columns.items()}
    rows = [{"model": r.title, **_read(r, facts, metrics), **_declare(r)} for r in results]
    caption = _caption(f"{shown} first: models on patches", results, facts)
    notes = [*_describe_chance(results, facts, focus), *describe_data(results, facts)]
    return Table(focus, caption, headings, rows, notes)


def _describe_chance(results: Sequence[Result], facts: Facts, focus: str) -> list[str]:
    for result in results:
        rows = result.model.of(facts.split)
        n, total = rows.count_classes().get(focus, 0), len(rows)
        if total:
            share = f"{n / total:.3f}, the share of {show_name(focus)} ({n:,} of {total:,} patches)"
            return [f"Chance has an AUPRC of {share}, and an AUC of 0.5."]
    return []


def make_fusion_table(comparison: Comparison, facts: Facts) -> Table:
    """Make the table of fusion models less the image model they are built on."""
    image = comparison.image
    focus = find_minority([image]) or ""
    columns = {
        f"{focus}_auprc": (f"{show_name(focus).capitalize()} AUPRC", f"auprc/{focus}"),
        f"{focus}_auc": (f"{show_name(focus).capitalize()} AUC", f"auroc/{focus}"),
        "macro_f1": ("Macro F1", "f1/macro"),
        "macro_auc": ("Macro AUC", "auroc/macro"),
        "accuracy": ("Accuracy", "accuracy"),
    }
    rows: list[dict[str, Cell]] = []
    for result in comparison.fused:
        less = subtract_metrics(result.metrics, image.metrics, facts.split)
        values = {c: less.get(f"{facts.split}/{m}") for c, (_, m) in columns.items()}
        rows.append({"model": result.title, **values, **_declare(result)})
    headings = {"model": "Model", **{c: h for c, (h, _) in columns.items()}, **DECLARED}
    results = [image, *comparison.fused]
    caption = _caption(f"Fusion less {image.title}: differences", results, facts)
    return Table("fusion_vs_image", caption, headings, rows, describe_data(results, facts))


# --- what must be said --------------------------------------------------------------------------


def _caption(text: str, results: Sequence[Result], facts: Facts) -> str:
    simulated = any(r.simulated for r in results)
    marked = " Simulated data: no patients, no claim." if simulated else ""
    return f"{text}, {facts.split} split.{marked}"


def describe_data(results: Sequence[Result], facts: Facts) -> list[str]:
    """Say what the rows are: sizes of the splits, leaks, pairing, and numbers too good."""
    notes = [*_describe_splits(results, facts)]
    if any(r.leaky for r in results):
        notes.append("Leaky rows are there to show how much a leak is worth; they are no results.")
    if any(r.model.kind == "fusion" for r in results):
        notes.append(
            "Images and health records are of different people. Unless the pairing is linked, the "
            "health record can tell nothing about a patch: what a fusion model gains over the "
            "image model is chance, another head on the same embedding, or a leak."
        )
    if too_good := _find_too_good(results, facts):
        notes.append(
            f"{ALARM} or more without a declared leak is an alarm, not a success: "
            f"{', '.join(too_good)}. Look for a leak before believing it."
        )
    if _has_undefined(results, facts):
        notes.append(f"{NOT_DEFINED}: not defined, for a class has no example in the split.")
    return notes


def _describe_splits(results: Sequence[Result], facts: Facts) -> Iterable[str]:
    for on_patches in (True, False):
        chosen = [r for r in results if r.model.on_patches == on_patches]
        if chosen:
            model = chosen[0].model
            splits = sorted(model.splits, key=lambda s: s != facts.split)
            yield "; ".join(_describe_split(s, model.of(s)) for s in splits) + "."


def _describe_split(split: str, rows: Predictions) -> str:
    classes = ", ".join(f"{show_name(c)} {n:,}" for c, n in rows.count_classes().items())
    return f"{split.capitalize()}: {rows.describe_size()} ({classes})"


def _find_too_good(results: Sequence[Result], facts: Facts) -> list[str]:
    names = [f"{facts.split}/{m}" for m in ("f1/macro", "auroc/macro")]
    return [
        r.title
        for r in results
        if not r.leaky and any((r.metrics.get(n) or 0) >= ALARM for n in names)
    ]


def _has_undefined(results: Sequence[Result], facts: Facts) -> bool:
    return any(
        value is None and name.startswith(f"{facts.split}/")
        for r in results
        for name, value in r.metrics.items()
    )


def _read(result: Result, facts: Facts, metrics: dict[str, str]) -> dict[str, Cell]:
    return {c: result.metrics.get(f"{facts.split}/{m}") for c, m in metrics.items()}


def _declare(result: Result) -> dict[str, Cell]:
    return {"leaky": result.leaky or "no", "data": result.data}


# --- files --------------------------------------------------------------------------------------


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as CSV and as Markdown."""
    for table in tables:
        write_text(render_csv(table), folder / f"{table.name}.csv")
        write_text(render_markdown(table), folder / f"{table.name}.md")


def render_csv(table: Table) -> str:
    """Render as CSV: numbers to four decimals, empty where not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.headings)
    for row in table.rows:
        writer.writerow(_render(row[c], decimals=4, undefined="") for c in table.headings)
    return text.getvalue()


def render_markdown(table: Table) -> str:
    """Render as Markdown: caption, table, notes; numbers to three decimals."""
    head = "| " + " | ".join(table.headings.values()) + " |"
    text = ("model", *DECLARED)
    rule = "| " + " | ".join("---" if c in text else "---:" for c in table.headings) + " |"
    body = [_render_row(row, table) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"**{table.caption}**", "", head, rule, *body, "", *notes]) + "\n"


def _render_row(row: dict[str, Cell], table: Table) -> str:
    cells = (_render(row[c], decimals=3, undefined=NOT_DEFINED) for c in table.headings)
    return f"| {' | '.join(cells)} |"


def _render(value: Cell, *, decimals: int, undefined: str) -> str:
    if value is None:
        return undefined
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
