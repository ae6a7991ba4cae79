import gzip
import random

import polars as pl
import pytest

from histofuse.data import row_filter
from histofuse.data.row_filter import can_filter, filter_rows

HEADER = b"id,key,note\n"
ROWS = [
    b"1,12,plain\n",
    b"2,13,plain\n",
    b"10,12,another layout\n",
    b"1,2,12,a comma too many\n",
    b'3,14,"a quoted line break\n9,12,inside"\n',
    b'"4",12,quoted number\n',
    b'5,"12",quoted key\n',
    b"6,,no key\n",
    b"7,120,key begins alike\n",
    b"8,112,key ends alike\n",
    b'9,12,"a ""quoted"" word"\n',
    b"12,15,the other column\n",
    b",12,no number\n",
    b"1,012,padded\n",
    b"1,12.0,a float\n",
    b"1,1.2e1,a float\n",
    b"1, 12,a blank\n",
]


def parse(text):
    return pl.read_csv(text, infer_schema=False, truncate_ragged_lines=True)


def keep(path, values=("12",)):
    header, *texts = filter_rows(path, 1, values)
    assert header == HEADER
    return wanted(parse(header + b"".join(texts)), values)


def wanted(table, values=("12",)):
    return table.filter(pl.col("key").cast(pl.Float64, strict=False).is_in([*map(float, values)]))


@pytest.fixture(params=[".csv", ".csv.gz"])
def write(tmp_path, request):
    def write_table(rows):
        text = HEADER + b"".join(rows)
        path = tmp_path / f"table{request.param}"
        path.write_bytes(gzip.compress(text) if request.param == ".csv.gz" else text)
        return path, parse(text)

    return write_table


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_no_wanted_row_is_lost_whatever_the_blocks(write, monkeypatch, block):
    monkeypatch.setattr(row_filter, "BLOCK_BYTES", block)
    draw = random.Random(block)
    path, whole = write(draw.choices(ROWS, k=300))
    assert keep(path).equals(wanted(whole))


def test_rows_of_other_keys_are_left_out(write):
    rows = [b"%d,%d,x\n" % (number, 10_000_000 + number % 50) for number in range(1000)]
    path, _ = write(rows)
    _, text = filter_rows(path, 1, ["10000007", "10000009"])
    assert text == b"".join(row for row in rows if row.endswith((b"07,x\n", b"09,x\n")))


def test_a_last_row_without_a_line_break_counts(write):
    path, _ = write([b"1,13,x\n", b"2,12,y"])
    assert keep(path)["note"].to_list() == ["y"]


def test_a_table_without_rows_has_its_header(write):
    path, _ = write([])
    assert keep(path).height == 0


def test_a_quote_that_is_never_closed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(row_filter, "_LONGEST_ROW", 1000)
    monkeypatch.setattr(row_filter, "BLOCK_BYTES", 100)
    path = tmp_path / "table.csv"
    path.write_bytes(HEADER + b'1,12,"x\n' + b"2,12,y\n" * 500)
    with pytest.raises(OSError, match="a quote is not closed"):
        list(filter_rows(path, 1, ["12"]))


@pytest.mark.parametrize("cut", [1, 9, 100])
def test_a_compressed_table_cut_short_is_said(write, cut):
    path, _ = write([b"%d,12,%d\n" % (i, i * i) for i in range(300)])
    if path.suffix == ".gz":
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(OSError):
            list(filter_rows(path, 1, ["12"]))


def test_only_short_keys_can_be_compared():
    assert can_filter(["12345678", ""])
    assert not can_filter(["123456789"])
