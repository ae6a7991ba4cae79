"""Section ``simulation.mimiciv``: the size of the simulated hospital."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Section


class MimicSimulationParams(Section):
    """How many patients are simulated, and which share of them has breast cancer.

    Attributes:
        patients: Patients in all.
        breast_cancer_fraction: Share that carries 174.x or C50.x at an admission.
    """

    patients: Annotated[int, Field(ge=50, le=200_000)]
    breast_cancer_fraction: Annotated[float, Field(gt=0.0, lt=1.0)]
