"""Markdown tables written by the stages, parsed for the page."""

from __future__ import annotations

import re
from pathlib import Path

from histofuse.reporting.blocks import Grid


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
    return Grid(_strip_markup(caption), headings, rows, notes)


def _split_row(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [_strip_markup(cell.strip().replace("\\|", "|")) for cell in cells]


def _strip_markup(text: str) -> str:
    return re.sub(r"\*\*|`", "", text)
