"""The published tables of MIMIC-IV: where they lie, their columns, and how to read them.

Only the columns that are used are asked for, in any order, so earlier and later releases are read
too. Large tables (``labevents``: 118 million rows) are never held whole: `read_rows` and
`scan_rows` stream a file, plain or gzipped, and keep the columns and rows asked for. `scan_rows`
does not even parse the rows of other patients (`row_filter`); `mimic.load_hospital` reports their
faults.
"""

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl
from polars.io.plugins import register_io_source

from histofuse.core.errors import Fault, FaultList, InputError, collect_faults
from histofuse.core.tables import parse_columns
from histofuse.core.text_tables import (
    MISSING_WORD,
    READERS,
    UNREADABLE,
    find_bad_row,
    judge,
    parse_header,
)
from histofuse.data.row_filter import can_filter, filter_rows

Keep = Mapping[str, Collection[int] | Collection[str]]

LAYOUT_REMEDY: Final = (
    "Let data.records.path in params.yaml name the folder that holds hosp/, as PhysioNet lays it "
    "out; or run dvc repro, which simulates one."
)
_LONGEST_HEADER: Final = 1 << 20
DAMAGE_REMEDY: Final = "Fetch it again and compare it with the publisher's SHA256SUMS.txt."


@dataclass(frozen=True)
class Schema:
    """The columns of a published table."""

    # column name to its kind, a key of `READERS`, in the published order
    columns: Mapping[str, str]
    used: tuple[str, ...]  # columns that are read; a file may lack the others
    required: frozenset[str]  # columns that are never null


def _parse_schema(text: str) -> Schema:
    """Parse words as `parse_columns` does; ``!`` ends required ones, ``-`` those not used."""
    columns = parse_columns(text.replace("!", "").replace("-", ""))
    ends = {word.partition(":")[0].rstrip("!-"): word[-1] for word in text.split()}
    used = tuple(name for name in columns if ends[name] != "-")
    return Schema(columns, used, frozenset(name for name in columns if ends[name] == "!"))


# ICD codes, GSN and NDC are strings: their leading zeros mean something.
TABLES: Final[Mapping[str, Schema]] = {
    "patients": _parse_schema(
        "subject_id:id! gender! anchor_age:int! anchor_year:id! anchor_year_group- dod:date"
    ),
    "admissions": _parse_schema(
        "subject_id:id! hadm_id:id! admittime:datetime! dischtime:datetime! deathtime:datetime "
        "admission_type admit_provider_id- admission_location discharge_location insurance "
        "language marital_status race edregtime:datetime edouttime:datetime- "
        "hospital_expire_flag:flag!"
    ),
    "diagnoses_icd": _parse_schema(
        "subject_id:id! hadm_id:id! seq_num:id icd_code! icd_version:int!"
    ),
    "labevents": _parse_schema(
        "labevent_id:int- subject_id:id! hadm_id:id specimen_id:int- itemid:id! "
        "order_provider_id- charttime:datetime! storetime:datetime value- valuenum:float valueuom "
        "ref_range_lower:float- ref_range_upper:float- flag- priority- comments-"
    ),
    "prescriptions": _parse_schema(
        "subject_id:id! hadm_id:id- pharmacy_id:int- poe_id- poe_seq:int- order_provider_id- "
        "starttime:datetime stoptime:datetime- drug_type drug formulary_drug_cd- gsn- ndc- "
        "prod_strength- form_rx- dose_val_rx- dose_unit_rx- form_val_disp- form_unit_disp- "
        "doses_per_24_hrs:float- route"
    ),
    "d_labitems": _parse_schema("itemid:id! label fluid category"),
    "d_icd_diagnoses": _parse_schema("icd_code! icd_version:int! long_title"),
}
_PATIENT: Final = "subject_id"
# A row of these with a comma too many is not told from others: all their cells would take as long
# to read again. Its unit is an unknown one.
_NARROWLY_READ: Final = ("labevents",)


@dataclass(frozen=True)
class Survey:
    """What a table holds."""

    rows: int
    # used column to the number of cells that hold a word for "missing", such as NULL
    words: Mapping[str, int]


def find_table(root: Path, table: str) -> Path:
    """Find ``hosp/<table>.csv.gz``, else ``hosp/<table>.csv``; InputError if neither is there."""
    published = root / "hosp" / f"{table}.csv.gz"
    for path in (published, published.with_suffix("")):
        if path.is_file():
            return path
    raise InputError.of(published, "no such file", f"the table {table}", LAYOUT_REMEDY)


def scan_rows(
    root: Path, table: str, columns: Sequence[str], keep: Keep | None = None
) -> pl.LazyFrame:
    """Scan columns of a table lazily, in this order; ``collect_rows(scan, path)`` runs it.

    `keep` maps columns to wanted values: a row stays if it has one in each of them. Raises
    InputError if the file or a column is missing.
    """
    keep = keep or {}
    path, header = _open_table(root, table, [*columns, *keep])
    if _PATIENT in keep and can_filter([str(value) for value in keep[_PATIENT]]):
        return _scan_filtered(path, header, table, columns, keep)
    rows = _keep_wanted(_scan_text(path, header), table, keep)
    return rows.select(pl.col(c) if c in keep else _read(c, table) for c in columns)


