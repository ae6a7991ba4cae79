"""``histofuse runs``: compare the published runs in the terminal."""

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from histofuse.core.artifacts import digest_file, to_json
from histofuse.core.bundle import MANIFEST, list_bundles
from histofuse.core.errors import Fault, InputError
from histofuse.core.naming import NOT_DEFINED, show_interval, show_value
from histofuse.tracking.connection import name_store
from histofuse.tracking.names import (
    CONTENT_TAG,
    DIGEST_TAG,
    FOCUS_TAG,
    REGISTERED_TAG,
    VERSION_TAG,
    name_end,
    redact,
)
from histofuse.tracking.publish import MODELS
from histofuse.tracking.store import open_store

Format = Literal["table", "json", "csv"]

# `{focus}` is mitosis, or the target; what counts most comes first and accuracy last.
_PATCHES: Final = (
    "test/auprc/{focus}", "test/recall/{focus}", "test/f1/{focus}", "test/auroc/{focus}",
    "test/f1/macro", "test/auroc/macro", "test/accuracy",
)  # fmt: skip
_ADMISSIONS: Final = (
    "test/auroc/{focus}", "test/auprc/{focus}", "test/recall/{focus}", "test/f1/{focus}",
    "test/ece/{focus}", "test/brier", "test/accuracy",
)  # fmt: skip
_FRAMES: Final = ("test/f1/nuclei", "test/precision/nuclei", "test/recall/nuclei", "test/ap/nuclei")
_LOW_IS_GOOD: Final = ("brier", "ece", "loss")
_WIDTH: Final = 100
_WIDEST: Final = 10_000


@dataclass(frozen=True)
class RunRow:
    """One published run, with the keys that programs read."""

    run: str
    kind: str  # image, tabular, fusion, patient or detector
    model: str  # its registered name
    version: int
    digest: str  # of its bundle
    class_in_focus: str  # whose scores come first
    in_production: bool
    current: bool  # whether models/ holds the same bundle
    leaky: bool  # whether its scores measure a leak
    source: str
    metrics: dict[str, float]  # latest values
    params: dict[str, str]

    @property
    def unit(self) -> str:
        """What it answers about: patches, admissions, patients or frames."""
        units = {"tabular": "admissions", "patient": "patients", "detector": "frames"}
        return units.get(self.kind, "patches")


def list_runs(models: Path = MODELS) -> list[RunRow]:
    """List all published runs, oldest first."""
    store = open_store()
    with store.locked():
        runs = store.find_runs(CONTENT_TAG)
        production = {s.name: s.production for s in store.read_statuses()}
    held = {digest_file(path / MANIFEST) for path in list_bundles(models)}
    rows = []
    for run in runs:
        tags = run.data.tags
        model, version = tags.get(REGISTERED_TAG, ""), int(tags.get(VERSION_TAG, 0))
        rows.append(
            RunRow(
                run=run.info.run_name or "",
                kind=tags.get("histofuse.kind", ""),
                model=model,
                version=version,
                digest=tags[DIGEST_TAG],
                class_in_focus=tags.get(FOCUS_TAG, ""),
                in_production=production.get(model) == version,
                current=tags[DIGEST_TAG] in held,
                leaky=tags.get("histofuse.leaky") == "true",
                source=tags.get("histofuse.source", ""),
                metrics=dict(run.data.metrics),
                params=dict(run.data.params),
            )
        )
    return rows


def describe_runs(
    *,
    kind: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] = (),
    current: bool = False,
    form: Format = "table",
    width: int = _WIDTH,
) -> str:
    """Describe the published runs.

    ``{focus}`` in a column, or in what to sort by, stands for a run's class in focus. By default
    runs are sorted by the first column. `width` is that of the table, unless its numbers need more.
    """
    rows = [r for r in list_runs() if kind in (None, r.kind) and (r.current or not current)]
    if not rows and form == "table":
        of_kind = f" of kind {kind}" if kind else ""
        where = redact(name_store())
        return f"no published runs{of_kind} at {where}; run dvc repro or histofuse publish"
    _check_columns(rows, [*columns, *([sort] if sort else [])])
    if form != "table":
        dicts = [_to_dict(row, columns) for row in (_order(rows, sort) if sort else rows)]
        return to_json(dicts).rstrip("\n") if form == "json" else _to_csv(dicts)
    units = ("patches", "admissions", "patients", "frames")
    groups = [[r for r in rows if r.unit == unit] for unit in units]
    console = Console(width=width, no_color=True, highlight=False)
    tables, needed = [], 0
    for folds in (0, 1, 2):
        tables = [_make_table(group, sort, columns, folds) for group in groups if group]
        options = console.options.update(width=_WIDEST)
        needed = max(Measurement.get(console, options, table).maximum for table in tables)
        if needed <= console.width:
            break
    # A table that is still too wide runs over the edge: a number that is cut is another number.
    console.width = max(console.width, needed)
    with console.capture() as captured:
        for table in tables:
            console.print(table)
        console.print(_explain(rows, columns))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _check_columns(rows: Sequence[RunRow], columns: Sequence[str]) -> None:
    known = sorted({name for r in rows for name in (*r.metrics, *r.params)})
    known = [name for name in known if not name.startswith("interval_")]
    faults = [
        Fault("column", f"no run has {c!r}", f"a metric or param, such as {_suggest(c, known)}")
        for c in columns
        if not any(_find(r, c) is not None for r in rows)
    ]
    if faults:
        raise InputError(faults)


