"""Requests and answers as JSON, in the layouts of MLflow's scoring protocol.

A request that is refused is refused before it takes much more memory than its text.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import parse_json
from histofuse.core.errors import InputError
from histofuse.core.naming import show_count

MOST_ROWS: Final = 1024
MOST_COLUMNS: Final = 1000  # known and unknown ones
MOST_LISTS: Final = 3_000_000  # of pixels, in a body of 32 MiB
RECORDS: Final = ("dataframe_records", "instances")
SPLIT: Final = "dataframe_split"
COLUMNS: Final = "inputs"
PARAMS: Final = "params"
_LAYOUTS: Final = (*RECORDS, SPLIT, COLUMNS)
_BODY: Final = "the body"
_MANY: Final = "Send several requests, or use histofuse predict."
_OBJECTS: Final = MOST_ROWS + 2  # a row each, the rows' layout and the document


def read_request(body: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the rows of a JSON request, each cell as it was given or None, and its params.

    Raises InputError if it is no such document, or holds too much.
    """
    document = _parse(body)
    given = [name for name in _LAYOUTS if name in document]
    if len(given) != 1 or set(document) - {*given, PARAMS}:
        keys = f"{len(document):,} keys, {len(given)} of them with rows"
        raise InputError.of(_BODY, keys, f"one of {', '.join(_LAYOUTS)}, and optionally {PARAMS}")
    params = document.get(PARAMS) or {}
    if not isinstance(params, dict):
        raise InputError.of(PARAMS, _name_type(params), "an object")
    layout, rows = given[0], document[given[0]]
    if layout == SPLIT:
        return _read_split(rows), params
    if layout == COLUMNS and isinstance(rows, dict):
        return _read_columns(rows), params
    return _read_records(layout, rows), params


def write_answer(table: pd.DataFrame) -> bytes:
    """Write an answer; `ValueError` if it holds a number that is not finite."""
    records = {"predictions": table.to_dict("records")}
    return json.dumps(records, allow_nan=False, default=to_plain).encode()


def check_rows(n: int) -> None:
    """Check the number of rows of a request; `InputError` if there are none or too many."""
    if n == 0:
        raise InputError.of("input", "no rows", "at least one")
    if n > MOST_ROWS:
        raise InputError.of("input", f"{n:,} rows", f"at most {MOST_ROWS:,}", _MANY)


def _parse(body: bytes) -> dict[str, Any]:
    expected = "a JSON object, in UTF-8"
    # Before they take memory; few of these characters stand in a text.
    if body.count(b"[") > MOST_LISTS:
        raise InputError.of(_BODY, "too many lists", f"at most {MOST_LISTS:,}")
    if body.count(b"{") > _OBJECTS:
        raise InputError.of(
            _BODY, f"more than {_OBJECTS:,} objects", f"at most {MOST_ROWS:,} rows", _MANY
        )
    try:
        document = parse_json(body, parse_number=float)  # infinity is refused with its column
    except json.JSONDecodeError as error:
        problem = f"not JSON at character {error.pos:,} ({error.msg})"
        raise InputError.of(_BODY, problem, expected) from None
    except ValueError as error:
        raise InputError.of(_BODY, str(error), expected) from None
    if not isinstance(document, dict):
        raise InputError.of(_BODY, _name_type(document), expected)
    return document


def _read_records(layout: str, rows: Any) -> pd.DataFrame:
    if not isinstance(rows, list):
        raise InputError.of(layout, _name_type(rows), "a list of rows")
    check_rows(len(rows))
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError.of(f"{layout}, row {number}", _name_type(row), "an object")
        _check_columns(row)
        names |= dict.fromkeys(row)
        _check_columns(names)
    return _make_table({name: [row.get(name) for row in rows] for name in names}, len(rows))


def _read_split(split: Any) -> pd.DataFrame:
    names, rows = (_get_list(split, key) for key in ("columns", "data"))
    _check_columns(names)
    check_rows(len(rows))
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError.of(f"{SPLIT}, columns", "a name twice, or not a text", "each name once")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            problem = show_count(row, "cells") if isinstance(row, list) else _name_type(row)
            raise InputError.of(
                f"{SPLIT}, row {number}", problem, f"a list of {show_count(names, 'cells')}"
            )
    columns = map(list, zip(*rows, strict=True))
    return _make_table(dict(zip(names, columns, strict=True)), len(rows))


def _get_list(split: Any, key: str) -> list[Any]:
    value = split.get(key) if isinstance(split, dict) else None
    if not isinstance(value, list):
        raise InputError.of(f"{SPLIT}, {key}", _name_type(value), "a list")
    return value


def _read_columns(columns: dict[str, Any]) -> pd.DataFrame:
    _check_columns(columns)
    lengths = {len(cells) if isinstance(cells, list) else -1 for cells in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise InputError.of(
            COLUMNS, "columns of unequal lengths", "a list of cells for each column"
        )
    n = lengths.pop()
    check_rows(n)
    return _make_table(columns, n)


def _check_columns(names: Any) -> None:
    if len(names) > MOST_COLUMNS:
        raise InputError.of("input", f"{len(names):,} columns", f"at most {MOST_COLUMNS:,}")


def _make_table(columns: Mapping[str, list[Any]], n: int) -> pd.DataFrame:
    cells = np.empty((n, len(columns)), dtype=object)  # a Series each would take ten times as long
    for place, column in enumerate(columns.values()):
        for row, cell in enumerate(column):
            cells[row, place] = cell
    return pd.DataFrame(cells, range(n), list(columns), dtype=object)


def _name_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def to_plain(value: Any) -> Any:
    """Turn a number of NumPy into one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"not for JSON: {type(value).__name__}")
