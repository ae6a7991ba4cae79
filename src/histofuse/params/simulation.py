"""Section ``simulation``: the size and content of the simulated data sets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from histofuse.params.base import Section

Share = Annotated[float, Field(ge=0, le=1)]


class HistologySimulationParams(Section):
    """Size and content of the simulated BreCaHAD.

    Attributes:
        nuclei_per_frame: Mean number of tumour, non-tumour and mitotic nuclei in a frame.
        mitosis_fraction: Share of mitoses among them; uneven over cases, some have none.
        non_tumour_fraction: Share of non-tumour nuclei among them.
    """

    cases: Annotated[int, Field(ge=1)]
    frames_per_case: Annotated[int, Field(ge=1, le=99)]
    width_px: Annotated[int, Field(ge=64, le=20_000)]
    height_px: Annotated[int, Field(ge=64, le=20_000)]
    nuclei_per_frame: Annotated[int, Field(ge=1, le=5_000)]
    mitosis_fraction: Share
    non_tumour_fraction: Share

    @model_validator(mode="after")
    def _leave_room_for_tumour(self) -> HistologySimulationParams:
        if self.mitosis_fraction + self.non_tumour_fraction > 1:
            raise ValueError("mitosis_fraction + non_tumour_fraction of at most 1")
        return self


class MimicSimulationParams(Section):
    """Number of simulated patients, and the share with 174.x or C50.x at an admission."""

    patients: Annotated[int, Field(ge=50, le=200_000)]
    breast_cancer_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]


class LinkedSimulationParams(Section):
    """Simulated patients with a tissue and a record of their own (docs/positive_control.md).

    Attributes:
        patients: Over all splits.
        nuclei_per_patient: Marked nuclei, each with its patch.
        train: Share of patients.
        validation: Share of patients; the rest is the test split.
        prevalence: Share of patients with the outcome, on average.
        mitosis_fraction: Of the nuclei of the tumour, at mean grade.
        grade_effect: On the log-odds of a mitosis, a standard deviation of the grade.
        pleomorphism_correlation: Of a patient's pleomorphism with the grade.
        look_variation: How much stains and scanner differ from patient to patient; 1 is as much as
            between the cases of BreCaHAD.
        severity_in_tissue: Correlation of the grade with the severity.
        severity_in_record: Correlation of each marker with the severity.
        missing: Share of recorded values that are missing, at random.
        shared: Log-odds of the outcome, a standard deviation of what the record tells of severity.
        image_own: The same of the grade's own part, which no record tells; 0 is the null.
        record_own: The same of what only the record tells.
    """

    patients: Annotated[int, Field(ge=20, le=20_000)]
    nuclei_per_patient: Annotated[int, Field(ge=2, le=200)]
    train: Share
    validation: Share
    prevalence: Annotated[float, Field(gt=0, lt=1)]
    mitosis_fraction: Annotated[float, Field(gt=0, lt=1)]
    grade_effect: Annotated[float, Field(ge=0, le=5)]
    pleomorphism_correlation: Annotated[float, Field(ge=0, lt=1)]
    look_variation: Share
    severity_in_tissue: Annotated[float, Field(ge=0, lt=1)]
    severity_in_record: Annotated[float, Field(ge=0, lt=1)]
    missing: Annotated[float, Field(ge=0, lt=1)]
    shared: Annotated[float, Field(ge=0, le=10)]
    image_own: Annotated[float, Field(ge=0, le=10)]
    record_own: Annotated[float, Field(ge=0, le=10)]

    @model_validator(mode="after")
    def _leave_room_for_test(self) -> LinkedSimulationParams:
        if self.train + self.validation >= 1:
            raise ValueError("train + validation below 1, which leaves a test split")
        return self
