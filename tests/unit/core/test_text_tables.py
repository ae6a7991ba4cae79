from datetime import date, datetime

import polars as pl
import pytest

from histofuse.core.errors import InputError
from histofuse.core.text_tables import (
    GOOD,
    MISSING_WORD,
    READERS,
    UNREADABLE,
    clean_text,
    judge,
    read_csv_text,
)

NOON = datetime(2180, 5, 6, 12)
WORDS = ["NULL", "NA", "None", "nan", "N/A", "null", "\\N", "<NA>", "NaT", " na ", "#N/A"]
WORDS += ["(null)", "[NULL]", "<null>", "#NULL!", ".", "-", "Missing"]


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("int", "50912", 50912),
        ("int", "050912", 50912),
        ("int", "50912.0", 50912),
        ("int", "1.0e5", 100_000),
        ("int", " 5 ", 5),
        ("float", "2.50", 2.5),
        ("float", " 1e3", 1000.0),
        ("datetime", "2180-05-06 12:00:00", NOON),
        ("datetime", "2180/05/06 12:00", NOON),
        ("datetime", "2180-5-6T12:00:00Z", NOON),
        ("datetime", "2180-05-06 12:00:00.750", NOON),
        ("datetime", "2180.05.06", datetime(2180, 5, 6)),
        ("date", "2180-05-06", date(2180, 5, 6)),
        ("date", "2180-05-06 00:00:00", date(2180, 5, 6)),
        ("str", " White ", "White"),
    ],
)
def test_spellings_of_one_value_are_read_as_it(kind, cell, value):
    cells = pl.Series("x", [cell, None])
    assert READERS[kind][0](cells).to_list() == [value, None]
    assert judge(cells, kind).to_list() == [GOOD, GOOD]


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        ("int", "50912.5"),
        ("int", "1e308"),
        ("int", "9007199254740993.0"),
        ("int", "true"),
        ("id", "-1"),
        ("id", "0"),
        ("flag", "2"),
        ("flag", "Y"),
        ("datetime", "1900-01-01"),
        ("datetime", "9999-12-31 00:00:00"),
        ("date", "1970-01-01"),
        ("float", "1,5"),
        ("float", "inf"),
        ("float", "1e999"),
        ("float", "true"),
        ("datetime", "06.05.2180"),
        ("datetime", "06-05-08 12:00:00"),
        ("datetime", "05/06/2180 12:00:00"),
        ("datetime", "2180-13-06"),
        ("datetime", "2180-05-06 12:00:00+02:00"),
        ("date", "2180-05-061"),
        ("date", "180-05-06"),
    ],
)
def test_what_could_mean_something_else_is_unreadable(kind, cell):
    cells = pl.Series("x", [cell])
    assert READERS[kind][0](cells).to_list() == [None]
    assert judge(cells, kind).to_list() == [UNREADABLE]


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("word", WORDS)
def test_words_for_missing_are_the_same_in_every_kind(kind, word):
    cells = pl.Series("x", [word, "", "  ", None])
    assert READERS[kind][0](cells).null_count() == 4
    assert judge(cells, kind).to_list() == [MISSING_WORD, GOOD, GOOD, GOOD]


def test_text_that_only_holds_such_a_word_stays():
    cells = pl.Series(["NAUSEA", "Nonet", "?", "UNKNOWN", "N/A or none"])
    assert clean_text(cells).equals(cells)
    often = pl.Series(["White", " NULL", "White", "White ", None, "White"] * 3)
    assert clean_text(often).to_list() == ["White", None, "White", "White", None, "White"] * 3


def read(tmp_path, raw):
    path = tmp_path / "links.csv"
    path.write_bytes(raw)
    return read_csv_text(path, ["a", "b"], "a CSV of a, b")


@pytest.mark.parametrize(
    "raw",
    [
        b"a,b\n1,NA\n2,\n",
        b"\xef\xbb\xbfa,b\r\n1,NA\r\n2,\r\n",
        b"B,c,A \nNA,9, 1\n,9,2",
        b'"a","b"\n1,NA\n2\n',
    ],
)
def test_a_csv_is_read_whatever_wrote_it(tmp_path, raw):
    table = read(tmp_path, raw)
    assert table.select("line", "a", "b").rows() == [(2, "1", "NA"), (3, "2", None)]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text"),
        (b"a,b\n\xff,2\n", "is not UTF-8 text"),
        (b"a,c\n1,2\n", "no column 'b'"),
        (b"a,b,a\n1,2,3\n", "column 'a' more than once"),
        (b"a;b\n1;2\n", "Separate the columns with commas, not with ';'"),
        (b"a,b\r1,2\r", "carriage returns alone"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells under 2 columns"),
        (b"", "is empty"),
        (b"\na,b\n1,2\n", "an empty line in place of a header"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_with_the_reason(tmp_path, raw, problem):
    with pytest.raises(InputError, match=problem):
        read(tmp_path, raw)
