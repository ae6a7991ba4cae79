"""Raw features as clients send them, checked against the encoder's columns."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Bool

from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.text_tables import MISSING_WORDS
from histofuse.features.categories import normalise_category
from histofuse.features.encoding import Categorical, Encoder
from histofuse.features.ranges import Range
from histofuse.features.specs import Kind

WHERE: Final = "the record"
_SHOWN: Final = 40  # characters of a refused value


def read_records(inputs: Any, encoder: Encoder) -> pd.DataFrame:
    """Check raw features and bring each column to its kind.

    `inputs` is a data frame, in which null and NaN mean that a value is not known. Returns the
    encoder's columns in their order; numbers as float64, unknown values as NaN or None. Raises
    InputError with every column that is missing, and the first row of every column that holds what
    its kind or its range does not allow.
    """
    if not isinstance(inputs, pd.DataFrame):
        expected = "a data frame of raw features"
        raise InputError.of("input", f"is a {type(inputs).__name__}", expected)
    kinds, ranges, expected = encoder.inputs, encoder.ranges, encoder.descriptions
    _require_columns(inputs, expected)
    known = {f.name: f.categories for f in encoder.features if isinstance(f, Categorical)}
    with collect_faults() as faults:
        columns = {
            name: _read_column(inputs[name], kind, ranges.get(name), expected[name], faults)
            if name not in known
            else _read_texts(inputs[name], known[name], expected[name], faults)
            for name, kind in kinds.items()
        }
    return pd.DataFrame(columns, index=inputs.index)


def _require_columns(inputs: pd.DataFrame, described: Mapping[str, str]) -> None:
    unknown = [str(column) for column in inputs.columns if column not in described]
    with collect_faults() as faults:
        for name, expected in described.items():
            if name in inputs.columns:
                continue
            near = difflib.get_close_matches(name, unknown, n=1)
            remedy = f"Is {near[0]!r} meant for it?" if near else "Null where it is not known."
            faults.add(WHERE, f"no column {name!r}", expected, remedy)


def _read_texts(
    column: pd.Series, known: Collection[str], expected: str, faults: FaultList
) -> np.ndarray:
    """Read texts; a word for "missing" is one where training knows it as a category."""
    given = column.to_list()
    name = str(column.name)
    category = [normalise_category(name, v) if isinstance(v, str) else None for v in given]
    values = [v if c in known else _read_text(v) for v, c in zip(given, category, strict=True)]
    _note_rows(column, [n for n, v in enumerate(values) if v is _REFUSED], expected, faults)
    return np.array(values, dtype=object)


def _read_column(
    column: pd.Series, kind: Kind, range_: Range | None, expected: str, faults: FaultList
) -> np.ndarray:
    given = column.to_list()
    values = [_READERS[kind](value) for value in given]
    bad = [row for row, value in enumerate(values) if value is _REFUSED]
    _note_rows(column, bad, expected, faults)
    if bad:
        return np.empty(len(given))
    if range_ is not None:
        low, high = range_.low, range_.high
        outside = [row for row, value in enumerate(values) if value < low or value > high]
        remedy = "Is it in another unit? Null where it is not known."
        _note_rows(column, outside, expected, faults, remedy)
    return np.array(values, dtype=object if kind == "categorical" else np.float64)


def _note_rows(
    column: pd.Series, bad: list[int], expected: str, faults: FaultList, remedy: str = ""
) -> None:
    if not bad:
        return
    row, more = bad[0], f" ({len(bad)} such rows)" if len(bad) > 1 else ""
    where = f"{WHERE}, row {column.index[row]}, {column.name}"
    faults.add(where, f"is {_show(column.iloc[row])}{more}", expected, remedy)


_REFUSED: Final = object()  # a value of a wrong type


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _read_text(value: Any) -> Any:
    if _is_missing(value):
        return None
    # Some clients turn nulls into text.
    word = value.strip().lower() if isinstance(value, str) else None
    return _REFUSED if word is None or (word and word in MISSING_WORDS) else value


def _read_number(value: Any) -> Any:
    if _is_missing(value):
        return math.nan
    # A truth value is an int in Python, and no measurement.
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return _REFUSED
    try:
        number = float(value)
    except OverflowError:
        return _REFUSED
    return number if math.isfinite(number) else _REFUSED


def _read_flag(value: Any) -> Any:
    flag = float(value) if isinstance(value, bool | np.bool_) else _read_number(value)
    return flag if flag is not _REFUSED and (flag in (0.0, 1.0) or math.isnan(flag)) else _REFUSED


_READERS: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "continuous": _read_number,
    "binary": _read_flag,
    "categorical": _read_text,
}


def _show(value: Any) -> str:
    shown = repr(value.item() if isinstance(value, np.generic) else value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def write_warnings(records: pd.DataFrame, cells: pd.DataFrame, problem: str) -> pd.Series:
    """Write what is wrong with cells that do not stop an answer: one text a row, mostly empty.

    `cells` has a column of booleans for each of some features, `problem` is said of those true.
    """
    texts = [list[str]() for _ in range(len(records))]
    for name in cells:
        values = records[name].to_list()
        for row in np.flatnonzero(cells[name].to_numpy()):
            texts[row].append(f"{name} {_show(values[row])} {problem}")
    return pd.Series(["; ".join(text) for text in texts], records.index, dtype="str")


def join_warnings(first: pd.Series, second: pd.Series) -> pd.Series:
    """Join two texts for each row."""
    return first + np.where((first != "") & (second != ""), "; ", "") + second


def find_recorded(records: pd.DataFrame) -> Bool[np.ndarray, " n"]:
    """Tell for each row of what `read_records` returned whether anything is known."""
    return records.notna().any(axis=1).to_numpy(dtype=bool)


def make_unknown(kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Make a record in which nothing is known, as `read_records` returns it."""
    types = {name: object if kind == "categorical" else float for name, kind in kinds.items()}
    return pd.DataFrame({name: pd.Series([None], dtype=types[name]) for name in kinds})
