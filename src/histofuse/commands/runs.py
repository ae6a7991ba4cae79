"""``histofuse runs``: compare the published runs in the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from histofuse.core.artifacts import to_json
from histofuse.core.errors import Fault, InputError
from histofuse.tracking.connection import name_store
from histofuse.tracking.names import name_end, redact
from histofuse.tracking.runs import RunRow, list_runs

Format = Literal["table", "json", "csv"]

# `{focus}` is mitosis, or the target; what counts most comes first and accuracy last.
_PATCHES: Final = (
    "test/auprc/{focus}",
    "test/recall/{focus}",
    "test/f1/{focus}",
    "test/auroc/{focus}",
    "test/f1/macro",
    "test/auroc/macro",
    "test/accuracy",
)
_ADMISSIONS: Final = (
    "test/auroc/{focus}",
    "test/auprc/{focus}",
    "test/recall/{focus}",
    "test/f1/{focus}",
    "test/brier",
    "test/ece",
    "test/accuracy",
)
_LOW_IS_GOOD: Final = ("brier", "ece", "loss")
_WIDTH: Final = 100


def describe_runs(
    *,
    kind: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] = (),
    current: bool = False,
    form: Format = "table",
    width: int | None = None,
) -> str:
    """Describe the published runs.

    Args:
        kind: Only runs of one kind: ``image``, ``tabular`` or ``fusion``.
        sort: Metric or param to sort by, best first; ``{focus}`` in it stands for the class in
            focus. By default the first column.
        columns: Metrics and params to show in place of the usual ones.
        current: Only models that ``models/`` holds.
        form: A table for people, or what programs read.
        width: Of the table; None is 100 columns.

    Raises:
        InputError: If no run has a column asked for.
        RegistryError: If the store cannot be reached.
    """
    rows = [r for r in list_runs() if kind in (None, r.kind) and (r.current or not current)]
    if not rows and form == "table":
        of_kind = f" of kind {kind}" if kind else ""
        where = redact(name_store())
        return f"no published runs{of_kind} at {where}; run dvc repro or histofuse publish"
    _check_columns(rows, [*columns, *([sort] if sort else [])])
    if form != "table":
        return _to_json(rows) if form == "json" else _to_csv(rows)
    groups = [[r for r in rows if r.on_patches], [r for r in rows if not r.on_patches]]
    console = Console(width=width or _WIDTH, no_color=True, highlight=False)
    with console.capture() as captured:
        for group in filter(None, groups):
            console.print(_make_table(group, sort, columns))
        console.print(_explain(rows))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _check_columns(rows: Sequence[RunRow], columns: Sequence[str]) -> None:
    known = sorted({name for r in rows for name in (*r.metrics, *r.params)})
    faults = [
        Fault("column", f"no run has {c!r}", f"a metric or param, such as {', '.join(known[:6])}")
        for c in columns
        if not any(_find(r, c) is not None for r in rows)
    ]
    if faults:
        raise InputError(faults)


def _make_table(rows: Sequence[RunRow], sort: str | None, columns: Sequence[str]) -> Table:
    names = list(columns) or list(_PATCHES if rows[0].on_patches else _ADMISSIONS)
    ordered = _order(rows, sort or names[0])
    unit = "patches" if rows[0].on_patches else "admissions"
    table = Table(title=f"models on {unit}, test split" if not columns else f"models on {unit}",
                  title_justify="left", title_style="", box=None, pad_edge=False)  # fmt: skip
    table.add_column("", no_wrap=True)
    table.add_column("run", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("version", no_wrap=True, justify="right")
    for name in names:
        table.add_column(_head(name, rows[0].focus), justify="right")
    for row in ordered:
        cells = [_show(_find(row, name), _find_ends(row, name)) for name in names]
        mark = f"{'*' * row.in_production}{'!' * row.leaky}"
        table.add_row(mark, Text(row.name), f"v{row.version[1]}", *cells)
    return table


def _head(name: str, focus: str) -> str:
    """Name a column so that it folds into a narrow one: "test/auprc/{focus}" -> "auprc mitosis"."""
    return name.removeprefix("test/").format(focus=focus).replace("/", " ").replace("_", " ")


def _order(rows: Sequence[RunRow], by: str) -> list[RunRow]:
    """Sort by a value, best first; runs without one come last, in the order they were."""
    sign = 1.0 if any(part in by for part in _LOW_IS_GOOD) else -1.0

    def key(row: RunRow) -> tuple[int, float]:
        value = _find(row, by)
        number = _to_number(value)
        return (1, 0.0) if number is None else (0, sign * number)

    return sorted(rows, key=key)


def _find(row: RunRow, name: str) -> float | str | None:
    named = name.replace("{focus}", row.focus)
    value = row.metrics.get(named, math.nan)
    return value if math.isfinite(value) else row.params.get(named)


def _find_ends(row: RunRow, name: str) -> tuple[float, float] | None:
    """Find the interval of a metric; None where there is none."""
    metric = name.replace("{focus}", row.focus)
    low, high = (row.metrics.get(name_end(metric, end), math.nan) for end in ("low", "high"))
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _to_number(value: float | str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _show(value: float | str | None, ends: tuple[float, float] | None) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:.3f}" + (f"\n{ends[0]:.2f}–{ends[1]:.2f}" if ends else "")


def _explain(rows: Sequence[RunRow]) -> str:
    lines = []
    if any(name.startswith("interval_") for r in rows for name in r.metrics):
        lines.append("Under each value its interval; reports/tables say how it was made.")
    if any(r.in_production for r in rows):
        lines.append("*  in production")
    if any(r.leaky for r in rows):
        lines.append("!  leaky: the label chose the pairs, and these scores measure that")
    if rows and all(r.source == "simulated" for r in rows):
        lines.append("Simulated data: the numbers say whether the code works, nothing of patients.")
    return "\n".join(["", *lines]) if lines else ""


def _to_dict(row: RunRow) -> dict[str, Any]:
    finite = {k: v if math.isfinite(v) else None for k, v in sorted(row.metrics.items())}
    return {
        "run": row.name,
        "kind": row.kind,
        "model": row.version[0],
        "version": row.version[1],
        "digest": row.digest,
        "class_in_focus": row.focus,
        "in_production": row.in_production,
        "current": row.current,
        "leaky": row.leaky,
        "source": row.source,
        "metrics": finite,
        "params": dict(sorted(row.params.items())),
    }


def _to_json(rows: Sequence[RunRow]) -> str:
    return to_json([_to_dict(row) for row in rows]).rstrip("\n")


def _to_csv(rows: Sequence[RunRow]) -> str:
    flat = []
    for values in map(_to_dict, rows):
        metrics, params = values.pop("metrics"), values.pop("params")
        flat.append(values | metrics | {f"params.{k}": v for k, v in params.items()})
    text = io.StringIO()
    columns = list(dict.fromkeys(name for values in flat for name in values))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().rstrip("\n")
