"""Names of encoded columns for people, and their values in natural units."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from histofuse.core.errors import InputError
from histofuse.features.encoding import Binary, Categorical, Continuous, Encoder
from histofuse.features.specs import FeatureSpec

ABBREVIATIONS = ("alt", "ast", "bmi", "cea", "crp", "her2", "hiv", "inr")
# Spellings of whole words in feature names.
SPELLINGS = {name: name.upper() for name in ABBREVIATIONS}
SPELLINGS |= {"g csf": "G-CSF", "ca125": "CA-125", "ca 125": "CA-125"}
TIMES = ("years", "days", "hours")
# Units that are not shown after a number.
SILENT = ("ratio", "admissions", "groups")


@dataclass(frozen=True)
class FeatureLabel:
    """A name for an encoded column.

    `unit`, `mean` and `std` (which standardisation subtracted and divided by) are of continuous
    features; others have none.
    """

    column: str
    text: str
    unit: str
    group: str
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


def label_features(encoder: Encoder, specs: Sequence[FeatureSpec]) -> dict[str, FeatureLabel]:
    """Name all columns of an encoder; an `InputError` lists the features that have no spec."""
    known = {spec.name: spec for spec in specs}
    if missing := [f.name for f in encoder.features if f.name not in known]:
        problem = f"nothing on {missing}"
        raise InputError.of("features.json", problem, "an entry each", "Run dvc repro.")
    labels = [label for f in encoder.features for label in _label(f, known[f.name])]
    for indicator in encoder.indicators:
        group = known[indicator.sources[0]].group
        text = f"{to_words(indicator.variable, '')} not measured"
        labels.append(FeatureLabel(indicator.column, text, "", group))
    return {label.column: label for label in labels}


def _label(feature: Continuous | Binary | Categorical, spec: FeatureSpec) -> list[FeatureLabel]:
    text = to_words(spec.name, spec.unit)
    if isinstance(feature, Continuous):
        scale = (feature.mean, feature.std)
        return [FeatureLabel(spec.name, text, spec.unit, spec.group, *scale)]
    if isinstance(feature, Binary):
        return [FeatureLabel(spec.name, text, "", spec.group)]
    return [
        FeatureLabel(column, f"{text}: {category}", "", spec.group)
        for column, category in zip(feature.columns, feature.categories, strict=True)
    ]


def to_words(name: str, unit: str) -> str:
    """Write a column's name in words, without a unit of time: "age_years" -> "Age"."""
    words = (name.removesuffix(f"_{unit}") if unit in TIMES else name).replace("_", " ")
    for plain, spelling in SPELLINGS.items():
        words = re.sub(rf"\b{plain}\b", spelling, words)
    return words[:1].upper() + words[1:]
