"""Section ``cohort``: whom the EHR models are about, what they predict, and from when on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section

IndexAdmission = Literal["first_with_diagnosis", "first", "last", "all"]
PredictionTime = Literal["admission_plus_24h", "discharge"]
IcdPrefix = Annotated[str, Field(pattern=r"^[A-Z0-9]{1,7}$")]


class CohortParams(Section):
    """The cohort as a declaration.

    Attributes:
        icd9: Prefixes of undotted ICD-9-CM codes, such as "174"; strings, since zeros lead.
        icd10: Prefixes of undotted ICD-10-CM codes, such as "C50". Both lists empty: everyone.
        minimum_age_years: Age at the admission, from ``anchor_age`` and ``anchor_year``.
        target: A name of ``data.targets.TARGETS``.
        index_admission: The admission predicted from; ``all`` gives a row an admission.
        prediction_time: When the prediction is made; ``target_default`` leaves it to the target.
    """

    icd9: list[IcdPrefix]
    icd10: list[IcdPrefix]
    minimum_age_years: Annotated[int, Field(ge=0, le=120)]
    target: str
    index_admission: IndexAdmission
    prediction_time: Literal["target_default"] | PredictionTime
