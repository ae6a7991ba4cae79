"""The paper's tables, as CSV and Markdown, with what must be said beside them.

They begin with the class that counts most and end with accuracy; each number has its interval.

Source: paper, Tables 1 to 3.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofuse.core.artifacts import write_text
from histofuse.core.naming import NOT_DEFINED, show_name
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.performance.comparison import Comparison
from histofuse.evaluation.performance.intervals import Intervals, explain_intervals
from histofuse.evaluation.performance.results import Facts, Result, find_focus
from histofuse.evaluation.predictions import Predictions

NOT_APPLICABLE = "NA"
# At or above this an honest result on these data is more likely a leak than a success.
Cell = Interval | float | int | str | None


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
    results: Sequence[Result],
    comparison: Comparison | None,
    facts: Facts,
    intervals: Intervals,
) -> list[Table]:
    """Make all tables; one without rows is left out."""
    of_kind = {k: [r for r in results if r.model.kind == k] for k in ("image", "tabular")}
    tables = [
        make_image_table(of_kind["image"], facts, intervals),
        make_tabular_table(of_kind["tabular"], facts, intervals),
        make_overview(results, facts, intervals),
        make_minority_table([r for r in results if r.model.on_patches], facts, intervals),
    ]
    if comparison:
        tables.append(make_fusion_table(comparison, facts, intervals))
    return [t for t in tables if t.rows]


# Column name to heading and metric.
Columns = dict[str, tuple[str, str]]
DECLARED = {"leaky": "Leaky", "data": "Data"}


def _focus_on(name: str) -> Columns:
    """Make the columns that lead: how well a rare class is found."""
    shown = show_name(name).capitalize()
    return {
        f"{name}_auprc": (f"{shown} AUPRC", f"auprc/{name}"),
        f"{name}_recall": (f"{shown} recall", f"recall/{name}"),
        f"{name}_f1": (f"{shown} F1", f"f1/{name}"),
    }


def _head(columns: Columns) -> dict[str, str]:
    return {"model": "Model"} | {c: h for c, (h, _) in columns.items()} | DECLARED


# --- the paper's tables -------------------------------------------------------------------------

PAPER_COLUMNS: Columns = {
    "precision": ("Precision", "precision/macro"),
    "recall": ("Recall", "recall/macro"),
    "f1": ("F1-Score", "f1/macro"),
    "roc_auc": ("ROC-AUC", "auroc/macro"),
    "accuracy": ("Accuracy", "accuracy"),
}


def make_image_table(results: Sequence[Result], facts: Facts, intervals: Intervals) -> Table:
    """Make Table 1: image models on patches."""
    columns = _focus_on(find_focus(results) or "minority") | PAPER_COLUMNS
    return _make_paper_table(
        ("table1_image", "Table 1. Image models"), columns, results, facts, intervals
    )


def make_tabular_table(results: Sequence[Result], facts: Facts, intervals: Intervals) -> Table:
    """Make Table 2: models on health records."""
    target = results[0].model.classes[1] if results else "target"
    caption = f"Table 2. Models on health records, target {target}"
    columns = _focus_on(target) | PAPER_COLUMNS
    return _make_paper_table(("table2_tabular", caption), columns, results, facts, intervals)


def _make_paper_table(
    named: tuple[str, str],
    columns: Columns,
    results: Sequence[Result],
    facts: Facts,
    intervals: Intervals,
) -> Table:
    name, caption = named
    rows = [{"model": r.title, **_read(r, columns, intervals), **_declare(r)} for r in results]
    notes = ["Precision, recall, F1 and ROC-AUC are plain means over the classes."]
    notes += describe_data(results, facts) + explain_intervals(results, intervals, facts)
    return Table(name, _caption(caption, results, facts), _head(columns), rows, notes)


def make_overview(results: Sequence[Result], facts: Facts, intervals: Intervals) -> Table:
    """Make Table 3: all models, those on patches with the class that counts most."""
    focus = find_focus(results)
    leading = _focus_on(focus) if focus else {}
    if focus:
        leading[f"{focus}_auc"] = (f"{show_name(focus).capitalize()} AUC", f"auroc/{focus}")
    rest: Columns = {
        "macro_auc": ("Macro AUC", "auroc/macro"),
        "macro_f1": ("Macro F1", "f1/macro"),
        "accuracy": ("Accuracy", "accuracy"),
    }
    rows: list[dict[str, Cell]] = []
    for result in results:
        on_patches = result.model.on_patches
        first = (
            _read(result, leading, intervals)
            if on_patches
            else dict.fromkeys(leading, NOT_APPLICABLE)
        )
        others = _read(result, rest, intervals)
        rows.append({"model": _name_modality(result), **first, **others, **_declare(result)})
    notes = []
    if any(not r.model.on_patches for r in results):
        notes.append(
            "NA: models on health records classify no patches. Their rows and the rows on patches "
            "answer different questions and are not to be ranked together."
        )
    caption = _caption("Table 3. All models", results, facts)
    notes += describe_data(results, facts) + explain_intervals(results, intervals, facts)
    return Table("table3_all", caption, _head(leading | rest), rows, notes)


def _name_modality(result: Result) -> str:
    suffix = {"image": " (image only)", "tabular": " (health record only)", "fusion": ""}
    return result.title + suffix[result.model.kind]


# --- beyond the paper ---------------------------------------------------------------------------


def make_minority_table(results: Sequence[Result], facts: Facts, intervals: Intervals) -> Table:
    """Make the table that says most of the rarest class."""
    focus = find_focus(results) or "minority"
    shown = show_name(focus).capitalize()
    columns = _focus_on(focus) | {
        f"{focus}_precision": (f"{shown} precision", f"precision/{focus}"),
        f"{focus}_auc": (f"{shown} AUC", f"auroc/{focus}"),
        "macro_f1": ("Macro F1", "f1/macro"),
        "macro_auc": ("Macro AUC", "auroc/macro"),
        "brier": ("Brier", "brier"),
        "ece": ("ECE", "ece"),
        "accuracy": ("Accuracy", "accuracy"),
    }
    rows = [{"model": r.title, **_read(r, columns, intervals), **_declare(r)} for r in results]
    caption = _caption(f"{shown} first: models on patches", results, facts)
    notes = [*_describe_chance(results, facts, focus), *describe_data(results, facts)]
    notes += explain_intervals(results, intervals, facts)
    return Table(focus, caption, _head(columns), rows, notes)


def _describe_chance(results: Sequence[Result], facts: Facts, focus: str) -> list[str]:
    for result in results:
        rows = result.model.of(facts.split)
        n, total = rows.count_classes().get(focus, 0), len(rows)
        if total:
            share = f"{n / total:.3f}, the share of {show_name(focus)} ({n:,} of {total:,} patches)"
            return [f"Chance has an AUPRC of {share}, and an AUC of 0.5."]
    return []


def make_fusion_table(comparison: Comparison, facts: Facts, intervals: Intervals) -> Table:
    """Make the table of fusion models less the image model they are built on, patch by patch."""
    image = comparison.image
    focus = find_focus([image]) or "minority"
    columns = _focus_on(focus) | {
        f"{focus}_auc": (f"{show_name(focus).capitalize()} AUC", f"auroc/{focus}"),
        "macro_f1": ("Macro F1", "f1/macro"),
        "macro_auc": ("Macro AUC", "auroc/macro"),
        "accuracy": ("Accuracy", "accuracy"),
    }
    rows: list[dict[str, Cell]] = []
    for result in comparison.fused:
        less = intervals.minus_image[result.name]
        values = {c: less[m].interval for c, (_, m) in columns.items()}
        rows.append({"model": result.title, **values, **_declare(result)})
    results = [image, *comparison.fused]
    caption = _caption(f"Fusion less {image.title}: paired differences", results, facts)
    notes = describe_data(results, facts) + explain_intervals(results, intervals, facts)
    return Table("fusion_vs_image", caption, _head(columns), rows, notes)


# --- what must be said --------------------------------------------------------------------------


def _caption(text: str, results: Sequence[Result], facts: Facts) -> str:
    simulated = any(r.simulated for r in results)
    marked = " Simulated data: no patients, no claim." if simulated else ""
    return f"{text}, {facts.split} split.{marked}"


def describe_data(results: Sequence[Result], facts: Facts) -> list[str]:
    """Describe the rows: sizes of the splits, leaks, pairing, and scores too good to be true."""
    notes = [*_describe_splits(results, facts)]
    if any(r.leaky for r in results):
        notes.append("Leaky rows show how much a leak is worth; they are not results.")
    if any(r.model.kind == "fusion" for r in results):
        notes.append(
            "Images and health records belong to different people. Unless the pairing is linked, "
            "the record cannot predict the class of a patch: any gain of a fusion model over the "
            "image model is chance, the extra head on the same embedding, or a leak."
        )
    if too_good := _find_too_good(results, facts):
        notes.append(
            f"{facts.alarm_at} or more without a declared leak is an alarm, not a success: "
            f"{', '.join(too_good)}. Look for a leak before trusting it."
        )
    if _has_undefined(results, facts):
        notes.append(f"{NOT_DEFINED}: not defined, because a class has no example in the split.")
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
        if not r.leaky and any((r.metrics.get(n) or 0) >= facts.alarm_at for n in names)
    ]


def _has_undefined(results: Sequence[Result], facts: Facts) -> bool:
    return any(
        value is None and name.startswith(f"{facts.split}/")
        for r in results
        for name, value in r.metrics.items()
    )


def _read(result: Result, columns: Columns, intervals: Intervals) -> dict[str, Cell]:
    found = intervals.of[result.name]
    return {c: found.get(m) for c, (_, m) in columns.items()}


def _declare(result: Result) -> dict[str, Cell]:
    return {"leaky": result.leaky or "no", "data": result.data}


# --- files --------------------------------------------------------------------------------------


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as CSV and as Markdown."""
    for table in tables:
        write_text(render_csv(table), folder / f"{table.name}.csv")
        write_text(render_markdown(table), folder / f"{table.name}.md")


