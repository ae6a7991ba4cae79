"""The published tables of MIMIC-IV v2.2: where they lie, their columns, and how to read them.

Large tables (``labevents``: 118 million rows) are never held whole: `read_rows` and `scan_rows`
stream a file once, plain or gzipped, and keep the columns and rows asked for. `scan_rows` does not
even parse the rows of other patients (see `row_filter`); `mimic.load_hospital` reads everything and
reports what is wrong with them.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
from polars.io.plugins import register_io_source

from histofuse.core.errors import Fault, FaultList, InputError, collect_faults
from histofuse.core.tables import parse_columns
from histofuse.data.row_filter import can_filter, filter_rows

Keep = Mapping[str, Collection[int] | Collection[str]]

DATETIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S"

LAYOUT_REMEDY: Final = (
    "Let data.mimiciv in params.yaml name the folder that holds hosp/, as PhysioNet lays it out; "
    "or run dvc repro, which simulates one."
)
DAMAGE_REMEDY: Final = "Fetch it again and compare it with the publisher's SHA256SUMS.txt."


@dataclass(frozen=True)
class Schema:
    """The columns of a published table.

    Attributes:
        columns: Column name to ``int``, ``float``, ``str``, ``datetime`` or ``date``, in the
            published order.
        required: Columns that are never null.
    """

    columns: Mapping[str, str]
    required: frozenset[str]


def _parse_schema(text: str) -> Schema:
    """Parse words as `parse_columns` does; ``!`` ends a required one."""
    required = (word.partition(":")[0].rstrip("!") for word in text.split() if word[-1] == "!")
    return Schema(parse_columns(text.replace("!", "")), frozenset(required))


# ICD codes, GSN and NDC are strings: their leading zeros mean something.
TABLES: Final[Mapping[str, Schema]] = {
    "patients": _parse_schema(
        "subject_id:int! gender! anchor_age:int! anchor_year:int! anchor_year_group dod:date"
    ),
    "admissions": _parse_schema(
        "subject_id:int! hadm_id:int! admittime:datetime! dischtime:datetime! deathtime:datetime "
        "admission_type admit_provider_id admission_location discharge_location insurance "
        "language marital_status race edregtime:datetime edouttime:datetime "
        "hospital_expire_flag:int!"
    ),
    "diagnoses_icd": _parse_schema(
        "subject_id:int! hadm_id:int! seq_num:int icd_code! icd_version:int!"
    ),
    "labevents": _parse_schema(
        "labevent_id:int subject_id:int! hadm_id:int specimen_id:int itemid:int! "
        "order_provider_id charttime:datetime! storetime:datetime value valuenum:float valueuom "
        "ref_range_lower:float ref_range_upper:float flag priority comments"
    ),
    "prescriptions": _parse_schema(
        "subject_id:int! hadm_id:int! pharmacy_id:int poe_id poe_seq:int order_provider_id "
        "starttime:datetime stoptime:datetime drug_type drug formulary_drug_cd gsn ndc "
        "prod_strength form_rx dose_val_rx dose_unit_rx form_val_disp form_unit_disp "
        "doses_per_24_hrs:float route"
    ),
    "d_labitems": _parse_schema("itemid:int! label fluid category"),
    "d_icd_diagnoses": _parse_schema("icd_code! icd_version:int! long_title"),
}
_PATIENT: Final = "subject_id"


def find_table(root: Path, table: str) -> Path:
    """Find a table's file: ``hosp/<table>.csv.gz``, else ``hosp/<table>.csv``.

    Raises:
        InputError: If neither is there.
    """
    published = root / "hosp" / f"{table}.csv.gz"
    for path in (published, published.with_suffix("")):
        if path.is_file():
            return path
    raise InputError([Fault(published, "no such file", f"the table {table}", LAYOUT_REMEDY)])


def scan_rows(
    root: Path, table: str, columns: Sequence[str], keep: Keep | None = None
) -> pl.LazyFrame:
    """Scan a table lazily, for an aggregation that streams: ``collect_rows(scan, path)`` runs it.

    Args:
        root: The folder that holds ``hosp/``.
        table: A name of `TABLES`.
        columns: The columns wanted, in this order, typed as in its `Schema`.
        keep: Column to wanted values; a row stays if it has a wanted value in each of them.

    Raises:
        InputError: If the file or a column is missing.
    """
    with collect_faults() as faults:
        path = check_file(root, table, faults)
    assert path is not None
    kinds = TABLES[table].columns
    return _scan_filtered(path, keep or {}).select(
        _parse(name, kinds[name], strict=True) for name in columns
    )


def collect_rows(rows: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Run a scan with the streaming engine; faults of the file become an `InputError` naming it.

    Raises:
        InputError: If the file is cut short, damaged, or holds a cell that does not parse.
    """
    with collect_faults() as faults:
        collected = collect(rows, path, faults)
    assert collected is not None
    return collected


def read_rows(
    root: Path, table: str, columns: Sequence[str], keep: Keep | None = None
) -> pl.DataFrame:
    """Stream through a table once and return the wanted columns of the wanted rows.

    Arguments as of `scan_rows`. Memory grows with the rows that stay, not with the file. Null cells
    stay null.

    Returns:
        The rows in the order of the file.

    Raises:
        InputError: If the file or columns are missing, the file is cut short or damaged, or with
            every column that holds cells that do not parse (line, value, how many).
    """
    with collect_faults() as faults:
        path = check_file(root, table, faults)
    assert path is not None
    text = collect_rows(scan_text(path, keep, number=True).select("line", *columns), path)
    with collect_faults() as faults:
        return parse_table(text, table, path, faults)


