"""Markdown tables written by the stages, parsed for the page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from histofuse.reporting.blocks import Grid

_WIDE: Final = 7  # columns


def read_grids(folder: Path) -> dict[str, Grid]:
    """Read every Markdown table of a folder, by file stem; empty if there is no folder."""
    files = sorted(folder.glob("*.md")) if folder.is_dir() else []
    return {file.stem: parse_grid(file.read_text(encoding="utf-8")) for file in files}


def parse_grid(text: str) -> Grid:
    """Parse a bold caption, a table and a list of notes; each may be missing."""
    lines = [line.strip() for line in text.splitlines()]
    caption = next((c.strip("* ") for c in lines if c.startswith("**")), "")
    table = [_split_row(line) for line in lines if line.startswith("|")]
    notes = [_strip_markup(line[2:]) for line in lines if line.startswith("- ")]
    headings, rows = (table[0], table[2:]) if table else ([], [])
    columns = len(headings)
    rows = [[*row, *[""] * columns][:columns] for row in rows]
    return _drop_repeated(Grid(_strip_markup(caption), headings, rows, notes))


def _drop_repeated(grid: Grid) -> Grid:
    """Say once, in a note, what a column of a wide table says in every row."""
    if len(grid.headings) < _WIDE or len(grid.rows) < 2:
        return grid
    columns = [{row[n] for row in grid.rows} for n in range(len(grid.headings))]
    same = [n for n, column in enumerate(columns) if len(column) == 1]
    notes = [f"{grid.headings[n]}, in all rows: {grid.rows[0][n] or '–'}." for n in same]
    return _keep(grid, [n for n in range(len(columns)) if n not in same], notes)


def leave_out(grid: Grid, scores: Sequence[str], note: str) -> Grid:
    """Leave columns out whose heading ends with the name of a score, and say where they are."""
    kept = [n for n, heading in enumerate(grid.headings) if not heading.endswith(tuple(scores))]
    return grid if len(kept) == len(grid.headings) else _keep(grid, kept, [note])


def _keep(grid: Grid, columns: Sequence[int], notes: Sequence[str]) -> Grid:
    rows = [[row[n] for n in columns] for row in grid.rows]
    return Grid(grid.caption, [grid.headings[n] for n in columns], rows, [*notes, *grid.notes])


def _split_row(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [_strip_markup(cell.strip().replace("\\|", "|")) for cell in cells]


def _strip_markup(text: str) -> str:
    return re.sub(r"\*\*|`", "", text)
