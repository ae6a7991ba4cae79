"""Sections ``cohort``, ``ehr_features`` and ``encoding``: the health record side."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from histofuse.core.errors import Fault, InputError
from histofuse.core.privacy import FEWEST_PATIENTS, may_show_patients
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
        index_admission: The admission predicted from; ``all`` gives one row per admission.
        prediction_time: When the prediction is made; ``target_default`` leaves it to the target.
    """

    icd9: list[IcdPrefix]
    icd10: list[IcdPrefix]
    minimum_age_years: Annotated[int, Field(ge=0, le=120)]
    target: str
    index_admission: IndexAdmission
    prediction_time: Literal["target_default"] | PredictionTime


GroupingName = Literal["elixhauser_ahrq", "elixhauser_quan"]
DiagnosesFrom = Literal["prior", "prior_and_index"]


class EhrFeaturesParams(Section):
    """What is computed from an admission's record up to its prediction time.

    Attributes:
        comorbidities: ``elixhauser_ahrq`` (29 groups) or ``elixhauser_quan`` (31).
        diagnoses_from: Whether the index admission's billing codes count, not only earlier ones.
            A prediction before discharge uses only earlier ones, whatever is set here.
        index_diagnoses: Which codes of the index admission are comorbidities: ``secondary`` as
            published (Elixhauser 1998, AHRQ), without the principal one (``seq_num`` 1); or
            ``all``.
        labs: Names of ``features/labs.json``.
        lab_lookback_hours: How long before admission a laboratory value still counts; it covers
            the emergency department.
        treatments: Names of ``features/treatments.json``.
        treatment_lookback_days: How long before admission a prescription still counts.
    """

    comorbidities: GroupingName
    diagnoses_from: DiagnosesFrom
    index_diagnoses: Literal["secondary", "all"]
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


Stratum = Literal["sex", "age_band"]
Share = Annotated[float, Field(ge=0, le=1)]


class EncodingParams(Section):
    """How features become the numbers a model sees; all of it is learnt from the train split.

    Attributes:
        maximum_missing: A feature missing in this share of train rows, or more, is dropped.
        strata: Medians are taken within these, and overall where a stratum has no value.
        indicator_minimum_missing: A sparse clinical variable gets a missing indicator when at
            least this share of its train rows is missing.
        fewest_patients: No median, category or mean is learnt from fewer train patients: such a
            stratum takes the overall median, such a category counts as unknown. Restricted sources
            need at least `privacy.FEWEST_PATIENTS`.
    """

    maximum_missing: Annotated[float, Field(gt=0, le=1)]
    strata: list[Stratum]
    indicator_minimum_missing: Share
    fewest_patients: Annotated[int, Field(ge=1)]

    def check_source(self, source: str) -> None:
        """Check that what is learnt of a source may leave it.

        Raises:
            InputError: If the source is restricted and `fewest_patients` too small for it.
        """
        if not may_show_patients([source]) and self.fewest_patients < FEWEST_PATIENTS:
            problem = f"is {self.fewest_patients}, and the records are of a restricted source"
            expected = f"at least {FEWEST_PATIENTS}: the encoder is part of every model"
            raise InputError([Fault("params.yaml, encoding.fewest_patients", problem, expected)])

    @field_validator("strata")
    @classmethod
    def _refuse_repeats(cls, strata: list[Stratum]) -> list[Stratum]:
        if len(set(strata)) != len(strata):
            raise ValueError("each stratum once")
        return strata