def check_file(root: Path, table: str, faults: FaultList) -> Path | None:
    """Check that a table is there with all its columns; None if it cannot be read further."""
    try:
        path = find_table(root, table)
        header = _read_header(path)
    except InputError as error:
        faults.faults += error.faults
        return None
    missing = [name for name in TABLES[table].columns if name not in header]
    if missing:
        problem = f"no column {', '.join(map(repr, missing))}"
        faults.add(path, problem, f"the columns of MIMIC-IV v2.2's {table}", DAMAGE_REMEDY)
        return None
    return path


def _read_header(path: Path) -> list[str]:
    try:
        with _open_text(path) as file:
            line = file.readline()
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise InputError([_damage(path, error)]) from None
    if not line.strip():
        raise InputError([Fault(path, "empty", "a CSV table with a header", DAMAGE_REMEDY)])
    return next(csv.reader([line]))


def _open_text(path: Path):
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open("r", encoding="utf-8", newline="")


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def scan_text(path: Path, keep: Keep | None = None, *, number: bool = False) -> pl.LazyFrame:
    """Scan all columns as text, keeping the wanted rows; ``line`` counts from the header's 1."""
    name = "line" if number else None
    rows = pl.scan_csv(path, infer_schema=False, row_index_name=name, row_index_offset=2)
    return _keep_wanted(rows, keep or {})


def _scan_filtered(path: Path, keep: Keep) -> pl.LazyFrame:
    """Scan as `scan_text` does, but leave most rows of other patients out before parsing."""
    header = _read_header(path)
    subjects = [str(value) for value in keep.get(_PATIENT, ())]
    if _PATIENT not in keep or not can_filter(subjects):
        return scan_text(path, keep)

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, _rows: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        texts = filter_rows(path, header.index(_PATIENT), subjects)
        names = next(texts)
        for text in texts:
            rows = pl.scan_csv(names + text, infer_schema=False).select(columns or header)
            yield (rows if predicate is None else rows.filter(predicate)).collect()

    rows = register_io_source(read, schema=dict.fromkeys(header, pl.String))
    return _keep_wanted(rows, keep)


def _keep_wanted(rows: pl.LazyFrame, keep: Keep) -> pl.LazyFrame:
    for column, values in keep.items():
        rows = rows.filter(pl.col(column).is_in(sorted({str(value) for value in values})))
    return rows


def collect(rows: pl.LazyFrame, path: Path, faults: FaultList) -> pl.DataFrame | None:
    """Run a scan with the streaming engine; note what is wrong with the file and return None."""
    try:
        # Plain text has no checksum: a file cut short shows only in its unfinished last line.
        if path.suffix != ".gz" and not _ends_in_newline(path):
            raise OSError("the last line is unfinished")
        return rows.collect(engine="streaming")
    except pl.exceptions.InvalidOperationError as error:
        faults.add(path, str(error).splitlines()[0], "values as MIMIC-IV v2.2 writes them")
    except (OSError, pl.exceptions.PolarsError) as error:
        faults.faults.append(_damage(path, error))
    return None


def _damage(path: Path, error: Exception) -> Fault:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return Fault(path, f"cut short or damaged ({reason})", "the whole file", DAMAGE_REMEDY)


def _parse(name: str, kind: str, *, strict: bool) -> pl.Expr:
    column = pl.col(name)
    match kind:
        case "int":
            return column.cast(pl.Int64, strict=strict)
        case "float":
            return column.cast(pl.Float64, strict=strict)
        case "datetime":
            return column.str.to_datetime(DATETIME_FORMAT, strict=strict)
        case "date":
            # The full release writes dod as a date; earlier ones add a midnight to it.
            return column.str.head(10).str.to_date("%Y-%m-%d", strict=strict)
        case _:
            return column


def parse_table(text: pl.DataFrame, table: str, path: Path, faults: FaultList) -> pl.DataFrame:
    """Type the columns of a text table that has a ``line`` column; note what does not parse."""
    schema = TABLES[table]
    names = [name for name in text.columns if name != "line"]
    parsed = text.select(_parse(name, schema.columns[name], strict=False) for name in names)
    for name in names:
        bad = parsed[name].is_null() & text[name].is_not_null()
        expected = _EXPECTED[schema.columns[name]]
        _note_cells(text, bad, str(path), name, expected=expected, faults=faults)
        if name in schema.required:
            empty = text[name].is_null()
            _note_cells(text, empty, str(path), name, expected=expected, faults=faults)
    return parsed


_EXPECTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "datetime": "YYYY-MM-DD HH:MM:SS",
    "date": "YYYY-MM-DD",
    "str": "a value",
}


def _note_cells(
    text: pl.DataFrame, bad: pl.Series, where: str, name: str, *, expected: str, faults: FaultList
) -> None:
    """Note the cells of a column that are bad: the first with its line, and how many there are."""
    if not bad.any():
        return
    first = text.row(int(bad.arg_max() or 0), named=True)
    more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
    found = "empty" if first[name] is None else f"is {first[name]!r}"
    faults.add(f"{where}, line {first['line']}, {name}", f"{found}{more}", expected)
