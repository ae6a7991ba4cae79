"""Section ``simulation``: the size and content of the simulated data sets."""

from typing import Annotated

from pydantic import Field, model_validator

from histofuse.params.base import BelowOne, Count, InnerShare, Section, Share


class HistologySimulationParams(Section):
    """Size and content of the simulated BreCaHAD."""

    cases: Count
    frames_per_case: Annotated[int, Field(ge=1, le=99)]
    width_px: Annotated[int, Field(ge=64, le=20_000)]
    height_px: Annotated[int, Field(ge=64, le=20_000)]
    # Mean number of tumour, non-tumour and mitotic nuclei in a frame.
    nuclei_per_frame: Annotated[int, Field(ge=1, le=5_000)]
    mitosis_fraction: Share
    non_tumour_fraction: Share  # share of non-tumour nuclei among them

    @model_validator(mode="after")
    def _leave_room_for_tumour(self) -> "HistologySimulationParams":
        if self.mitosis_fraction + self.non_tumour_fraction > 1:
            raise ValueError("mitosis_fraction + non_tumour_fraction of at most 1")
        return self


class MimicSimulationParams(Section):
    """Number of simulated patients, and the share with 174.x or C50.x at an admission."""

    patients: Annotated[int, Field(ge=50, le=200_000)]
    breast_cancer_fraction: InnerShare


class LinkedSimulationParams(Section):
    """Simulated patients with a tissue and a record of their own (docs/positive_control.md)."""

    patients: Annotated[int, Field(ge=20, le=20_000)]
    nuclei_per_patient: Annotated[int, Field(ge=2, le=200)]  # marked nuclei, each with its patch
    train: Share  # share of patients
    validation: Share
    prevalence: InnerShare
    mitosis_fraction: InnerShare
    grade_effect: Annotated[float, Field(ge=0, le=5)]
    pleomorphism_correlation: BelowOne
    look_variation: Share
    severity_in_tissue: BelowOne
    severity_in_record: BelowOne
    missing: BelowOne
    shared: Annotated[float, Field(ge=0, le=10)]
    image_own: Annotated[float, Field(ge=0, le=10)]
    record_own: Annotated[float, Field(ge=0, le=10)]

    @model_validator(mode="after")
    def _leave_room_for_test(self) -> "LinkedSimulationParams":
        if self.train + self.validation >= 1:
            raise ValueError("train + validation below 1, which leaves a test split")
        return self
