"""Sections ``cohort``, ``ehr_features`` and ``encoding``: the health record side."""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.core.errors import InputError
from histofuse.core.privacy import FEWEST_PATIENTS, may_show_patients
from histofuse.params.base import Count, Distinct, NonNegative, Rate, Section, Share

IndexAdmission = Literal["first_with_diagnosis", "first", "last", "all"]
PredictionTime = Literal["admission_plus_24h", "discharge"]
IcdPrefix = Annotated[str, Field(pattern=r"^[A-Z0-9]{1,7}$")]


class CohortParams(Section):
    """The cohort as a declaration."""

    icd9: list[IcdPrefix]
    # Prefixes of undotted ICD-10-CM codes, such as "C50". Both lists empty: everyone.
    icd10: list[IcdPrefix]
    # Age at the admission, from anchor_age and anchor_year.
    minimum_age_years: Annotated[int, Field(ge=0, le=120)]
    target: str
    index_admission: IndexAdmission
    prediction_time: Literal["target_default"] | PredictionTime


GroupingName = Literal["elixhauser_ahrq", "elixhauser_quan"]
DiagnosesFrom = Literal["prior", "prior_and_index"]


class EhrFeaturesParams(Section):
    """What is computed from an admission's record up to its prediction time."""

    comorbidities: GroupingName
    diagnoses_from: DiagnosesFrom
    index_diagnoses: Literal["secondary", "all"]
    labs: Annotated[list[str], Distinct]
    lab_lookback_hours: NonNegative
    treatments: Annotated[list[str], Distinct]  # names of features/treatments.json
    treatment_lookback_days: NonNegative


Stratum = Literal["sex", "age_band"]


class EncodingParams(Section):
    """How features become the numbers a model sees; all of it is learnt from the train split."""

    # A feature missing in this share of train rows, or more, is dropped.
    maximum_missing: Rate
    strata: Annotated[list[Stratum], Distinct]
    indicator_minimum_missing: Share
    fewest_patients: Count

    def check_source(self, source: str) -> None:
        """Check that what is learnt of a source may leave it.

        Raises InputError if the source is restricted and `fewest_patients` too small for it.
        """
        if not may_show_patients([source]) and self.fewest_patients < FEWEST_PATIENTS:
            problem = f"is {self.fewest_patients}, and the records are of a restricted source"
            expected = f"at least {FEWEST_PATIENTS}: the encoder is part of every model"
            raise InputError.of("params.yaml, encoding.fewest_patients", problem, expected)
