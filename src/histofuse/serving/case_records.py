"""Tables of patients, and the record of each case of tissue."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import polars as pl

from histofuse.core.errors import Fault, InputError, collect_faults
from histofuse.core.ids import identify
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.core.text_tables import (
    UNREADABLE,
    clean_text,
    find_bad_row,
    judge,
    parse_header,
    read_numbers,
    read_whole_numbers,
)
from histofuse.data.crosswalk import read_links
from histofuse.features.ranges import Range, find_outside
from histofuse.features.specs import KEY
from histofuse.serving.records import write_warnings
from histofuse.tracking.interface import WARNINGS

CASE: Final = "case_id"
_ROW: Final = "row of the table"
_FREE_BYTES: Final = 2**28
_LARGEST_RATIO: Final = 1000  # of memory to file


@dataclass(frozen=True)
class CaseRecords:
    """Health records by case."""

    table: pd.DataFrame  # raw features of the cases that have a record, the case in the index
    patients: pd.DataFrame  # whose they are, and warnings, to join to the answer
    embeddings: dict[str, Any]  # case to the embedding of its patient
    notes: list[str]  # what is not used of the records

    def add_to(self, answer: pd.DataFrame) -> pd.DataFrame:
        """Say in an answer whose records were used."""
        joined = answer.join(self.patients, on=CASE)
        return joined.fillna({WARNINGS: ""}) if WARNINGS in self.patients else joined


def read_patients(path: Path) -> pd.DataFrame:
    """Read a table of raw features, CSV or Parquet; `InputError` if it names no patients."""
    expected = f"a table of raw features with {KEY[0]}, as .parquet or .csv"
    try:
        table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except FileNotFoundError:
        raise InputError.of(path, "no such file", expected) from None
    except IsADirectoryError:
        raise InputError.of(path, "is a folder", expected) from None
    except pl.exceptions.ComputeError as error:
        problem = f"cannot be read ({str(error).splitlines()[0]})"
        raise InputError([find_bad_row(path) or Fault(path, problem, expected)]) from None
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        problem = f"cannot be read ({str(error).splitlines()[0]})"
        raise InputError.of(path, problem, expected) from None
    if KEY[0] not in table and CASE not in table:
        raise InputError.of(path, f"no column {KEY[0]!r}", expected)
    if table.empty:
        raise InputError.of(path, "no rows", "at least one")
    return table.assign(**{name: _read_ids(table[name]) for name in KEY if name in table})


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a table unless it takes a thousand times its file: repeated rows take no space there."""
    from pyarrow import parquet

    stated, size = parquet.read_metadata(path), path.stat().st_size
    taken = 8 * stated.num_rows * stated.num_columns
    if taken > max(_FREE_BYTES, _LARGEST_RATIO * size):
        raise ValueError(f"{show_count(stated.num_rows, 'rows')} in {size >> 10} KiB")
    return pd.read_parquet(path)


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open("rb") as file, collect_faults() as faults:
        header = parse_header(file.readline(), (), path, "the raw features", faults)
    text = pl.read_csv(path, infer_schema=False, new_columns=header)
    text = text.filter(~pl.all_horizontal(pl.all().is_null()))  # blank lines
    return pd.DataFrame({name: _read_column(text[name]) for name in header})


def _read_column(cells: pl.Series) -> pd.Series:
    """Read numbers; text among them stays, so that a fault names it. Names and ids are text."""
    if cells.name in (CASE, *KEY):
        return cells.str.strip_chars().to_pandas()
    text, numbers = clean_text(cells), read_numbers(cells)
    if numbers.null_count() == text.null_count():
        return numbers.to_pandas()
    read = numbers.to_pandas()
    return text.to_pandas().astype(object).where(read.isna(), read)


@dataclass(frozen=True)
class Screened:
    """Raw features of which the implausible ones were set aside."""

    table: pd.DataFrame  # with what is outside its range missing
    warnings: pd.Series  # says so, a text for each row; mostly empty
    outside: Mapping[str, int]  # how many values of each feature


def screen_records(table: pd.DataFrame, ranges: Mapping[str, Range]) -> Screened:
    """Take values outside their range as missing, as training does."""
    cells = find_outside(table, ranges)
    warnings = write_warnings(table, cells, "is outside its range, taken as missing")
    names = [str(name) for name in cells]
    kept = table.assign(**{name: table[name].mask(cells[name]) for name in names})
    return Screened(kept, warnings, {name: int(cells[name].sum()) for name in names})


