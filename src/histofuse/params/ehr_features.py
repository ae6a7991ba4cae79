"""Section ``ehr_features``: what is computed from an admission's record."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from histofuse.params.base import Section

GroupingName = Literal["elixhauser_ahrq", "elixhauser_quan"]
DiagnosesFrom = Literal["prior", "prior_and_index"]


class EhrFeaturesParams(Section):
    """What is computed from an admission's record up to its prediction time.

    Attributes:
        comorbidities: ``elixhauser_ahrq`` (29 groups) or ``elixhauser_quan`` (31).
        diagnoses_from: Whether the index admission's billing codes count besides earlier ones. A
            prediction before discharge uses earlier ones alone, whatever stands here.
        labs: Names of ``features/labs.json``.
        lab_lookback_hours: How long before admission a laboratory value still counts; it covers
            the emergency department.
        treatments: Names of ``features/treatments.json``.
        treatment_lookback_days: How long before admission a prescription still counts.
    """

    comorbidities: GroupingName
    diagnoses_from: DiagnosesFrom
    labs: list[str]
    lab_lookback_hours: Annotated[float, Field(ge=0)]
    treatments: list[str]
    treatment_lookback_days: Annotated[float, Field(ge=0)]

    @field_validator("labs", "treatments")
    @classmethod
    def _refuse_repeats(cls, names: list[str]) -> list[str]:
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"each name once, found {', '.join(repeated)} more than once")
        return names
