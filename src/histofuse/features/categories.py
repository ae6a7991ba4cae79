"""Categories by the spellings that hospitals use, the same in training, prediction and serving.

MIMIC-IV writes 33 values of race and nine types of admission. They are grouped here; any other
category is its text without regard to case and blanks.
"""

import unicodedata
from collections.abc import Mapping
from functools import partial
from typing import Final

import pandas as pd
import polars as pl

Spellings = Mapping[str, tuple[str, ...]]

SEXES: Final[Spellings] = {"F": ("female", "woman"), "M": ("male", "man")}
# Observation stays are billed as outpatient care; the "EU" in one of them is the emergency unit.
ADMISSION_KINDS: Final[Spellings] = {
    "emergency": ("ew emer.", "direct emer.", "urgent"),
    "elective": ("surgical same day admission",),
    "observation": (
        "observation admit",
        "eu observation",
        "direct observation",
        "ambulatory observation",
    ),
}
# The first group with a matching beginning is taken.
RACE_GROUPS: Final[Spellings] = {
    "white": ("caucasian", "portuguese"),
    "black": ("african",),
    "hispanic": ("latin", "south american"),
    "asian": (),
    "unknown": ("unable to obtain", "patient declined"),
    "other": ("american indian", "native hawaiian", "multi", "caribbean", "middle eastern"),
}
_WHOLE: Final[Mapping[str, Spellings]] = {"sex": SEXES, "admission_kind": ADMISSION_KINDS}
_BEGINNINGS: Final[Mapping[str, Spellings]] = {"race_group": RACE_GROUPS}


def normalise_category(feature: str, text: str) -> str | None:
    """Bring one spelling of a category to the form that models know; None if it is blank.

    That is a category of this module's tables, else the text in lower case with single blanks.
    """
    cleaned = " ".join(unicodedata.normalize("NFKC", text).split()).lower()
    for category, words in _WHOLE.get(feature, {}).items():
        if cleaned in (category.lower(), *words):
            return category
    for category, words in _BEGINNINGS.get(feature, {}).items():
        if cleaned.startswith((category, *words)):
            return category
    return cleaned or None


def describe_unlisted(table: pd.DataFrame) -> list[str]:
    """Say how many values are none of the categories of this module, each of which is then one."""
    groups = {name: list(known) for name, known in (_WHOLE | _BEGINNINGS).items() if name in table}
    others = {
        name: table[name].notna() & ~table[name].isin(known) for name, known in groups.items()
    }
    return [
        f"{name}: {other.sum():,} of {len(other):,} values are none of {', '.join(groups[name])}"
        for name, other in others.items()
        if other.any()
    ]


def normalise_expression(feature: str, text: pl.Expr) -> pl.Expr:
    """Normalise a column; null stays null."""
    return text.map_elements(partial(normalise_category, feature), return_dtype=pl.String)


def normalise_column(column: pd.Series) -> pd.Series:
    """Normalise the texts of a column, which is named after its feature; null stays null."""
    spellings = {t: normalise_category(str(column.name), t) for t in column.dropna().unique()}
    return column.map(spellings).astype("str")
