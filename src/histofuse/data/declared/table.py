"""A declared table on disk -> its cells as text, and the key of each row.

CSV, tables between tabs (.tsv, .txt) and Parquet; cBioPortal's clinical files as they are, with
lines above the header that begin with ``#``, and the patients' file joined to the samples'.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.ids import identify
from histofuse.core.text_tables import (
    MISSING_WORDS,
    READERS,
    UNREADABLE,
    judge,
    read_csv_text,
    read_numbers,
    read_whole_numbers,
)
from histofuse.params.records import NONE, ROW_NUMBER, Declaration, PatientsTable, load_declaration

DECLARATION: Final = "records.yaml"  # in the folder of the table
KEY: Final = ("subject_id", "hadm_id")
_EXPECTED: Final = "a table with a header: .csv, .tsv or .txt (between tabs), or .parquet"


@dataclass(frozen=True)
class DeclaredTable:
    """A table and its declaration."""

    path: Path
    declaration: Declaration
    # text by column in lower case, null where missing; ``line``, where a row ends (in Parquet, its
    # number from 1); and its key: ``subject_id``, ``hadm_id`` (whole numbers), ``patient_id`` and
    # ``visit_id`` (as they are spelt)
    cells: pl.DataFrame
    left_out: Mapping[str, str]  # columns that are not used, to the reason
    notes: list[str]  # what the user should know

    def locate(self, line: int, column: str) -> str:
        """Say where a cell stands."""
        return f"{self.path}, line {line}, {column}"

    def read(self, column: str, kind: str, expected: str, faults: FaultList) -> pl.Series:
        """Read a column as a kind of `READERS`; note cells that are neither missing nor such."""
        cells = self.cells[column.lower()]
        self._note(column, judge(cells, kind) == UNREADABLE, expected, faults, ())
        return READERS[kind][0](cells)

    def map(self, column: str, words: Mapping[str, float], faults: FaultList) -> pl.Series:
        """Read texts as numbers, without regard to case and blanks; note other texts."""
        numbers = {_spell(word): float(number) for word, number in words.items()}
        cells = self.cells[column.lower()]
        spelt = cells.map_elements(_spell, return_dtype=pl.String)
        bad = cells.is_not_null() & ~spelt.is_in(list(numbers))
        self._note(column, bad, f"one of {', '.join(words)}", faults, words)
        return spelt.replace_strict(numbers, default=None, return_dtype=pl.Float64)

    def _note(
        self, column: str, bad: pl.Series, expected: str, faults: FaultList, words: Iterable[str]
    ) -> None:
        """Note each distinct cell that is bad, at its first line."""
        cells = self.cells.filter(bad).group_by(column.lower(), maintain_order=True)
        for cell, line, rows in cells.agg(pl.col("line").first(), rows=pl.len()).iter_rows():
            more = f" ({rows} such rows)" if rows > 1 else ""
            remedy = suggest(cell, words)
            faults.add(self.locate(line, column), f"is {cell!r}{more}", expected, remedy)


def suggest(word: str, known: Iterable[str]) -> str:
    """Ask for the nearest of several words."""
    by_spelling = {_spell(name): name for name in known}
    near = difflib.get_close_matches(_spell(word), by_spelling, n=1)
    return f"Did you mean {by_spelling[near[0]]}?" if near else ""


def _spell(text: str) -> str:
    return " ".join(text.split()).casefold()


def read_declared(folder: Path) -> DeclaredTable:
    """Read the table in a folder by its declaration, ``records.yaml``.

    Raises InputError with what is wrong with the declaration, a file or the key of a row, and each
    column that lacks or, where the declaration says so, is not declared.
    """
    declaration = load_declaration(folder / DECLARATION)
    path = folder / declaration.table
    cells = read_text(path)
    if isinstance(declaration.patients_table, PatientsTable):
        cells = _join_patients(cells, path, folder, declaration.patients_table)
    cells = _drop_missing_words(cells, declaration)
    if declaration.key.patient.lower() == ROW_NUMBER and ROW_NUMBER not in cells:
        numbers = pl.int_range(1, pl.len() + 1, eager=False).cast(pl.String)
        cells = cells.with_columns(numbers.alias(ROW_NUMBER))
    left_out = _check_columns(cells.columns, declaration, folder / DECLARATION)
    cells, notes = _add_keys(cells, declaration, path)
    return DeclaredTable(path, declaration, cells, left_out, notes)


def read_text(path: Path) -> pl.DataFrame:
    """Read a table as text, names of columns in lower case, with ``line``."""
    if path.is_dir():
        raise InputError.of(path, "is a folder", _EXPECTED)
    suffix = path.suffix.lower()
    separator = "\t" if suffix in (".tsv", ".txt") else ","
    parquet = suffix == ".parquet"
    cells = _read_parquet(path) if parquet else read_csv_text(path, (), _EXPECTED, separator)
    names = [name for name in cells.columns if name != "line"]
    if len(names) < 2:
        raise InputError.of(path, "has one column", f"several: {_EXPECTED}")
    if read_numbers(pl.Series(names)).null_count() == 0:
        raise InputError.of(path, "has numbers alone in its first line", _EXPECTED)
    if cells.is_empty():
        raise InputError.of(path, "no rows", "at least one")
    return cells


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        table = pl.read_parquet(path)
        text = table.select(pl.all().cast(pl.String).name.to_lowercase())
        return text.with_row_index("line", offset=1).with_columns(pl.col("line").cast(pl.Int64))
    except FileNotFoundError:
        raise InputError.of(path, "no such file", _EXPECTED) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = f"cannot be read ({str(error).splitlines()[0]})"
        raise InputError.of(path, problem, "Parquet with numbers, dates and texts") from None


def _join_patients(
    cells: pl.DataFrame, path: Path, folder: Path, second: PatientsTable
) -> pl.DataFrame:
    """Join the columns of a second file, which has each patient once."""
    patients, key = read_text(folder / second.file), second.key.lower()
    with collect_faults() as faults:
        for table, where in ((cells, path), (patients, folder / second.file)):
            if key not in table:
                faults.add(where, f"no column {key!r}", "the key that joins both files")
        if both := sorted(set(cells.columns) & set(patients.columns) - {key, "line"}):
            problem, remedy = (
                f"{', '.join(both)} are in {path.name} too",
                "Rename them in one file.",
            )
            faults.add(folder / second.file, problem, "columns of its own", remedy)
    _note_repeats(patients, [key], folder / second.file, "")
    rows = patients.drop("line").filter(pl.col(key).is_not_null())
    return cells.join(rows, on=key, how="left", maintain_order="left", validate="m:1")


def _drop_missing_words(cells: pl.DataFrame, declaration: Declaration) -> pl.DataFrame:
    missing = MISSING_WORDS | {_spell(word) for word in declaration.missing}
    meant = declaration.words

    def clean(column: str) -> pl.Expr:
        words = missing - {_spell(word) for word in meant.get(column, ())}
        spelt = pl.col(column).map_elements(_spell, return_dtype=pl.String)
        return pl.when(~spelt.is_in(list(words))).then(pl.col(column)).alias(column)

    return cells.with_columns(clean(column) for column in cells.columns if column != "line")


def _check_columns(columns: list[str], declaration: Declaration, where: Path) -> dict[str, str]:
    """Check that the declared columns exist; return those left out, with the reason."""
    known = [column for column in columns if column != "line"]
    named = set(declaration.columns)
    if isinstance(declaration.patients_table, PatientsTable):
        named.add(declaration.patients_table.key.lower())
    others = [column for column in known if column not in named]
    with collect_faults() as faults:
        for column in declaration.columns:
            if column not in known:
                problem = f"no column {column!r} in {declaration.table}"
                faults.add(where, problem, "a column of the table", suggest(column, known))
        if others and declaration.undeclared == "refuse":
            remedy = "Declare them, list them under left_out, or set undeclared to leave_out."
            faults.add(where, f"not declared: {', '.join(others)}", "every column", remedy)
    return dict(declaration.left_out) | dict.fromkeys(others, "not declared")


def _add_keys(
    cells: pl.DataFrame, declaration: Declaration, path: Path
) -> tuple[pl.DataFrame, list[str]]:
    patient, visit = declaration.key.patient.lower(), declaration.key.visit.lower()
    keys = [patient] if visit == NONE else [patient, visit]
    with collect_faults() as faults:
        for key in keys:
            for line in cells.filter(pl.col(key).is_null())["line"]:
                faults.add(f"{path}, line {line}, {key}", "no id", "an id in each row")
    remedy = "A row is a patient; let key.visit name the column of the visits if it is not."
    _note_repeats(cells, keys, path, remedy if visit == NONE else "")
    subject, notes = _number(cells[patient])
    hadm, of_visits = (subject, []) if visit == NONE else _number(cells[visit])
    numbers = {"subject_id": subject, "hadm_id": hadm}
    spelt = {"patient_id": pl.col(patient), "visit_id": pl.col(keys[-1])}
    return cells.with_columns(**numbers, **spelt).sort(KEY), [*notes, *of_visits]


def _note_repeats(cells: pl.DataFrame, keys: list[str], path: Path, remedy: str) -> None:
    seen: dict[tuple[str, ...], int] = {}
    with collect_faults() as faults:
        for line, *ids in cells.select("line", *keys).drop_nulls().iter_rows():
            first = seen.setdefault(tuple(map(identify, ids)), line)
            if first != line:
                where = f"{path}, line {line}, {', '.join(keys)}"
                faults.add(where, f"the same as in line {first}", "each id once", remedy)


def _number(ids: pl.Series) -> tuple[pl.Series, list[str]]:
    """Give ids whole numbers: their own, or, where one is text, their place in the order of all."""
    numbers = read_whole_numbers(ids)
    if (numbers >= 1).fill_null(False).all():
        return numbers, []
    meant = ids.map_elements(identify, return_dtype=pl.String)
    places = {name: n for n, name in enumerate(sorted(meant.unique()), start=1)}
    note = f"{ids.name} is text: numbered 1 to {len(places)} in the order of the ids"
    return meant.replace_strict(places, return_dtype=pl.Int64), [note]
