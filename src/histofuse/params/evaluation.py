"""Sections ``evaluation`` and ``assessment``: what tables and figures show."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histofuse.core.ids import Split
from histofuse.params.base import Count, InnerShare, Section, Several, Text


class EvaluationParams(Section):
    """What is reported."""

    split: Split  # the split tables and figures are about
    primary_rule: Text  # the pairing that represents fusion
    diagnoses_model: Text


class PositiveControlParams(Section):
    """What is measured on linked patients: names of methods in the section ``patients``."""

    image: Text  # sees the image alone
    record: Text  # sees the record alone
    both: Text  # the method of fusion
    shuffles: Count


ConformalScore = Literal["lac", "lac_by_class"]


class ThresholdRange(Section):
    """Threshold probabilities of the decision curve, from `low` to `high`."""

    low: InnerShare
    high: InnerShare
    step: InnerShare

    @model_validator(mode="after")
    def _check_order(self) -> "ThresholdRange":
        if self.high < self.low + self.step:
            raise ValueError("high at least one step above low")
        return self


class AssessmentParams(Section):
    """What the assessment shows; resamples and confidence are those of ``intervals``."""

    thresholds: ThresholdRange
    specificities: Annotated[list[InnerShare], Field(min_length=1)]
    # Sensitivities at which specificity is read.
    sensitivities: Annotated[list[InnerShare], Field(min_length=1)]
    coverage: InnerShare
    conformal_score: ConformalScore
    # Where one age band ends and the next begins.
    age_bands_years: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
    fewest_in_subgroup: Several

    @model_validator(mode="after")
    def _check_bands(self) -> "AssessmentParams":
        if sorted(set(self.age_bands_years)) != self.age_bands_years:
            raise ValueError("age_bands_years rising from one to the next")
        return self