def collect_rows(rows: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Run a scan with the streaming engine; faults of the file become an InputError naming it."""
    with collect_faults() as faults:
        collected = _collect(rows, path, faults)
    assert collected is not None
    return collected


def read_rows(
    root: Path, table: str, columns: Sequence[str], keep: Keep | None = None
) -> pl.DataFrame:
    """Stream through a table once and return the wanted columns of the wanted rows.

    Arguments as of `scan_rows`. Rows are in the order of the file; memory grows with those that
    stay. Missing cells are null, text is stripped of blanks. Raises InputError if the file or
    columns are missing, the file is damaged, or with every column that holds cells that do not
    parse.
    """
    keep = keep or {}
    path, header = _open_table(root, table, [*columns, *keep])
    rows = _keep_wanted(_scan_text(path, header, number=True), table, keep)
    text = collect_rows(rows.select("line", *columns), path)
    with collect_faults() as faults:
        for name in (column for column in columns if column not in keep):
            bad = text.select("line", name).filter(_judge(text[name], table) == UNREADABLE)
            if bad.height:
                faults.faults.append(_describe_cell(path, table, name, bad.row(0), bad.height))
    return text.select(pl.col(c) if c in keep else _read(c, table) for c in columns)


def read_used(root: Path, table: str) -> pl.DataFrame:
    """Read a surveyed table whole: ``line`` and the used columns; unreadable cells are null."""
    columns = TABLES[table].used
    path, header = _open_table(root, table, columns)
    text = collect_rows(_scan_text(path, header, number=True).select("line", *columns), path)
    kinds = TABLES[table].columns
    return text.select("line").with_columns(READERS[kinds[n]][0](text[n]) for n in columns)


def survey_table(root: Path, table: str, faults: FaultList) -> Survey | None:
    """Read the used columns of a table through and note all that is wrong with them.

    A column with cells that do not parse is noted with the first line, its cell, and how many. None
    if the file cannot be read at all.
    """
    columns = TABLES[table].used
    try:
        path, header = _open_table(root, table, columns)
    except InputError as error:
        faults.faults += error.faults
        return None
    judged = partial(_judge, table=table)
    verdicts = {
        name: pl.col(name).map_batches(judged, return_dtype=pl.UInt8, is_elementwise=True)
        for name in columns
    }
    counts = [
        (pl.col(name) == verdict).sum().alias(f"{name} {verdict}")
        for name in columns
        for verdict in (MISSING_WORD, UNREADABLE)
    ]
    # Polars finds rows that are too long only if it reads all cells.
    others = [] if table in _NARROWLY_READ else [name for name in header if name not in columns]
    cells = _scan_text(path, header).select(*verdicts.values(), *others)
    lengths = [pl.len().alias("rows"), *(pl.col(name).count() for name in others)]
    counted = _collect(cells.select(*lengths, *counts), path, faults)
    if counted is None:
        return None
    numbers = counted.row(0, named=True)
    text = _scan_text(path, header, number=True)
    for name in columns:
        if bad := numbers[f"{name} {UNREADABLE}"]:
            worst = text.select("line", name).filter(verdicts[name] == UNREADABLE).head(1)
            first = collect_rows(worst, path).row(0)
            faults.faults.append(_describe_cell(path, table, name, first, count=bad))
    words = {name: numbers[f"{name} {MISSING_WORD}"] for name in columns}
    return Survey(numbers["rows"], {name: count for name, count in words.items() if count})


def _judge(cells: pl.Series, table: str) -> pl.Series:
    """As `judge`, and a required cell that is missing is unreadable."""
    schema = TABLES[table]
    verdict = judge(cells, schema.columns[cells.name])
    if cells.name not in schema.required:
        return verdict
    empty = cells.is_null() | (cells.str.strip_chars() == "")
    return verdict.set(empty | (verdict == MISSING_WORD), UNREADABLE)


def _describe_cell(
    path: Path, table: str, name: str, first: tuple[int, str | None], count: int
) -> Fault:
    """Describe a column's bad cells: the line and content of the first, and how many there are."""
    line, cell = first
    more = f" ({count} such rows)" if count > 1 else ""
    problem = "empty" if cell is None else f"is {cell!r}"
    expected = READERS[TABLES[table].columns[name]][2]
    return Fault(f"{path}, line {line}, {name}", f"{problem}{more}", expected)


def _open_table(root: Path, table: str, columns: Collection[str]) -> tuple[Path, list[str]]:
    """Find a table and read its header; InputError if it is no CSV in UTF-8 or lacks a column."""
    path = find_table(root, table)
    expected = f"the columns of MIMIC-IV's {table}"
    with collect_faults() as faults:
        header = _read_header(path, columns, expected, faults)
        if header and path.suffix != ".gz" and _is_cut_short(path, len(header)):
            faults.faults.append(_damage(path, OSError("the last line is unfinished")))
    return path, header


def _read_header(
    path: Path, columns: Collection[str], expected: str, faults: FaultList
) -> list[str]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
        if line.strip():
            return parse_header(line, columns, path, expected, faults)
        faults.add(path, "empty", "a CSV table with a header", DAMAGE_REMEDY)
    except (EOFError, OSError, zlib.error) as error:
        faults.faults.append(_damage(path, error))
    except ValueError as error:
        faults.add(path, str(error), "a CSV table in UTF-8, lines ended by line feeds")
    return []


def _is_cut_short(path: Path, width: int) -> bool:
    """Tell whether the last line of a plain file, if it has no end, lacks cells.

    Plain text has no checksum: a file cut short shows only there.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_HEADER))
        last = file.read().rpartition(b"\n")[2].decode("utf-8", "replace")
    return bool(last) and len(next(csv.reader([last]))) < width


def _scan_text(path: Path, header: list[str], *, number: bool = False) -> pl.LazyFrame:
    """Scan all columns as text; ``line`` counts from the header's 1."""
    name = "line" if number else None
    return pl.scan_csv(
        path, infer_schema=False, new_columns=header, row_index_name=name, row_index_offset=2
    )


def _scan_filtered(
    path: Path, header: list[str], table: str, columns: Sequence[str], keep: Keep
) -> pl.LazyFrame:
    """Scan the wanted rows of some patients, and leave most of the others out before parsing."""
    subjects = [str(value) for value in keep[_PATIENT]]
    needed = list(dict.fromkeys([*keep, *columns]))

    def read(
        chosen: list[str] | None, predicate: pl.Expr | None, _rows: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        texts = filter_rows(path, header.index(_PATIENT), subjects)
        names = next(texts)
        for text in texts:
            cells = pl.scan_csv(names + text, infer_schema=False, new_columns=header)
            rows = _read_wanted(cells.select(needed).collect(), table, keep)
            rows = rows.select(chosen or columns)
            yield rows if predicate is None else rows.filter(predicate)

    kinds = {name: READERS[TABLES[table].columns[name]][1] for name in columns}
    return register_io_source(read, schema=kinds)


def _read_wanted(cells: pl.DataFrame, table: str, keep: Keep) -> pl.DataFrame:
    """Read the cells of the wanted rows, those that decide first."""
    rows = cells.with_columns(_read_strictly(cells[name], table) for name in keep)
    rows = rows.filter(pl.col(c).is_in(sorted(set(values))) for c, values in keep.items())
    rest = [name for name in rows.columns if name not in keep]
    return rows.with_columns(_read_strictly(rows[name], table) for name in rest)


def _keep_wanted(rows: pl.LazyFrame, table: str, keep: Keep) -> pl.LazyFrame:
    """Keep the wanted rows; the columns that decide come out typed, the others as text."""
    if not keep:
        return rows  # polars cannot stream a filter without a condition
    rows = rows.with_columns(_read(column, table) for column in keep)
    return rows.filter(pl.col(c).is_in(sorted(set(values))) for c, values in keep.items())


def _collect(rows: pl.LazyFrame, path: Path, faults: FaultList) -> pl.DataFrame | None:
    """Run a scan with the streaming engine; note what is wrong with the file and return None."""
    try:
        return rows.collect(engine="streaming")
    except pl.exceptions.InvalidOperationError as error:
        faults.add(path, str(error).splitlines()[0], "values as MIMIC-IV writes them")
    except pl.exceptions.PolarsError as error:
        faults.faults.append(find_bad_row(path) or _damage(path, error))
    except OSError as error:
        faults.faults.append(_damage(path, error))
    return None


def _damage(path: Path, error: Exception) -> Fault:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Fault(path, f"cut short or damaged ({reason})", "the whole file", DAMAGE_REMEDY)


def _read(name: str, table: str) -> pl.Expr:
    """Read the cells of a column; one that cannot be read is an error."""
    kind = READERS[TABLES[table].columns[name]][1]
    read = partial(_read_strictly, table=table)
    return pl.col(name).map_batches(read, return_dtype=kind, is_elementwise=True)


def _read_strictly(cells: pl.Series, table: str) -> pl.Series:
    kind = TABLES[table].columns[cells.name]
    read = READERS[kind][0](cells)
    if kind == "str" or read.null_count() == cells.null_count():
        return read
    if (bad := judge(cells, kind) == UNREADABLE).any():
        shown = cells.filter(bad).head(3).to_list()
        raise pl.exceptions.InvalidOperationError(f"{cells.name} is {shown}")
    return read
