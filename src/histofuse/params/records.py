"""A declaration: what the columns of a table of health records mean.

What it does not name is refused, or left out by name. docs/records.md shows one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from histofuse.core.errors import Fault, InputError
from histofuse.params.base import Section, load_file, validate_section

NONE: Final = "none"
ROW_NUMBER: Final = "row_number"  # the key of a table without ids
UNFINISHED: Final = "TODO"  # what `histofuse describe-table` leaves to a person
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Levels = dict[Text, float]


class PatientsTable(Section):
    """A second file with a row a patient, joined to the rows of the table by `key`."""

    file: Text
    key: Text


class KeyParams(Section):
    """The columns that identify a row.

    Attributes:
        patient: Column of the patient; ``row_number`` where a table has none.
        visit: Column of the visit where a patient has several rows; ``none``: a row is a patient.
    """

    patient: Text
    visit: Text


class PredictionTime(Section):
    """When the prediction is made.

    Attributes:
        description: In words, such as "at diagnosis".
        column: Column of its date, if dates are used; ``none`` else.
    """

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
    def _check(self) -> Numeric:
        if self.low >= self.high:
            raise ValueError("low must lie below high")
        return self


class Ordinal(Feature):
    """A text that stands for a number: cell to level."""

    levels: Annotated[Levels, Field(min_length=2)]


class Categorical(Feature):
    """A text, one of `categories`."""

    categories: Annotated[list[Text], Field(min_length=1)]


class ColumnTarget(Section):
    """A target that stands in a column; rows without it are left out."""

    kind: Literal["in_column"]
    name: Name
    description: Text
    column: Text
    positive: Annotated[list[Text], Field(min_length=1)]
    negative: Annotated[list[Text], Field(min_length=1)]

    @property
    def columns(self) -> list[str]:
        """The columns that hold it."""
        return [self.column]


class EventTarget(Section):
    """An event within a horizon.

    Rows censored before the horizon are neither positive nor negative. They are left out; under
    ``weighted`` the others then stand for them, by the inverse of the probability of not being
    censored (Kaplan-Meier).

    Attributes:
        time: Column of the time from the prediction to the event or the end of follow-up.
        unit: Of times and of `horizon`.
        event: Column that tells whether the time is that of the event.
        happened: Its cells where it is.
        censored: Its cells where it is not.
        horizon: A row is positive if the event happened up to here, the end included.
        censoring: ``left_out`` or ``weighted``.
    """

    kind: Literal["event_within"]
    name: Name
    description: Text
    time: Text
    unit: Literal["days", "months", "years"]
    event: Text
    happened: Annotated[list[Text], Field(min_length=1)]
    censored: Annotated[list[Text], Field(min_length=1)]
    horizon: Annotated[float, Field(gt=0)]
    censoring: Literal["left_out", "weighted"]

    @property
    def columns(self) -> list[str]:
        """The columns that hold it."""
        return [self.time, self.event]


Target = Annotated[ColumnTarget | EventTarget, Field(discriminator="kind")]


class Declaration(Section):
    """What the columns of a table mean; names of columns are compared without regard to case.

    Attributes:
        table: CSV, TSV (.tsv, .txt) or Parquet, in the folder of the declaration.
        patients_table: A second file, or ``none``.
        access: ``published`` and ``simulated`` may be shown row by row, ``restricted`` may not.
        missing: Words for "missing", beside the usual ones.
        key: What identifies a row.
        split_group: Column whose values stay in one split, such as a family; ``none``: patients.
        prediction_time: Nothing later may be a feature.
        target: What is predicted.
        numeric: Feature to number.
        ordinal: Feature to ordered text.
        categorical: Feature to text.
        dates: Feature to a date; its value is the days from there to the prediction.
        gives_away: Column that would tell the target, and why.
        left_out: Column that is not used, and why.
        undeclared: Whether columns that stand nowhere here are refused, or left out by name.
    """

    table: Text
    patients_table: Literal["none"] | PatientsTable
    access: Literal["published", "restricted", "simulated"]
    missing: list[Text]
    key: KeyParams
    split_group: Text
    prediction_time: PredictionTime
    target: Target
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
    def structure(self) -> list[str]:
        """Columns of keys, groups and the time of prediction."""
        named = [self.key.patient, self.key.visit, self.split_group, self.prediction_time.column]
        return [column for column in named if column != NONE]

    @property
    def kept_back(self) -> dict[str, str]:
        """Column that no feature may be made of, to the reason."""
        held = dict.fromkeys(self.target.columns, "holds the target")
        return held | {c.lower(): why for c, why in self.gives_away.items()}

    @property
    def columns(self) -> list[str]:
        """Every column named, in lower case, each once."""
        named = [
            *self.structure,
            *self.target.columns,
            *(feature.column for feature in self.features.values()),
            *self.gives_away,
            *self.left_out,
        ]
        return list(dict.fromkeys(column.lower() for column in named))

    @model_validator(mode="after")
    def _check(self) -> Declaration:
        kinds = (self.numeric, self.ordinal, self.categorical, self.dates)
        names = Counter(name for kind in kinds for name in kind)
        if not names:
            raise ValueError("names no column to predict from: at least one feature")
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"each feature once, but {', '.join(repeated)} has several kinds")
        held = {c.lower() for c in (*self.target.columns, *self.gives_away, *self.left_out)}
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

    Raises:
        InputError: If it is missing or no YAML, with each unknown, missing or wrong key, and with
            each that is still to be filled in.
    """
    if not path.is_file():
        remedy = "histofuse describe-table FILE drafts one."
        raise InputError([Fault(path, "no such file", "the declaration of the table", remedy)])
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
