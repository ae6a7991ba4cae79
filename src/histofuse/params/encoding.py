"""Section ``encoding``: how features become the numbers a model sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from histofuse.params.base import Section

Stratum = Literal["sex", "age_band"]
Share = Annotated[float, Field(ge=0, le=1)]


class EncodingParams(Section):
    """How features become the numbers a model sees; all of it is learnt from the train split.

    Attributes:
        maximum_missing: A feature missing in this share of train rows, or more, is dropped.
        strata: Medians are taken within these, and overall where a stratum has no value.
        indicator_minimum_missing: A sparse clinical variable gets a missing indicator when at
            least this share of its train rows is missing.
    """

    maximum_missing: Annotated[float, Field(gt=0, le=1)]
    strata: list[Stratum]
    indicator_minimum_missing: Share

    @field_validator("strata")
    @classmethod
    def _refuse_repeats(cls, strata: list[Stratum]) -> list[Stratum]:
        if len(set(strata)) != len(strata):
            raise ValueError("each stratum once")
        return strata
