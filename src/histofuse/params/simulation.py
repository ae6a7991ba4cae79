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
