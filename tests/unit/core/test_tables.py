import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from histofuse.core.artifacts import digest_file
from histofuse.core.errors import InputError
from histofuse.core.tables import (
    Contract,
    keep_on_disk,
    read_table,
    to_csv,
    write_parts,
    write_table,
)

CONTRACT = Contract(
    name="patches",
    columns={"patch_id": "str", "x_px": "float", "row": "int"},
    key=("patch_id",),
    nullable=frozenset({"x_px"}),
)


def make_table(**changes):
    columns = {"patch_id": ["a", "b"], "x_px": [1.5, None], "row": [0, 1]}
    return pd.DataFrame(columns | changes)


def test_table_comes_back_as_it_was(tmp_path):
    write_table(make_table(), tmp_path / "t.parquet", CONTRACT)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", CONTRACT), make_table())


def test_some_columns_are_read_and_checked(tmp_path):
    make_table(row=["x", "y"]).to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", CONTRACT, columns=("patch_id", "x_px"))
    pd.testing.assert_frame_equal(found, make_table()[["patch_id", "x_px"]])
    with pytest.raises(InputError, match="column 'row' is str"):
        read_table(tmp_path / "t.parquet", CONTRACT, columns=("patch_id", "row"))
    make_table().drop(columns="row").to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="row"):
        read_table(tmp_path / "t.parquet", CONTRACT, columns=("patch_id", "row"))


@pytest.mark.parametrize("keys", [["a", "b", "b"], ["b", "a", "b"], ["b", "b", "a"]])
def test_duplicates_are_found_in_any_order(tmp_path, keys):
    make_table(patch_id=keys, x_px=0.0, row=0).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="1 duplicate key"):
        read_table(tmp_path / "t.parquet", CONTRACT)


def test_words_kept_on_disk_are_the_same_words():
    words = pd.Series(["a", "bc", "", "ä"], index=[3, 1, 2, 0], name="words", dtype="str")
    kept = keep_on_disk(words)
    pd.testing.assert_series_equal(kept, words)
    assert kept[kept == "bc"].index.tolist() == [1]


def test_words_come_back_as_categories_if_asked_for(tmp_path):
    table = make_table(case_id=["c", "c"])
    contract = replace(CONTRACT, columns={**CONTRACT.columns, "case_id": "str"})
    write_table(table, tmp_path / "t.parquet", contract)
    found = read_table(tmp_path / "t.parquet", contract, categories=True)
    assert found["case_id"].dtype == "category" and found["patch_id"].dtype == "str"
    pd.testing.assert_frame_equal(found.astype({"case_id": "str"}), table)


def test_duplicates_among_categories_are_found(tmp_path):
    contract = replace(CONTRACT, key=("patch_id", "row"))
    make_table(patch_id=["a", "a"], row=[1, 1]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="1 duplicate key"):
        read_table(tmp_path / "t.parquet", contract, categories=True)


def test_same_table_has_the_same_bytes(tmp_path):
    write_table(make_table(), tmp_path / "a.parquet", CONTRACT)
    write_table(make_table(), tmp_path / "b.parquet", CONTRACT)
    assert digest_file(tmp_path / "a.parquet") == digest_file(tmp_path / "b.parquet")


def test_a_table_written_in_parts_comes_back_whole(tmp_path):
    write_parts((make_table().iloc[[n]] for n in range(2)), tmp_path / "t.parquet", CONTRACT)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet", CONTRACT), make_table())


def test_a_part_that_breaks_the_contract_leaves_nothing(tmp_path):
    parts = [make_table(), make_table(row=["x", "y"])]
    with pytest.raises(InputError, match="column 'row' is str"):
        write_parts(parts, tmp_path / "t.parquet", CONTRACT)
    assert not list(tmp_path.iterdir())


def test_all_breaches_are_listed_and_nothing_is_written(tmp_path):
    table = make_table(row=["x", "y"], patch_id=["a", "a"], extra=[1, 2]).drop(columns="x_px")

    with pytest.raises(InputError) as error:
        write_table(table, tmp_path / "t.parquet", CONTRACT)

    assert len(error.value.faults) == 4
    message = str(error.value)
    assert "no column 'x_px'" in message
    assert "column 'row' is str" in message
    assert "unknown columns ['extra']" in message
    assert "1 duplicate key, such as {'patch_id': 'a'}" in message
    assert not list(tmp_path.iterdir())


def test_null_where_none_may_be_is_named_by_row(tmp_path):
    with pytest.raises(InputError, match="'patch_id' is null in 1 row, the first row 1"):
        write_table(make_table(patch_id=["a", None]), tmp_path / "t.parquet", CONTRACT)


def test_missing_and_foreign_files_are_said(tmp_path):
    (tmp_path / "not.parquet").write_text("PAR1")
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.parquet", CONTRACT)
    with pytest.raises(InputError, match=r"not\.parquet: not readable"):
        read_table(tmp_path / "not.parquet", CONTRACT)


FORMULAS = {
    text: f"'{text}"
    for text in ("=1+cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "  =1", "\tx", "\uff1d1")
}
# In some languages a semicolon separates cells, and a line break ends a row that begins elsewhere.
PARTS = {
    "\r=1": "' =1",
    "\n=1": "'\n'=1",
    "\t=1": "'\t'=1",
    "x;=1;y": "x;'=1;y",
    "x; @A1": "x;' @A1",
    "x\t-1": "x\t'-1",
    "x\n=1": "x\n'=1",
    "a-b; c=d": "a-b; c=d",
}


@pytest.mark.parametrize(("text", "escaped"), (FORMULAS | PARTS).items())
def test_csv_holds_no_formulas_in_cells_or_headings(text, escaped):
    table = pd.DataFrame({"name": [text, "frame"], text: [1, 2]})
    (name, heading), *rows = csv.reader(io.StringIO(to_csv(table)))
    assert (name, heading) == ("name", escaped)
    assert rows == [[escaped, "1"], ["frame", "2"]]


def test_csv_keeps_numbers():
    table = pd.DataFrame(
        {
            "number": [-1.5, 2.0, None],
            "whole": [-1, 0, 1],
            "text": ["-1.5", "+2", "-1e-3"],
            "mixed": [-1, "a-b", None],
            "flag": [True, False, True],
            "day": pd.to_datetime(["2026-01-01"] * 3),
            "kind": pd.Categorical(["=x", "y", "=x"]),
        }
    )
    assert to_csv(table).splitlines() == [
        "number,whole,text,mixed,flag,day,kind",
        "-1.5,-1,-1.5,-1,True,2026-01-01,'=x",
        "2.0,0,+2,a-b,False,2026-01-01,y",
        ",1,-1e-3,,True,2026-01-01,'=x",
    ]
    assert table["kind"].iloc[0] == "=x", "the table itself is left as it was"


def test_all_csv_is_written_here():
    """Files for people that hold names from outside go through one function."""
    sources = Path(__file__).parents[3]
    files = [*(sources / "src").rglob("*.py"), *(sources / "pipelines").glob("*.py")]
    others = {f.name for f in files if re.search(r"\.to_csv\(|\.write_csv\(", f.read_text())}
    assert others == {"tables.py"}  # this one, and the simulation's compressed MIMIC tables
