"""Encoded columns, summed to the variables that clinicians know.

The categories of an insurance are one variable; so are the mean, the lowest and the highest of a
laboratory value and the indicator that it is missing. Contributions are additive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.errors import InputError
from histofuse.features.encoding import Categorical, Continuous, Encoder
from histofuse.features.specs import FeatureSpec

# Units that are not shown after a number.
SILENT = ("ratio", "admissions", "groups")


@dataclass(frozen=True)
class Column:
    """An encoded column; `unit`, and what standardisation took away, are of continuous features."""

    name: str
    unit: str = ""
    mean: float = 0.0
    std: float | None = None

    def to_natural(self, encoded: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Undo the standardisation; NaN stays NaN."""
        values = encoded.astype(np.float64)
        return values if self.std is None else values * self.std + self.mean

    def describe_value(self, natural: float, encoded: float) -> str:
        """Describe a value with its unit; if not measured, what the model read instead."""
        if not np.isnan(natural):
            return self._write(natural)
        if np.isnan(encoded):
            return "not known"
        return f"not known, read as {self._write(float(self.to_natural(np.array([encoded]))[0]))}"

    def _write(self, value: float) -> str:
        if self.std is None:
            return "yes" if value >= 0.5 else "no"
        digits = max(0, 2 - int(np.floor(np.log10(max(abs(value), 0.01)))))
        number = f"{round(value, digits):,.{digits}f}"
        number = number.rstrip("0").rstrip(".") if "." in number else number
        return f"{number} {self.unit}".strip() if self.unit not in SILENT else number


def list_columns(encoder: Encoder) -> dict[str, Column]:
    """List all columns of an encoder by name."""
    columns = [Column(name) for f in encoder.features for name in f.columns]
    columns += [Column(indicator.column) for indicator in encoder.indicators]
    numbers = [f for f in encoder.features if isinstance(f, Continuous)]
    scaled = {f.name: Column(f.name, f.unit, f.mean, f.std) for f in numbers}
    return {column.name: column for column in columns} | scaled


@dataclass(frozen=True)
class Variable:
    """A variable and the encoded columns that stand for it; the value of the first is shown.

    Units are of continuous variables, `categories` (by column) of the others.
    """

    name: str
    meaning: str
    unit: str
    group: str
    columns: tuple[Column, ...]
    categories: Mapping[str, str]

    def read_natural(self, natural: pd.DataFrame) -> Float[np.ndarray, " n"]:
        """Read its value in natural units; NaN where not known, and of categories."""
        if self.categories:
            return np.full(len(natural), np.nan)
        return natural[self.columns[0].name].to_numpy(dtype=np.float64)

    def describe_value(self, natural: pd.Series, encoded: pd.Series) -> str:
        """Write a row's value with its unit, or its category."""
        if not self.categories:
            first = self.columns[0]
            return first.describe_value(float(natural[first.name]), float(encoded[first.name]))
        known = not any(np.isnan(float(natural[column])) for column in self.categories)
        row = natural if known else encoded
        chosen = [name for column, name in self.categories.items() if float(row[column]) >= 0.5]
        if known:
            return chosen[0] if chosen else "none of those known"
        return f"not known, read as {chosen[0]}" if chosen else "not known"


def name_variables(encoder: Encoder, specs: Sequence[FeatureSpec]) -> dict[str, str]:
    """Name the variable behind each encoded column."""
    variables = {spec.name: spec.variable for spec in specs}
    names = {c: variables[f.name] for f in encoder.features for c in f.columns}
    return names | {indicator.column: indicator.variable for indicator in encoder.indicators}


def sum_columns(
    values: Float[np.ndarray, "n columns"], columns: Sequence[str], sources: Mapping[str, str]
) -> pd.DataFrame:
    """Add up the columns that have one source, in the order in which the sources first appear."""
    table = pd.DataFrame(values, columns=[sources[column] for column in columns])
    return table.T.groupby(level=0, sort=False).sum().T


def describe_variables(encoder: Encoder, specs: Sequence[FeatureSpec]) -> dict[str, Variable]:
    """Describe all variables of an encoder; an `InputError` lists features that have no spec."""
    encoded, known = list_columns(encoder), {spec.name: spec for spec in specs}
    if missing := [f.name for f in encoder.features if f.name not in known]:
        problem = f"nothing on {missing}"
        raise InputError.of("features.json", problem, "an entry each", "Run dvc repro.")
    columns_by_name: dict[str, list[str]] = {}
    for column, name in name_variables(encoder, specs).items():
        columns_by_name.setdefault(name, []).append(column)
    features = {column: f for f in encoder.features for column in f.columns}
    variables = {}
    for name, columns in columns_by_name.items():
        own = list(dict.fromkeys(features[c].name for c in columns if c in features))
        first = known[own[0]]
        feature, categories = features[columns[0]], {}
        if isinstance(feature, Categorical) and len(own) == 1:
            categories = dict(zip(feature.columns, feature.categories, strict=True))
        variables[name] = Variable(
            name=name,
            meaning=_find_meaning([known[feature].description for feature in own]),
            unit=first.unit,
            group=first.group,
            columns=tuple(encoded[column] for column in columns),
            categories=categories,
        )
    return variables


def _find_meaning(descriptions: Sequence[str]) -> str:
    """Find what descriptions of one variable share: "Albumin, mean value ..." -> "Albumin"."""
    if len(descriptions) == 1:
        return descriptions[0]
    parts = [description.split(", ") for description in descriptions]
    shared = [each[0] for each in zip(*parts, strict=False) if len(set(each)) == 1]
    return ", ".join(shared) or descriptions[0]
