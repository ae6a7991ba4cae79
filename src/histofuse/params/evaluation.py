"""Sections ``evaluation`` and ``assessment``: what tables and figures show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histofuse.core.ids import Split
from histofuse.params.base import Section


class EvaluationParams(Section):
    """What is reported.

    Attributes:
        split: The split tables and figures are about; ``metrics.json`` holds all.
        primary_rule: The pairing that represents fusion; listed first in tables and figures.
        diagnoses_model: The model of ``tabular`` that is trained again without the diagnoses of
            the index admission, which are billed after it.
    """

    split: Split
    primary_rule: Annotated[str, Field(min_length=1)]
    diagnoses_model: Annotated[str, Field(min_length=1)]


class PositiveControlParams(Section):
    """What is measured on linked patients: names of methods in the section ``patients``.

    Attributes:
        image: Sees the image alone.
        record: Sees the record alone.
        both: The method of fusion.
        shuffles: Of the records among patients, each with a fusion model of its own.
    """

    image: Annotated[str, Field(min_length=1)]
    record: Annotated[str, Field(min_length=1)]
    both: Annotated[str, Field(min_length=1)]
    shuffles: Annotated[int, Field(ge=1)]


ConformalScore = Literal["lac", "lac_by_class"]
Share = Annotated[float, Field(gt=0, lt=1)]


class ThresholdRange(Section):
    """Threshold probabilities of the decision curve, from `low` to `high`."""

    low: Share
    high: Share
    step: Share

    @model_validator(mode="after")
    def _check_order(self) -> ThresholdRange:
        if self.high < self.low + self.step:
            raise ValueError("high at least one step above low")
        return self


class AssessmentParams(Section):
    """What the assessment shows; resamples and confidence are those of ``intervals``.

    Attributes:
        thresholds: At what probability one would act, over the range of the decision curve.
        specificities: Specificities at which sensitivity is read.
        sensitivities: Sensitivities at which specificity is read.
        coverage: Share of rows with a prediction set that should contain the true class.
        conformal_score: The method of the sets shown next to single predictions: ``lac``
            promises the coverage over all rows, ``lac_by_class`` in each class.
        age_bands_years: Where one age band ends and the next begins.
        fewest_in_subgroup: Patients below which a subgroup is not measured.
    """

    thresholds: ThresholdRange
    specificities: Annotated[list[Share], Field(min_length=1)]
    sensitivities: Annotated[list[Share], Field(min_length=1)]
    coverage: Share
    conformal_score: ConformalScore
    age_bands_years: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
    fewest_in_subgroup: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _check_bands(self) -> AssessmentParams:
        if sorted(set(self.age_bands_years)) != self.age_bands_years:
            raise ValueError("age_bands_years rising from one to the next")
        return self