def count_ignored(
    outside: Mapping[str, int], unknown: Mapping[Any, int], ranges: Mapping[str, Range]
) -> list[str]:
    """Write how many values of which features were not used, and why."""
    notes = [f"{n:,} {name} outside {ranges[name]}" for name, n in outside.items() if n]
    notes += [f"{n:,} {name} unknown to the model" for name, n in unknown.items() if n]
    return [f"not used: {', '.join(notes)}"] if notes else []


def name_unknown(table: pd.DataFrame, features: Iterable[str]) -> list[str]:
    """Write which features no record of several has."""
    empty = [name for name in features if name in table and table[name].isna().all()]
    return [f"known of no record: {', '.join(empty)}"] if empty and len(table) > 1 else []


def read_case_records(patients: Path | None, crosswalk: Path | None) -> pd.DataFrame:
    """Read the record of each case: raw features, the case in the index.

    `patients` is a table of raw features, None for no records; `crosswalk` a CSV of
    ``case_id,subject_id[,hadm_id]``, None if `patients` has ``case_id``. Raises InputError with all
    that is wrong with one of the files.
    """
    if patients is None:
        return pd.DataFrame()
    table = read_patients(patients)
    if crosswalk is not None:
        table = _link(table, patients, crosswalk)
    if CASE not in table:
        expected = f"the case of each patient, or --crosswalk, a CSV of {CASE},{KEY[0]}[,{KEY[1]}]"
        raise InputError.of(patients, f"no column {CASE!r}", expected)
    meaning = table[CASE].astype(str).map(identify)
    with collect_faults() as faults:
        for case in sorted(map(str, table[CASE][meaning.duplicated()].unique())):
            faults.add(patients, f"several records for case {case!r}", "one a case")
        if unnamed := int(table[CASE].isna().sum()):
            problem = f"{show_count(unnamed, 'records')} without a {CASE}"
            faults.add(patients, problem, "the name of a case")
    return table.set_index(table[CASE].astype(str)).drop(columns=CASE)


def _link(patients: pd.DataFrame, source: Path, path: Path) -> pd.DataFrame:
    """Give each case of a crosswalk the record of its patient."""
    named = [name for name in KEY if name in patients]
    numbers = all(pd.api.types.is_numeric_dtype(patients[name]) for name in named)
    crosswalk = _read_crosswalk(path, numbers=numbers)
    by_admission = crosswalk["hadm_id"].notna()
    with collect_faults() as faults:
        for name in KEY if by_admission.any() else KEY[:1]:
            if name not in patients:
                faults.add(source, f"no column {name!r}", f"those of {path}")
    spelt = patients[named]
    patients = patients.drop(columns=CASE, errors="ignore").assign(**{_ROW: range(len(patients))})
    if not numbers:
        patients[named] = spelt.astype(str).map(identify)
    parts = [
        crosswalk[by_admission].merge(patients, on=list(KEY)) if by_admission.any() else None,
        crosswalk.loc[~by_admission, [CASE, KEY[0]]].merge(patients, on=KEY[0]),
    ]
    linked = pd.concat([part for part in parts if part is not None and len(part)] or parts[1:])
    unknown = len(crosswalk) - linked[CASE].nunique()
    if unknown:
        cases = show_count(unknown, "cases")
        report(f"{cases} of {path.name} without a record in the table of patients")
    linked[named] = spelt.iloc[linked.pop(_ROW)].to_numpy()
    return linked


def _read_crosswalk(path: Path, *, numbers: bool) -> pd.DataFrame:
    """Read case_id, subject_id and hadm_id, the last null where it is not given."""
    with collect_faults() as faults:
        links = read_links(path, faults, numbers=numbers)
        if links.is_empty():
            faults.add(path, "no rows", "one a case", "Without --crosswalk no case has a record.")
    kinds = dict.fromkeys(KEY, "Int64" if numbers else "str")
    return links.drop("line").to_pandas().astype({CASE: "str"} | kinds)


def _read_ids(column: pd.Series) -> pd.Series:
    """Read ids written as floats, or as text, as whole numbers; other text stays."""
    missing = column.isna()
    texts = [None if gone else str(id_) for id_, gone in zip(column, missing, strict=True)]
    cells = pl.Series(str(column.name), texts, dtype=pl.String)
    if (judge(cells, "int") == UNREADABLE).any():
        return column
    kind = "Int64" if missing.any() else "int64"
    return pd.Series(read_whole_numbers(cells).to_list(), column.index, dtype=kind)
