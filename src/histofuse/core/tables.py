"""Parquet tables with a checked column contract, which stages exchange, and CSV for people."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from ctypes import CDLL
from dataclasses import dataclass, field, replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

import pandas as pd
from pandas.api import types

from histofuse.core.artifacts import replacing_file
from histofuse.core.errors import FaultList, InputError
from histofuse.core.naming import show_count

_CHECKS: Mapping[str, Callable[[pd.Series], bool]] = {
    "str": types.is_string_dtype,
    "int": types.is_integer_dtype,
    "float": types.is_float_dtype,
    "bool": types.is_bool_dtype,
    "datetime": types.is_datetime64_any_dtype,
}


@dataclass(frozen=True)
class Contract:
    """The columns and key of a table."""

    name: str  # what the rows are, for error messages
    columns: Mapping[str, str]  # column name to kind: str, int, float, bool or datetime
    key: tuple[str, ...]  # columns that identify a row
    nullable: frozenset[str] = field(default_factory=frozenset)  # columns that may hold nulls
    open_ended: bool = False  # whether further columns are allowed (feature tables)


def parse_columns(text: str) -> dict[str, str]:
    """Parse ``name:kind`` words; a word without a kind is a ``str``."""
    words = (word.partition(":") for word in text.split())
    return {name: kind or "str" for name, _, kind in words}


def check_table(table: pd.DataFrame, contract: Contract, where: str | Path) -> None:
    """Check a table against its contract.

    Raises InputError with every missing, unknown or mistyped column, nulls and duplicate keys.
    """
    faults = FaultList()
    for name, kind in contract.columns.items():
        if name not in table.columns:
            faults.add(where, f"no column {name!r}", f"a {kind} column ({contract.name})")
            continue
        column = pd.Series(table[name])
        nulls = column.isna().to_numpy()
        if len(table) and not _CHECKS[kind](column):
            faults.add(where, f"column {name!r} is {column.dtype}", kind)
        elif name not in contract.nullable and nulls.any():
            rows = f"{show_count(nulls.sum(), 'rows')}, the first row {nulls.argmax()}"
            faults.add(where, f"column {name!r} is null in {rows}", "no nulls")

    unknown = [c for c in table.columns if c not in contract.columns]
    if unknown and not contract.open_ended:
        faults.add(where, f"unknown columns {unknown}", f"only {list(contract.columns)}")

    if set(contract.key) <= set(table.columns) and not _increases(table, contract.key):
        duplicated = table.duplicated(list(contract.key))
        if duplicated.any():
            example = table.loc[duplicated, list(contract.key)].iloc[0].to_dict()
            problem = f"{show_count(int(duplicated.sum()), 'duplicate keys')}, such as {example}"
            faults.add(where, problem, f"unique {', '.join(contract.key)}")
    faults.raise_if_any()


def _increases(table: pd.DataFrame, key: tuple[str, ...]) -> bool:
    """Say whether a key of one text column is sorted and unique: cheaper than a search by hash."""
    import pyarrow as pa
    from pyarrow.compute import call_function

    if len(key) != 1 or table[key[0]].dtype != "str":
        return False
    values = pa.chunked_array(pa.array(table[key[0]]))
    increases = call_function("less", [values[:-1], values[1:]])
    return increases.null_count == 0 and bool(increases.to_numpy().all())


def write_table(table: pd.DataFrame, path: Path, contract: Contract) -> None:
    """Check a table and write it as Parquet, atomically and the same bytes for the same table."""
    check_table(table, contract, path)
    with replacing_file(path) as temporary:
        table.reset_index(drop=True).to_parquet(temporary, index=False, compression="zstd")


def write_parts(parts: Iterable[pd.DataFrame], path: Path, contract: Contract) -> None:
    """Write a table as `write_table` does, one part at a time, so it is never in memory as a whole.

    At least one part; keys must be unique over all parts and are checked within each.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with replacing_file(path) as temporary, ExitStack() as stack:
        writer: parquet.ParquetWriter | None = None
        for part in parts:
            check_table(part, contract, path)
            table = pa.Table.from_pandas(part, preserve_index=False)
            if writer is None:
                writer = parquet.ParquetWriter(temporary, table.schema, compression="zstd")
                stack.enter_context(writer)
            writer.write_table(table)
            release_memory()


def read_table(
    path: Path, contract: Contract, *, categories: bool = False, columns: Iterable[str] = ()
) -> pd.DataFrame:
    """Read a Parquet table and check it; InputError if it is missing or not as its contract.

    `categories` reads ``str`` columns as categories: a few bytes a row if values recur. What alone
    identifies a row stays as it is. `columns`: those to read and check; all if not given.
    """
    if columns := list(columns):
        kinds = {c: kind for c, kind in contract.columns.items() if c in columns}
        contract = replace(contract, columns=kinds)
    words = [c for c, kind in contract.columns.items() if kind == "str" and contract.key != (c,)]
    try:
        table = _read_parquet(path, words if categories else [], columns or None)
    except FileNotFoundError:
        raise InputError.of(
            path, "no such file", f"the table of {contract.name}", "Run dvc repro."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError.of(path, f"not readable ({error})", "a Parquet table") from None
    check_table(table, contract, path)
    return table


def _read_parquet(path: Path, categories: list[str], columns: list[str] | None) -> pd.DataFrame:
    table = pd.read_parquet(path, read_dictionary=categories, columns=columns)
    release_memory()
    return table


def keep_on_disk(column: pd.Series) -> pd.Series:
    """Copy a text column to a file without a name, which is read through the page cache."""
    import pyarrow as pa

    words = pa.Table.from_pandas(column.to_frame("words"), preserve_index=False)
    with TemporaryFile() as file:
        with pa.ipc.new_file(file, words.schema) as writer:
            writer.write_table(words)
        file.flush()
        mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
    kept = pa.ipc.open_file(pa.py_buffer(mapped)).read_pandas()["words"]
    return kept.set_axis(column.index)


def release_memory() -> None:
    """Give back what Arrow and the heap keep of buffers, which may be larger than the tables."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        CDLL(None).malloc_trim(0)


# Where a spreadsheet would begin a formula, whose first character has two widths. In some languages
# semicolons and tabs separate cells, and a quoted line break then ends a row.
_FORMULA: Final = re.compile(r"^(?=[\t\n])|(?:^|(?<=[;\t\n]))(?= *[=+\-@＝＋－＠])")


def to_csv(table: pd.DataFrame, **options: Any) -> str:
    """Render a table as CSV, without its index and without formulas; see ``DataFrame.to_csv``."""
    plain = table.copy(deep=False)
    for name in table.columns:
        if not (types.is_numeric_dtype(table[name]) or types.is_datetime64_any_dtype(table[name])):
            plain[name] = table[name].astype(object).map(escape_formula)
    plain.columns = list(map(escape_formula, table.columns))
    return plain.to_csv(index=False, lineterminator="\n", **options)


def escape_formula(cell: Any) -> Any:
    """Put an apostrophe before a text, but no number, that a spreadsheet would run as a formula."""
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", " ")  # not quoted, but taken for the end of a row
    try:
        float(cell)
    except ValueError:
        return _FORMULA.sub("'", cell)
    return cell
