"""A declaration: what the columns of a table of health records mean (docs/records.md has each key).

What it does not name is refused, or left out by name. Names of columns are compared without regard
to case.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from histofuse.core.errors import Fault, InputError
from histofuse.params.base import Positive, Section, Text, load_file, validate_section

NONE: Final = "none"
ROW_NUMBER: Final = "row_number"  # the key of a table without ids
UNFINISHED: Final = "TODO"  # what `histofuse describe-table` leaves to a person
Texts = Annotated[list[Text], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


class PatientsTable(Section):
    """A second file with a row a patient, joined to the rows of the table by `key`."""

    file: Text
    key: Text


class KeyParams(Section):
    """The columns that identify a row: ``row_number`` without ids; `visit` ``none`` without any."""

    patient: Text
    visit: Text


class PredictionTime(Section):
    """When the prediction is made, in words, and the column of its date, or ``none``."""

    description: Text
    column: Text


class Feature(Section):
    """One feature: its column, and what it is in words."""

    column: Text
    description: Text


class Numeric(Feature):
    """A number with its unit (empty: none) and its plausible range; others count as missing."""

    unit: str
    low: float
    high: float

    @model_validator(mode="after")
    def _check(self) -> "Numeric":
        if self.low >= self.high:
            raise ValueError("low must lie below high")
        return self


class Ordinal(Feature):
    """A text that stands for a number: cell to level."""

    levels: Annotated[dict[Text, float], Field(min_length=2)]


class Categorical(Feature):
    """A text, one of `categories`."""

    categories: Texts


class ColumnTarget(Section):
    """A target that stands in a column; rows without it are left out."""

    kind: Literal["in_column"]
    name: Name
    description: Text
    column: Text
    positive: Texts
    negative: Texts

    @property
    def columns(self) -> list[str]:
        """The columns that hold it."""
        return [self.column]

    @property
    def words(self) -> tuple[str, list[str], list[str]]:
        """The column of texts, those of a positive row, and those of a negative one."""
        return self.column, self.positive, self.negative


class EventTarget(Section):
    """An event up to a horizon, its end included.

    Rows censored before are neither positive nor negative. They are left out; under ``weighted``
    the others then stand for them.
    """

    kind: Literal["event_within"]
    name: Name
    description: Text
    time: Text
    unit: Literal["days", "months", "years"]
    event: Text
    happened: Texts
    censored: Texts
    horizon: Positive
    censoring: Literal["left_out", "weighted"]

    @property
    def columns(self) -> list[str]:
        """The columns that hold it."""
        return [self.time, self.event]

    @property
    def words(self) -> tuple[str, list[str], list[str]]:
        """The column of texts, those of an event, and those of none."""
        return self.event, self.happened, self.censored


class Declaration(Section):
    """What the columns of a table mean."""

    table: Text
    patients_table: Literal["none"] | PatientsTable
    access: Literal["published", "restricted", "simulated"]
    missing: list[Text]
    key: KeyParams
    split_group: Text
    prediction_time: PredictionTime
    target: Annotated[ColumnTarget | EventTarget, Field(discriminator="kind")]
    numeric: dict[Name, Numeric]
    ordinal: dict[Name, Ordinal]
    categorical: dict[Name, Categorical]
    dates: dict[Name, Feature]
    gives_away: dict[Text, Text]
    left_out: dict[Text, Text]
    undeclared: Literal["refuse", "leave_out"]

    @property
    def features(self) -> dict[str, Feature]:
        """All features by name, in order."""
        return {**self.numeric, **self.ordinal, **self.categorical, **self.dates}

    @property
    def kept_back(self) -> dict[str, str]:
        """Column that no feature may be made of, to the reason."""
        held = dict.fromkeys(self.target.columns, "holds the target") | self.gives_away
        return {column.lower(): reason for column, reason in held.items()}

    @property
    def columns(self) -> list[str]:
        """Every column named, in lower case, each once."""
        keys = [self.key.patient, self.key.visit, self.split_group, self.prediction_time.column]
        named = [column for column in keys if column != NONE]
        named += [*self.kept_back, *(f.column for f in self.features.values()), *self.left_out]
        return list(dict.fromkeys(column.lower() for column in named))

    @property
    def words(self) -> dict[str, list[str]]:
        """Column, in lower case, to the texts that mean something in it."""
        column, yes, no = self.target.words
        known = {column: [*yes, *no]} | {o.column: list(o.levels) for o in self.ordinal.values()}
        known |= {c.column: c.categories for c in self.categorical.values()}
        return {column.lower(): words for column, words in known.items()}

    @model_validator(mode="after")
    def _check(self) -> "Declaration":
        kinds = (self.numeric, self.ordinal, self.categorical, self.dates)
        names = Counter(name for kind in kinds for name in kind)
        if not names:
            raise ValueError("names no column to predict from: at least one feature")
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"each feature once, but {', '.join(repeated)} has several kinds")
        for column, words in self.words.items():
            spelt = Counter(" ".join(word.split()).casefold() for word in words)
            if twice := [word for word, count in spelt.items() if count > 1]:
                raise ValueError(f"each cell of {column} means one thing, but {twice} stands twice")
        held = {*self.kept_back, *map(str.lower, self.left_out)}
        if leaks := [n for n, f in self.features.items() if f.column.lower() in held]:
            raise ValueError(
                f"{', '.join(leaks)} cannot be a feature: its column holds the target, gives it "
                "away, or is left out"
            )
        if self.dates and self.prediction_time.column == NONE:
            raise ValueError("dates need prediction_time.column, the date that they lie before")
        return self


def load_declaration(path: Path) -> Declaration:
    """Load a declaration.

    Raises InputError if it is missing or no YAML, with each unknown, missing or wrong key, and with
    each that is still to be filled in.
    """
    if not path.is_file():
        remedy = "histofuse describe-table FILE drafts one."
        raise InputError.of(path, "no such file", "the declaration of the table", remedy)
    values = load_file(path)
    if places := list(_find_unfinished(values, "")):
        remedy = "Only who knows the table can say."
        raise InputError([Fault(f"{path}, {p}", UNFINISHED, "a value", remedy) for p in places])
    return validate_section(Declaration, values, (), path)


def _find_unfinished(values: Any, place: str) -> list[str]:
    if isinstance(values, str) and values.strip() == UNFINISHED:
        return [place]
    items = values.items() if isinstance(values, Mapping) else ()
    items = enumerate(values) if isinstance(values, list) else items
    return [p for key, value in items for p in _find_unfinished(value, f"{place}.{key}".strip("."))]