def render_csv(table: Table) -> str:
    """Render as CSV: numbers to four decimals, empty where not defined.

    A column of numbers with intervals is followed by their ends, ``<column>_low`` and ``_high``.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _name_csv_columns(table), lineterminator="\n", restval="")
    writer.writeheader()
    for row in table.rows:
        cells: dict[str, Cell] = {}
        for column in table.headings:
            cells |= _spread(column, row[column])
        writer.writerow({c: _render(v, decimals=4, undefined="") for c, v in cells.items()})
    return text.getvalue()


def _name_csv_columns(table: Table) -> list[str]:
    names: list[str] = []
    for column in table.headings:
        ends = any(isinstance(row[column], Interval) for row in table.rows)
        names += [column, f"{column}_low", f"{column}_high"] if ends else [column]
    return names


def _spread(column: str, cell: Cell) -> dict[str, Cell]:
    if isinstance(cell, Interval):
        return {column: cell.value, f"{column}_low": cell.low, f"{column}_high": cell.high}
    return {column: cell}


def render_markdown(table: Table) -> str:
    """Render as Markdown: caption, table, notes; numbers to three decimals."""
    head = "| " + " | ".join(table.headings.values()) + " |"
    text = {c for c in table.headings if _holds_words(table, c)}
    rule = "| " + " | ".join("---" if c in text else "---:" for c in table.headings) + " |"
    body = [_render_row(row, table) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"**{table.caption}**", "", head, rule, *body, "", *notes]) + "\n"


def _holds_words(table: Table, column: str) -> bool:
    words = [row[column] for row in table.rows if isinstance(row[column], str)]
    return any(word not in (NOT_APPLICABLE, NOT_DEFINED) for word in words)


def _render_row(row: dict[str, Cell], table: Table) -> str:
    cells = (_render(row[c], decimals=3, undefined=NOT_DEFINED) for c in table.headings)
    return f"| {' | '.join(cells)} |"


def _render(value: Cell, *, decimals: int, undefined: str) -> str:
    if isinstance(value, Interval):
        number = _render(value.value, decimals=decimals, undefined=undefined)
        ends = [_render(end, decimals=decimals, undefined="") for end in (value.low, value.high)]
        return f"{number} [{ends[0]}, {ends[1]}]" if all(ends) else number
    if value is None:
        return undefined
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
