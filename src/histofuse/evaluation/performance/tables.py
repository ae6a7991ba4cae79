"""The paper's Tables 1 to 3 and more, as CSV and Markdown, each number with its interval."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histofuse.core.artifacts import write_text
from histofuse.core.naming import NOT_DEFINED, show_name
from histofuse.core.tables import escape_formula
from histofuse.evaluation.metrics.bootstrap import EXPLAIN_BIASED, Interval
from histofuse.evaluation.performance.comparison import Comparison
from histofuse.evaluation.performance.diagnoses import EXPLAIN_DIAGNOSES
from histofuse.evaluation.performance.intervals import Intervals, explain_intervals
from histofuse.evaluation.performance.results import Context, Result, find_focus
from histofuse.evaluation.predictions import Predictions

NOT_APPLICABLE = "NA"
_ENDS = ("", "_low", "_high")
Cell = Interval | float | int | str | None


@dataclass(frozen=True)
class Table:
    """A table for readers."""

    name: str  # its files' stem
    caption: str
    headings: dict[str, str]  # column name to heading
    rows: list[dict[str, Cell]]  # values by column name; None is "not defined"
    notes: list[str]  # sentences under the table


def make_tables(
    results: Sequence[Result], comparison: Comparison | None, context: Context, intervals: Intervals
) -> list[Table]:
    """Make all tables; one without rows is left out."""
    of_kind = {k: [r for r in results if r.model.kind == k] for k in ("image", "tabular")}
    tables = [
        make_image_table(of_kind["image"], context, intervals),
        make_tabular_table(of_kind["tabular"], context, intervals),
        make_overview(results, context, intervals),
        make_minority_table([r for r in results if r.model.on_patches], context, intervals),
    ]
    if comparison:
        tables.append(make_fusion_table(comparison, context, intervals))
    return [t for t in tables if t.rows]


# Column name to heading and metric.
Columns = dict[str, tuple[str, str]]
_FOCUSED: Columns = {
    "auprc": ("AUPRC", "auprc"),
    "recall": ("recall", "recall"),
    "f1": ("F1", "f1"),
    "precision": ("precision", "precision"),
    "auc": ("AUC", "auroc"),
}
_MACRO_AUC: Columns = {"macro_auc": ("Macro AUC", "auroc/macro")}
_MACRO_F1: Columns = {"macro_f1": ("Macro F1", "f1/macro")}
_ACCURACY: Columns = {"accuracy": ("Accuracy", "accuracy")}
PAPER_COLUMNS: Columns = {
    "precision": ("Precision", "precision/macro"),
    "recall": ("Recall", "recall/macro"),
    "f1": ("F1-Score", "f1/macro"),
    "roc_auc": ("ROC-AUC", "auroc/macro"),
    **_ACCURACY,
}
_MEANS = "Precision, recall, F1 and ROC-AUC are plain means over the classes."


def _focus_on(name: str, *others: str) -> Columns:
    """Make the columns that lead: AUPRC, recall, F1 and other scores of a rare class."""
    shown = show_name(name).capitalize()
    chosen = {score: _FOCUSED[score] for score in ("auprc", "recall", "f1", *others)}
    return {f"{name}_{s}": (f"{shown} {h}", f"{m}/{name}") for s, (h, m) in chosen.items()}


def _head(columns: Columns) -> dict[str, str]:
    headings = {column: heading for column, (heading, _) in columns.items()}
    return {"model": "Model"} | headings | {"leaky": "Leaky", "data": "Data"}


def _list_rows(
    results: Sequence[Result], columns: Columns, of: Mapping[str, Mapping[str, Interval]]
) -> list[dict[str, Cell]]:
    return [_make_row(r.title, columns, of[r.name], r) for r in results]


def _make_row(
    title: str, columns: Columns, of: Mapping[str, Interval], result: Result
) -> dict[str, Cell]:
    values = {column: of.get(metric) for column, (_, metric) in columns.items()}
    return {"model": title, **values, "leaky": result.leaky or "no", "data": result.data}


def _complete(
    table: Table, results: Sequence[Result], context: Context, intervals: Intervals
) -> Table:
    """Add to caption and notes what must be said of any table."""
    caption = f"{table.caption}, {context.split} split."
    if any(r.simulated for r in results):
        caption += " Simulated data: no patients, no claim."
    notes = describe_data(results, context) + explain_intervals(results, intervals, context)
    return replace(table, caption=caption, notes=[*table.notes, *notes])


def make_image_table(results: Sequence[Result], context: Context, intervals: Intervals) -> Table:
    """Make Table 1: image models on patches."""
    columns = _focus_on(find_focus(results) or "minority") | PAPER_COLUMNS
    rows = _list_rows(results, columns, intervals.of)
    table = Table("table1_image", "Table 1. Image models", _head(columns), rows, [_MEANS])
    return _complete(table, results, context, intervals)


def make_tabular_table(results: Sequence[Result], context: Context, intervals: Intervals) -> Table:
    """Make Table 2: models on health records."""
    target = results[0].model.classes[1] if results else "target"
    columns = _focus_on(target) | PAPER_COLUMNS
    rows = _list_rows(results, columns, intervals.of)
    caption = f"Table 2. Models on health records, target {target}"
    table = Table("table2_tabular", caption, _head(columns), rows, [_MEANS])
    return _complete(table, results, context, intervals)


def make_diagnoses_table(
    result: Result,
    measured: Mapping[str, Mapping[str, Interval]],
    context: Context,
    intervals: Intervals,
) -> Table:
    """Make the table that belongs to Table 2: the same without diagnoses that are not known yet."""
    target = result.model.classes[1]
    columns = _focus_on(target) | PAPER_COLUMNS
    rows = [_make_row(title, columns, of, result) for title, of in measured.items()]
    caption = f"Table 2, {result.title} by what diagnoses are known, target {target}"
    notes = [EXPLAIN_DIAGNOSES, _MEANS]
    table = Table("table2_diagnoses", caption, _head(columns), rows, notes)
    return _complete(table, [result], context, intervals)


def make_overview(results: Sequence[Result], context: Context, intervals: Intervals) -> Table:
    """Make Table 3: all models, those on patches with the class that counts most."""
    focus = find_focus(results)
    leading = _focus_on(focus, "auc") if focus else {}
    columns = leading | _MACRO_AUC | _MACRO_F1 | _ACCURACY
    rows = _list_rows(results, columns, intervals.of)
    suffix = {"image": " (image only)", "tabular": " (health record only)", "fusion": ""}
    notes = []
    for row, result in zip(rows, results, strict=True):
        row["model"] = result.title + suffix[result.model.kind]
        if not result.model.on_patches:
            row.update(dict.fromkeys(leading, NOT_APPLICABLE))
            notes = [
                "NA: models on health records classify no patches. Their rows and the rows on "
                "patches answer different questions and are not to be ranked together."
            ]
    table = Table("table3_all", "Table 3. All models", _head(columns), rows, notes)
    return _complete(table, results, context, intervals)


def make_minority_table(results: Sequence[Result], context: Context, intervals: Intervals) -> Table:
    """Make the table that says most of the rarest class."""
    focus = find_focus(results) or "minority"
    columns = _focus_on(focus, "precision", "auc") | _MACRO_F1 | _MACRO_AUC
    columns |= {
        f"{focus}_ece": (f"{show_name(focus).capitalize()} ECE", f"ece/{focus}"),
        "macro_ece": ("Macro ECE", "ece/macro"),
        "brier": ("Brier", "brier"),
    } | _ACCURACY
    rows = _list_rows(results, columns, intervals.of)
    caption = f"{show_name(focus).capitalize()} first: models on patches"
    table = Table(focus, caption, _head(columns), rows, [EXPLAIN_BIASED])
    return _complete(table, results, context, intervals)


def make_fusion_table(comparison: Comparison, context: Context, intervals: Intervals) -> Table:
    """Make the table of fusion models less the image model they are built on, patch by patch."""
    image = comparison.image
    columns = _focus_on(find_focus([image]) or "minority", "auc")
    columns |= _MACRO_F1 | _MACRO_AUC | _ACCURACY
    rows = _list_rows(comparison.fused, columns, intervals.minus_image)
    caption = f"Fusion less {image.title}: paired differences"
    table = Table("fusion_vs_image", caption, _head(columns), rows, [])
    return _complete(table, [image, *comparison.fused], context, intervals)


def describe_data(results: Sequence[Result], context: Context) -> list[str]:
    """Describe the rows: sizes of the splits, leaks, pairing, and scores too good to be true."""
    notes = [*_describe_splits(results, context)]
    if any(r.leaky for r in results):
        notes.append("Leaky rows show how much a leak is worth; they are not results.")
    if any(r.model.kind == "fusion" for r in results):
        notes.append(
            "Images and health records belong to different people. Unless the pairing is linked, "
            "the record cannot predict the class of a patch: any gain of a fusion model over the "
            "image model is chance, the extra head on the same embedding, or a leak."
        )
    if too_good := _find_too_good(results, context):
        notes.append(
            f"{context.alarm_at} or more without a declared leak is an alarm, not a success: "
            f"{', '.join(too_good)}. Look for a leak before trusting it."
        )
    reported = [
        r.metrics[m] for r in results for m in r.metrics if m.startswith(f"{context.split}/")
    ]
    if None in reported:
        notes.append(f"{NOT_DEFINED}: not defined, because a class has no example in the split.")
    return notes


def _describe_splits(results: Sequence[Result], context: Context) -> Iterable[str]:
    for on_patches in (True, False):
        model = next((r.model for r in results if r.model.on_patches == on_patches), None)
        if model is not None:
            splits = sorted(model.splits, key=lambda s: s != context.split)
            yield "; ".join(_describe_split(s, model.of(s)) for s in splits) + "."
            yield from _describe_chance(model, context)


def _describe_split(split: str, rows: Predictions) -> str:
    classes = ", ".join(f"{show_name(c)} {n:,}" for c, n in rows.count_classes().items())
    return f"{split.capitalize()}: {rows.describe_size()} ({classes})"


def _describe_chance(model: Predictions, context: Context) -> Iterable[str]:
    """Give the chance level next to every AUPRC: the share of the class in focus."""
    rows, focus = model.of(context.split), model.focus_class
    if count := rows.count_classes().get(focus, 0):
        enriched = model.on_patches and context.image_source == "simulated"
        remark = ", enriched in the simulation" if enriched else ""
        yield (
            f"Chance has an AUC of 0.5 and an AUPRC of {count / len(rows):.3f}, the share of "
            f"{show_name(focus)} ({count:,} of {len(rows):,} {rows.unit}{remark})."
        )


def _find_too_good(results: Sequence[Result], context: Context) -> list[str]:
    names = [f"{context.split}/{m}" for m in ("f1/macro", "auroc/macro")]
    return [
        r.title
        for r in results
        if not r.leaky and any((r.metrics.get(n) or 0) >= context.alarm_at for n in names)
    ]


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as CSV and as Markdown."""
    for table in tables:
        write_text(render_csv(table), folder / f"{table.name}.csv")
        write_text(render_markdown(table), folder / f"{table.name}.md")


def render_csv(table: Table) -> str:
    """Render to four decimals, empty where not defined; intervals add ``_low`` and ``_high``."""
    width = {
        column: 3 if any(isinstance(row[column], Interval) for row in table.rows) else 1
        for column in table.headings
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column + end for column, n in width.items() for end in _ENDS[:n])
    for row in table.rows:
        cells = (cell for column, n in width.items() for cell in _spread(row[column])[:n])
        writer.writerow(escape_formula(_render(c, decimals=4, undefined="")) for c in cells)
    return text.getvalue()


def _spread(cell: Cell) -> tuple[Cell, Cell, Cell]:
    return (cell.value, cell.low, cell.high) if isinstance(cell, Interval) else (cell, "", "")


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
    plain = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)  # of one row, one cell
    return f"| {' | '.join(plain)} |"


def _render(value: Cell, *, decimals: int, undefined: str) -> str:
    if value is None:
        return undefined
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
