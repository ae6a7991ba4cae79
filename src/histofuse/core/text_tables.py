"""CSV tables that others wrote: the header, what means "missing", and how numbers are spelt.

Each reader of cells takes text and returns null for a cell that is missing or cannot be read;
`judge` tells the two apart. Tables as published take the short way, a single cast.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Final

import polars as pl

from histofuse.core.artifacts import decode_text
from histofuse.core.errors import Fault, FaultList, collect_faults
from histofuse.core.naming import show_count

# Lower case. The one list for every column of every table; names of cases and frames, which may be
# any text, are not held against it.
MISSING_WORDS: Final = frozenset(
    {"", "null", "na", "n/a", "#n/a", "#na", "none", "nil", "nan", "-nan", "nat", "<na>", "\\n"}
    | {"(null)", "[null]", "<null>", "#null!", "missing", ".", "-"}
)
DATETIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S"

GOOD, MISSING_WORD, UNREADABLE = 0, 1, 2

# What begins or ends a calendar, such as 1900-01-01 and 9999-12-31, stands for "not known".
_MOMENTS: Final = (datetime(1971, 1, 1), datetime(2500, 1, 1))
# What is named like a table, but was saved as something else, by how it begins.
_OTHER_FILES: Final = [
    (re.compile(start), kind)
    for start, kind in {
        rb"(?i)\s*<(!|\?xml|html|head|body|table|svg)": "a page of HTML or XML",
        rb"\s*(\{|\[\s*([\[{\"\d-]|$))": "JSON",
        rb"PK\x03\x04": "a ZIP archive, as .xlsx files are",
        rb"\xd0\xcf\x11\xe0": "a file of an old Office program, as .xls files are",
        rb"PAR1": "Parquet, but not named .parquet",
        rb"%PDF": "a PDF",
        rb"\x89PNG|\xff\xd8\xff|II\*\0|MM\0\*": "a picture",
        rb"\x1f\x8b": "compressed by gzip",
    }.items()
]
_MOST_LISTED: Final = 20  # rows of wrong lengths, where they are most of a file
_LARGEST_EXACT: Final = 2.0**53  # float64 holds every whole number below
# The year comes first, so that day and month cannot be taken for each other.
_MOMENT: Final = (
    r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"
    r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(?:Z|UTC|\+00:?00)?)?$"
)


def clean_text(cells: pl.Series) -> pl.Series:
    """Strip blanks; a missing word becomes null."""
    distinct = cells.unique()
    if 4 * distinct.len() > cells.len():
        return _clean_each(cells)
    cleaned = _clean_each(distinct)
    changed = cleaned.ne_missing(distinct)
    return cells.replace(distinct.filter(changed), cleaned.filter(changed))


def _clean_each(cells: pl.Series) -> pl.Series:
    text = cells.str.strip_chars()
    missing = text.str.to_lowercase().is_in(list(MISSING_WORDS))
    return text.set(missing, None) if missing.any() else text


def read_whole_numbers(cells: pl.Series) -> pl.Series:
    """Read whole numbers; 50912, 050912, 50912.0 and 5.0912e4 are one."""
    plain = cells.cast(pl.Int64, strict=False)
    if plain.null_count() == cells.null_count():
        return plain
    number = clean_text(cells).cast(pl.Float64, strict=False)
    exact = (number == number.floor()) & (number.abs() < _LARGEST_EXACT)
    return plain.zip_with(plain.is_not_null(), number.set(~exact, None).cast(pl.Int64))


def read_ids(cells: pl.Series) -> pl.Series:
    """Read whole numbers from 1: zero and negative ones stand for "not known"."""
    numbers = read_whole_numbers(cells)
    return numbers.set(numbers < 1, None) if (numbers < 1).any() else numbers


def read_flags(cells: pl.Series) -> pl.Series:
    """Read 0 and 1."""
    numbers = read_whole_numbers(cells)
    return numbers.set(~numbers.is_between(0, 1), None)


def read_numbers(cells: pl.Series) -> pl.Series:
    """Read finite numbers, a point before the decimals."""
    plain = cells.cast(pl.Float64, strict=False)
    if plain.null_count() < cells.len() and not plain.is_finite().all():
        plain = plain.set(~plain.is_finite(), None)
    if plain.null_count() == cells.null_count():
        return plain
    number = clean_text(cells).cast(pl.Float64, strict=False)
    return number.set(~number.is_finite(), None)


def read_moments(cells: pl.Series) -> pl.Series:
    """Read dates with or without a time, year first; fractions of seconds are cut off."""
    plain = cells.str.to_datetime(DATETIME_FORMAT, strict=False)
    if plain.null_count() == cells.null_count() and plain.is_between(*_MOMENTS).all():
        return plain
    text = clean_text(cells).str.replace(_MOMENT, "$1-$2-$3 ${4}:${5}:${6}")
    text = text.str.replace(" ::$", " 0:00:00").str.replace(":$", ":00")
    moments = text.str.to_datetime(DATETIME_FORMAT, strict=False)
    return moments.set(~moments.is_between(*_MOMENTS), None)


def read_dates(cells: pl.Series) -> pl.Series:
    """Read dates, with a midnight after them or without."""
    return read_moments(cells).dt.date()


READERS: Final[Mapping[str, tuple[Callable[[pl.Series], pl.Series], pl.DataType, str]]] = {
    "int": (read_whole_numbers, pl.Int64(), "a whole number"),
    "id": (read_ids, pl.Int64(), "a whole number from 1"),
    "flag": (read_flags, pl.Int64(), "0 or 1"),
    "float": (read_numbers, pl.Float64(), "a finite number"),
    "datetime": (read_moments, pl.Datetime("us"), "YYYY-MM-DD HH:MM:SS, from 1971 to 2499"),
    "date": (read_dates, pl.Date(), "YYYY-MM-DD, from 1971 to 2499"),
    "str": (clean_text, pl.String(), "a value"),
}


def judge(cells: pl.Series, kind: str) -> pl.Series:
    """Tell for each cell of a kind whether it is `GOOD`, a `MISSING_WORD` or `UNREADABLE`."""
    read = READERS[kind][0](cells)
    if read.null_count() == cells.null_count():
        return pl.Series(cells.name, [GOOD], dtype=pl.UInt8).new_from_index(0, cells.len())
    missing = (read if kind == "str" else clean_text(cells)).is_null()
    word = missing & (cells.str.strip_chars() != "").fill_null(False)
    unreadable = read.is_null() & ~missing
    return word.cast(pl.UInt8) * MISSING_WORD + unreadable.cast(pl.UInt8) * UNREADABLE


def parse_header(
    line: bytes,
    wanted: Collection[str],
    where: str | Path,
    expected: str,
    faults: FaultList,
    *,
    separator: str = ",",
) -> list[str]:
    """Read the names of columns, in lower case; note wanted ones that lack, and repeated ones.

    Raises ValueError if the line is empty, not UTF-8, not CSV, or begins another kind of file.
    """
    if kind := next((kind for start, kind in _OTHER_FILES if start.match(line)), ""):
        raise ValueError(f"is {kind}")
    text = decode_text(line)
    if not text.strip():
        raise ValueError("has an empty line in place of a header" if line else "is empty")
    if "\r" in text.rstrip("\r\n"):
        raise ValueError("ends its lines with carriage returns alone")
    try:
        cells = next(csv.reader(io.StringIO(text), delimiter=separator), [])
    except csv.Error as error:
        raise ValueError(f"is not CSV ({error})") from None
    names = [cell.strip().lower() or f"unnamed {n}" for n, cell in enumerate(cells)]
    lacking = ", ".join(repr(name) for name in wanted if name not in names)
    repeated = ", ".join(repr(n) for n, count in Counter(names).items() if count > 1)
    other = next((s for s in ",;\t|" if len(names) == 1 and s != separator and s in text), "")
    if other:
        meant = {",": "commas", "\t": "tabs"}[separator]
        remedy = f"Separate the columns with {meant}, not with {other!r}."
        faults.add(where, "one column", expected, remedy)
    elif lacking:
        faults.add(where, f"no column {lacking}", expected)
    if repeated:
        faults.add(where, f"column {repeated} more than once", "each column once")
    return names


def find_bad_row(path: Path) -> Fault | None:
    """Find the first row that is not UTF-8, or has more cells than the header."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        reader = csv.reader(line.decode() for line in file)
        try:
            width = len(next(reader))
            long = next(len(row) for row in reader if len(row) > width)
        except UnicodeDecodeError:
            where = f"{path}, line {reader.line_num + 1}"
            return Fault(where, "is not UTF-8 text", "UTF-8", "Save the table in UTF-8.")
        except (StopIteration, csv.Error, EOFError, OSError, zlib.error):
            return None
    problem = f"{show_count(long, 'cells')} under {show_count(width, 'columns')}"
    remedy = "Put cells that hold a comma between quotes."
    return Fault(f"{path}, line {reader.line_num}", problem, "a row as long as the header", remedy)


