"""Counts of few patients, hidden if the data are under a data use agreement."""

from collections.abc import Sequence
from typing import Final

from histofuse.core.privacy import FEWEST_PATIENTS
from histofuse.reporting.blocks import Grid

HIDDEN: Final = f"< {FEWEST_PATIENTS}"
_COUNTS: Final = ("n", "patients", "positives", "events", "admissions", "rows")


def hide_small(count: int, of: int, shown: bool) -> str:
    """Format a count with its share of a whole, 0 for none, unless either is of few patients."""
    if not shown and (_is_small(count) or _is_small(of - count)):
        return HIDDEN
    share = f" ({100 * count / of:.0f} %)" if of else ""
    return f"{count:,}{share}"


def hide_small_counts(counts: Sequence[int], of: int, *, shown: bool) -> list[str]:
    """Format the counts of some values of a column, each with its share.

    Where those hidden would add up to few patients with what is not listed, which the difference
    to `of` tells, more are hidden, the smallest first.
    """
    cells = [hide_small(count, of, shown) for count in counts]
    for n in sorted(range(len(counts)), key=lambda n: counts[n]):
        known = sum(count for count, cell in zip(counts, cells, strict=True) if cell != HIDDEN)
        if counts[n] and not shown and _is_small(of - known):
            cells[n] = HIDDEN
    return cells


def merge_small_steps(steps: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Merge each attrition step that removes few patients with the next.

    A hidden number could be recovered by subtracting its neighbours; a merged step cannot. A last
    step that removes few is merged with the one before it.
    """
    merged: list[dict[str, str]] = []
    for step in steps:
        if merged and _is_few(merged[-1]):
            merged[-1] = _join(merged[-1], step)
        else:
            merged.append(dict(step))
    while len(merged) > 1 and _is_few(merged[-1]):
        last = merged.pop()
        merged[-1] = _join(merged[-1], last)
    return merged


def _is_few(step: dict[str, str]) -> bool:
    return _is_small(int(step["removed_patients"]))


def _join(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    removed = int(first["removed_patients"]) + int(second["removed_patients"])
    description = f"{first['description']}; {second['description']}"
    return second | {"removed_patients": str(removed), "description": description}


def hide_small_rows(grid: Grid) -> Grid:
    """Blank the rows of a table that count few patients."""
    counted = [n for n, h in enumerate(grid.headings) if h.lower() in _COUNTS]
    rows = [
        [row[0], *[HIDDEN] * (len(row) - 1)] if any(_says_small(row[n]) for n in counted) else row
        for row in grid.rows
    ]
    return Grid(grid.caption, grid.headings, rows, grid.notes)


def _says_small(cell: object) -> bool:
    text = str(cell).replace(",", "").split(" ")[0]
    return text.isdigit() and _is_small(int(text))


def _is_small(count: int) -> bool:
    return 0 < count < FEWEST_PATIENTS