def _suggest(column: str, known: Sequence[str]) -> str:
    """Name the metrics and params that are spelt most alike, or that a word of it is part of."""
    words = [word for word in re.split(r"[/._ ]", column.lower()) if word]
    holding = [name for name in known if any(word in re.split(r"[/._]", name) for word in words)]
    near = difflib.get_close_matches(column, known, n=6, cutoff=0.5)
    return ", ".join(list(dict.fromkeys([*near, *holding, *known]))[:6])


def _make_table(
    rows: Sequence[RunRow], sort: str | None, columns: Sequence[str], folds: int
) -> Table:
    """Make the table of some runs; intervals are folded to as many further lines."""
    unit = rows[0].unit
    usual = {"patches": _PATCHES, "frames": _FRAMES}.get(unit, _ADMISSIONS)
    names = list(columns) or list(usual)
    ordered = _order(rows, sort or names[0])
    table = Table(title=f"models on {unit}, test split" if not columns else f"models on {unit}",
                  title_justify="left", title_style="", box=None, pad_edge=False)  # fmt: skip
    table.add_column("", no_wrap=True)
    table.add_column("run", no_wrap=True, overflow="ellipsis", max_width=28)
    table.add_column("", no_wrap=True, justify="right")  # the version
    for name in names:
        table.add_column(_head(name, rows[0].class_in_focus, folds), justify="right", no_wrap=True)
    for row in ordered:
        cells = [_show(row, name).replace(" ", "\n", folds) for name in names]
        mark = f"{'*' * row.in_production}{'!' * row.leaky}"
        table.add_row(mark, Text(row.run), f"v{row.version}", *cells)
    return table


def _head(name: str, focus: str, folds: int) -> str:
    """Name a column with a line for each part or, if folded, each word: "auprc" over "mitosis"."""
    parts = name.removeprefix("test/").format(focus=focus).replace("/", "\n")
    return parts.replace("_", "\n" if folds else " ")


def _order(rows: Sequence[RunRow], by: str) -> list[RunRow]:
    """Sort by a value, best first; then runs without one, and leaky ones, whose score is a leak."""
    sign = 1.0 if any(part in by for part in _LOW_IS_GOOD) else -1.0

    def key(row: RunRow) -> tuple[bool, int, float]:
        value = _find(row, by)
        try:
            return (row.leaky, 1, 0.0) if value is None else (row.leaky, 0, sign * float(value))
        except ValueError:  # a param of words
            return row.leaky, 1, 0.0

    return sorted(rows, key=key)


def _find(row: RunRow, name: str) -> float | str | None:
    named = name.replace("{focus}", row.class_in_focus)
    value = row.metrics.get(named, math.nan)
    return value if math.isfinite(value) else row.params.get(named)


def _show(row: RunRow, name: str) -> str:
    """Write a param, or a metric with its interval."""
    value = _find(row, name)
    if value is None or isinstance(value, str):
        return value or NOT_DEFINED
    low, high = (_find(row, name_end(name, end)) for end in ("low", "high"))
    if isinstance(low, float) and isinstance(high, float):
        return show_interval(value, low, high)
    return show_value(value)


def _explain(rows: Sequence[RunRow], columns: Sequence[str]) -> str:
    lines = []
    if any(name.startswith("interval_") for r in rows for name in r.metrics):
        lines.append("Intervals are in brackets; reports/tables describe the method.")
        if any("ece" in name.split("/") for name in columns or _ADMISSIONS):
            lines.append(
                "ECE is biased upwards on few rows; its interval is not, and may end below."
            )
    if any(r.in_production for r in rows):
        lines.append("*  in production")
    if any(r.leaky for r in rows):
        lines.append("!  leaky: the label chose the pairs, and these scores measure that")
    if rows and all(r.source == "simulated" for r in rows):
        lines.append("Simulated data: the numbers test the code and say nothing about patients.")
    return "\n".join(["", *lines]) if lines else ""


def _to_dict(row: RunRow, columns: Sequence[str]) -> dict[str, Any]:
    """Render all metrics and params, or those that are named, the former with their intervals."""
    named = {column.replace("{focus}", row.class_in_focus) for column in columns}
    named |= {name_end(name, end) for name in named for end in ("low", "high")}
    metrics = {name: v if math.isfinite(v) else None for name, v in row.metrics.items()}
    kept = {
        field: {name: of[name] for name in sorted(of) if not named or name in named}
        for field, of in (("metrics", metrics), ("params", row.params))
    }
    return asdict(row) | kept


def _to_csv(rows: Sequence[dict[str, Any]]) -> str:
    import pandas as pd

    from histofuse.core.tables import to_csv

    flat = []
    for row in rows:
        metrics, params = row.pop("metrics"), row.pop("params")
        flat.append(row | metrics | {f"params.{name}": value for name, value in params.items()})
    return to_csv(pd.DataFrame(flat)).rstrip("\n")