def read_csv_text(
    path: Path, required: Sequence[str], expected: str, separator: str = ","
) -> pl.DataFrame:
    """Read a small CSV file whole: stripped text, and ``line``, where each row ends.

    Names of columns are in lower case, further ones allowed, blank lines passed over, as are lines
    above the header that begin with ``#``. A cell that is not there is null; words that mean
    "missing" stay, for a name may be any text. Between tabs, quotes are quotes. InputError lists
    each column that lacks or comes twice, and each row with more cells than the header.
    """
    with collect_faults() as faults:
        header, rows = _read_cells(path, required, expected, separator, faults)
        if "line" in header:
            faults.add(path, "a column 'line'", "another name: lines are counted under it")
    width, blank = len(header), [None] * len(header)
    long = [(line, row) for line, row in rows if any(row[width:])]
    with collect_faults() as faults:
        if len(long) > max(_MOST_LISTED, len(rows) // 2):
            problem = f"{len(long):,} of {show_count(rows, 'rows')} are longer than the header"
            faults.add(path, f"{problem}, the first in line {long[0][0]}", expected)
            long = []
        for line, row in long:
            problem = f"{len(row)} cells under {show_count(width, 'columns')}"
            faults.add(f"{path}, line {line}", problem, "a row as long as the header")
    filled = [[line, *(row + blank)[:width]] for line, row in rows if any(row)]
    schema = {"line": pl.Int64} | dict.fromkeys(header, pl.String)
    return pl.DataFrame(filled, schema=schema, orient="row")


def read_comments(raw: bytes) -> list[bytes]:
    """List the lines above a header that begin with ``#``, as cBioPortal writes them."""
    return list(takewhile(lambda line: line.startswith(b"#"), raw.split(b"\n")))


def _read_cells(
    path: Path, required: Sequence[str], expected: str, separator: str, faults: FaultList
) -> tuple[list[str], list[tuple[int, list[str | None]]]]:
    """Read the names of the columns, and each row with its line; empty cells are None."""
    try:
        raw = path.read_bytes()
        above = len(read_comments(raw))
        raw = raw.split(b"\n", above)[-1]
        line, end, _ = raw.partition(b"\n")
        header = parse_header(line + end, required, path, expected, faults, separator=separator)
        quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
        text = io.StringIO(decode_text(raw), newline="")
        reader = csv.reader(text, delimiter=separator, quoting=quoting)
        rows = [(above + reader.line_num, [c.strip() or None for c in row]) for row in reader]
    except FileNotFoundError:
        faults.add(path, "no such file", expected)
    except IsADirectoryError:
        faults.add(path, "is a folder", expected)
    except OSError as error:
        faults.add(path, f"cannot be read ({error.strerror})", expected)
    except (ValueError, csv.Error) as error:
        faults.add(path, str(error), expected)
    else:
        return header, rows[1:]
    return [], []
