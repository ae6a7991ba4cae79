"""What a group of EHR features is. The groups themselves are listed in `features.ehr.GROUPS`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

import polars as pl

from histofuse.core.errors import Fault, InputError
from histofuse.data.mimic_tables import read_rows
from histofuse.data.targets import Secret
from histofuse.features.specs import FeatureSpec
from histofuse.params.ehr import EhrFeaturesParams, PredictionTime

ADMISSION_COLUMNS: Final = (
    *("subject_id", "hadm_id", "admittime", "dischtime"),
    *("admission_location", "language", "edregtime"),
)


@dataclass(frozen=True)
class Request:
    """What a group is built from."""

    # the columns of ``ADMISSIONS`` (data/cohort.py), one row per index admission, by key
    index: pl.DataFrame
    root: Path  # the folder that holds ``hosp/``
    params: EhrFeaturesParams  # section ``ehr_features``
    prediction_time: PredictionTime  # nothing later may be used
    # names that would give the target away; no feature may be built from them
    masked: frozenset[str]

    @cached_property
    def subjects(self) -> dict[str, list[int]]:
        """The rows to keep of a table: those of the cohort's patients."""
        return {"subject_id": self.index["subject_id"].unique().to_list()}

    @cached_property
    def admissions(self) -> pl.DataFrame:
        """`ADMISSION_COLUMNS` of every admission of the cohort's patients."""
        return read_rows(self.root, "admissions", ADMISSION_COLUMNS, self.subjects)


@dataclass(frozen=True)
class Giveaway:
    """Names in a group that would give something about the target away."""

    secret: Secret  # what they give away; a target lists what must stay hidden
    reason: str  # why, for ``masked.json`` and the report
    names: tuple[str, ...]  # features, or what features are built from, such as a laboratory test


@dataclass(frozen=True)
class FeatureGroup:
    """A group of features."""

    name: str  # in ``features.json`` and the report
    # the features, in the order of their columns; masked ones are left out afterwards
    specs: Callable[[Request], Sequence[FeatureSpec]]
    # ``subject_id``, ``hadm_id`` and the columns of the features, one row per index admission; and
    # a table on the quality of the source, or None
    build: Callable[[Request], tuple[pl.DataFrame, pl.DataFrame | None]]
    gives_away: tuple[Giveaway, ...] = ()  # what must be masked, depending on the target

    def mask(self, secrets: Collection[Secret]) -> dict[str, str]:
        """Names that would give a secret away, with the reason."""
        return {
            name: giveaway.reason
            for giveaway in self.gives_away
            if giveaway.secret in secrets
            for name in giveaway.names
        }


def require_content(table: pl.DataFrame, where: Path, problem: str, remedy: str) -> None:
    """Stop at features that are null or zero for every index admission."""
    features = table.drop("subject_id", "hadm_id")
    if features.width and not any(features.select((pl.all().fill_null(0) != 0).any()).row(0)):
        expected = f"some in the records of the cohort's {table.height:,} admissions"
        raise InputError.of(where, problem, expected, remedy)


T = TypeVar("T")


def choose(names: Sequence[str], known: Mapping[str, T], key: str) -> list[T]:
    """Look up definitions by name; InputError with every name that is not defined."""
    expected = f"names out of: {', '.join(known)}"
    faults = [Fault(key, f"{name!r}", expected) for name in names if name not in known]
    if faults:
        raise InputError(faults)
    return [known[name] for name in names]
