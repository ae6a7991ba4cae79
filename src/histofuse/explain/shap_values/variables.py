"""Encoded columns, summed to the variables that clinicians know.

The categories of an insurance are one variable; so are the mean, the lowest and the highest of a
laboratory value and the indicator that it is missing. Contributions are additive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.explain.shap_values.feature_labels import FeatureLabel, label_features, to_words
from histofuse.features.encoding import Categorical, Encoder
from histofuse.features.specs import FeatureSpec


@dataclass(frozen=True)
class Variable:
    """A variable and the encoded columns that stand for it; the value of the first is shown.

    Units are of continuous variables, `categories` (by column) of the others.
    """

    name: str
    text: str
    meaning: str
    unit: str
    group: str
    columns: tuple[FeatureLabel, ...]
    categories: Mapping[str, str]

    def read_natural(self, natural: pd.DataFrame) -> Float[np.ndarray, " n"]:
        """Read its value in natural units; NaN where not known, and of categories."""
        if self.categories:
            return np.full(len(natural), np.nan)
        return natural[self.columns[0].column].to_numpy(dtype=np.float64)

    def describe_value(self, natural: pd.Series, encoded: pd.Series) -> str:
        """Write a row's value with its unit, or its category."""
        if not self.categories:
            first = self.columns[0]
            return first.describe_value(float(natural[first.column]), float(encoded[first.column]))
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
    """Describe all variables of an encoder."""
    labels = label_features(encoder, specs)
    known = {spec.name: spec for spec in specs}
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
            text=to_words(name if len(own) > 1 else first.name, first.unit),
            meaning=_find_meaning([known[feature].description for feature in own]),
            unit=first.unit,
            group=first.group,
            columns=tuple(labels[column] for column in columns),
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
