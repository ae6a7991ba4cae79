from itertools import pairwise

import pytest

from histofuse.evaluation.performance.tables import Cell, Table, render_markdown
from histofuse.reporting.blocks import Grid
from histofuse.reporting.markdown_tables import leave_out, parse_grid
from histofuse.reporting.small_cells import HIDDEN, hide_small, hide_small_rows, merge_small_steps

TEXT = """**Caption, with `code`.**

| Model | Patients |
| --- | ---: |
| a \\| b | 12 |
| short |

- First note.
- Second.
"""


def test_markdown_table_is_read_back():
    grid = parse_grid(TEXT)
    assert grid.caption == "Caption, with code."
    assert list(grid.headings) == ["Model", "Patients"]
    assert [list(row) for row in grid.rows] == [["a | b", "12"], ["short", ""]]
    assert list(grid.notes) == ["First note.", "Second."]
    assert grid.numeric == [False, True]


def test_column_of_a_wide_table_that_says_the_same_in_all_rows_is_said_once():
    heads = ["Model", "A ECE", "B", "C", "D", "E", "Data"]
    rows = [["x", *"12345", "simulated"], ["y", *"12395", "simulated"]]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * 7, *rows)]
    grid = parse_grid("\n".join(["**Wide.**", *lines, "- Note."]))
    assert grid.headings == ["Model", "D"]
    assert grid.rows == [["x", "4"], ["y", "9"]]
    assert grid.notes[-2:] == ["Data, in all rows: simulated.", "Note."]
    assert leave_out(grid, ("D",), "See there.").rows == [["x"], ["y"]]
    assert leave_out(grid, ("ECE",), "See there.") is grid


def test_rows_of_one_model_are_a_group_in_tables_of_many_columns():
    rows = [["a", "1", "2", "3"], ["a", "4", "5", "6"], ["b", "7", "8", "9"]]
    grid = Grid("c", ["Model", "X", "Y", "Z"], rows)
    assert grid.is_grouped
    assert [(name, len(of)) for name, of in grid.groups] == [("a", 2), ("b", 1)]
    assert not Grid("c", ["Model", "X"], [row[:2] for row in rows]).is_grouped


@pytest.mark.parametrize(
    ("count", "of", "text"),
    [(9, 100, HIDDEN), (10, 100, "10 (10 %)"), (95, 100, HIDDEN), (0, 50, "0 (0 %)")],
)
def test_count_of_few_patients_is_hidden_and_so_is_one_that_leaves_few(count, of, text):
    assert hide_small(count, of, shown=False) == text
    assert hide_small(count, of, shown=True).startswith(str(count))


def test_row_of_few_patients_is_blanked():
    grid = Grid("c", ["By", "Patients", "Recall"], [["a", "9", "0.5"], ["b", "1,000", "0.6"]])
    assert [list(r) for r in hide_small_rows(grid).rows] == [
        ["a", HIDDEN, HIDDEN],
        ["b", "1,000", "0.6"],
    ]


def steps(*removed):
    left = 100
    rows = []
    for number, few in enumerate(removed):
        left -= few
        rows.append(
            {"description": str(number), "patients": str(left), "removed_patients": str(few)}
        )
    return rows


@pytest.mark.parametrize("removed", [(0, 3, 20), (0, 20, 3), (0, 3, 4), (0, 4, 4, 4), (0, 20, 30)])
def test_no_difference_of_what_is_shown_is_of_few_patients(removed):
    merged = merge_small_steps(steps(*removed))
    left = [int(step["patients"]) for step in merged]
    assert not [a - b for a, b in pairwise(left) if 0 < a - b < 10]
    assert sum(int(step["removed_patients"]) for step in merged) == sum(removed)
    assert left[-1] == 100 - sum(removed)


def test_bars_and_line_breaks_of_a_category_stay_in_their_cell():
    rows: list[dict[str, Cell]] = [{"who": "a | b\n| c |\n- d", "n": 12}]
    table = Table("t", "Caption.", {"who": "Group", "n": "Patients"}, rows, ["Note."])
    grid = parse_grid(render_markdown(table))
    assert grid.rows == [["a | b | c | - d", "12"]]
    assert grid.notes == ["Note."]
