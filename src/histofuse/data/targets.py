"""Targets by name: what is predicted, for whom it is defined, and what would give it away.

A target is a declaration over *stays*: one row an admission, with the columns that `add_outcomes`
derives from the whole record. Cohort building reads its conditions and label; feature building
reads what it masks.

What v2.2 lets one observe: ``patients.dod`` is kept up to one year after a patient's last
discharge, so death within 365 days of any discharge is known for every patient, and a null ``dod``
means "alive then". Dates are shifted patient by patient, so the end of data collection is not known
for a patient: the discharges of the last 30 days of twelve years (under 1 %) may lack a readmission
that happened, and cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import polars as pl

from histofuse.data.mimic import Hospital
from histofuse.params.cohort import PredictionTime, TargetName

HOURS_AFTER_ADMISSION: Final = 24
MORTALITY_HORIZON_DAYS: Final = 365
READMISSION_HORIZON_DAYS: Final = 30

# Secondary neoplasms and disseminated cancer. C80.1 and 199.1 (unspecified *primary*) stay out.
METASTASIS_ICD9: Final = ("196", "197", "198", "1990")
METASTASIS_ICD10: Final = ("C77", "C78", "C79", "C800")
# Booked ahead; every other admission type counts as unplanned.
PLANNED_ADMISSIONS: Final = ("ELECTIVE", "SURGICAL SAME DAY ADMISSION", "AMBULATORY OBSERVATION")


@dataclass(frozen=True)
class Condition:
    """A stay the target is defined for.

    Attributes:
        name: Its step in the attrition table.
        description: The rule in words.
        holds: Over the columns of stays; null counts as not held.
    """

    name: str
    description: str
    holds: pl.Expr


@dataclass(frozen=True)
class Target:
    """What is predicted, and what must not be seen while predicting it.

    The masks map a name to the reason it gives the target away: a comorbidity group (both
    Elixhauser variants), a treatment group, a laboratory value, or a single feature.

    Attributes:
        name: Its name in params.
        description: The label in words.
        prediction_times: Those it can be predicted at; the first is its default.
        label: Boolean over the columns of stays.
        conditions: Stays it is defined for.
        uses_diagnosis: Whether the cohort's ICD lists define the cases rather than the cohort.
    """

    name: TargetName
    description: str
    prediction_times: tuple[PredictionTime, ...]
    label: pl.Expr
    conditions: tuple[Condition, ...]
    uses_diagnosis: bool = False
    masked_comorbidities: Mapping[str, str] = field(default_factory=dict)
    masked_treatments: Mapping[str, str] = field(default_factory=dict)
    masked_labs: Mapping[str, str] = field(default_factory=dict)
    masked_features: Mapping[str, str] = field(default_factory=dict)

    @property
    def default_prediction_time(self) -> PredictionTime:
        """The prediction time of ``target_default``."""
        return self.prediction_times[0]

    def diagnoses_prior_only(self, prediction_time: PredictionTime) -> bool:
        """Tell whether only diagnoses of earlier admissions may be used.

        Billing codes are assigned after discharge, so before it those of the index admission do
        not exist yet.
        """
        return prediction_time != "discharge"

    def masked_features_at(self, prediction_time: PredictionTime) -> Mapping[str, str]:
        """The single features masked, with those unknown at that time added to its own."""
        if prediction_time == "discharge":
            return self.masked_features
        return MappingProxyType({**_KNOWN_AT_DISCHARGE, **self.masked_features})


def _because(reason: str, *names: str) -> Mapping[str, str]:
    return MappingProxyType(dict.fromkeys(names, reason))


_KNOWN_AT_DISCHARGE = _because(
    "known only at discharge, after the prediction",
    "length_of_stay_days",
    "discharge_location",
)
_OUTCOME = _because(
    "records how the admission, or the life, ended", "hospital_expire_flag", "deathtime", "dod"
)
_DESTINATION = _because("'DIED' and 'HOSPICE' are the outcome", "discharge_location")
_CANCER_CODES = _because(
    "holds C50/174 or C77-C80/196-199 themselves, or is emptied by them in the group hierarchy",
    "metastatic_cancer",
    "solid_tumour",
    "lymphoma",
)
_CANCER_DRUGS = _because(
    "given for the cancer or its spread",
    "chemotherapy",
    "endocrine",
    "her2",
    "g_csf",
    "bisphosphonates",
)
_TUMOUR_MARKERS = _because(
    "a tumour marker, measured in those known to have the cancer",
    "cea",
    "ca_125",
    "ca_15_3",
    "ca_19_9",
    "ca_27_29",
)

_ALIVE = Condition(
    "alive_at_discharge",
    "left the index admission alive (no hospital death, no date of death before the discharge)",
    (pl.col("hospital_expire_flag") == 0)
    & pl.col("deathtime").is_null()
    & (pl.col("dod") >= pl.col("dischtime").dt.date()).fill_null(True),
)
_STILL_THERE = Condition(
    "in_hospital_at_prediction",
    f"in hospital and alive {HOURS_AFTER_ADMISSION} h after admission (shorter stays have ended, "
    "well or badly, before there is anything to predict)",
    (pl.col("dischtime") > pl.col("prediction_time"))
    & (pl.col("deathtime") > pl.col("prediction_time")).fill_null(True),
)
_PRESENT = Condition(
    "present_at_prediction",
    "admission lasts up to the prediction time",
    pl.col("dischtime") >= pl.col("prediction_time"),
)
_NO_TRANSFER = Condition(
    "not_transferred",
    "not transferred to another acute hospital, where the same stay goes on",
    pl.col("discharge_location").ne_missing("ACUTE HOSPITAL"),
)
_NO_METASTASIS_YET = Condition(
    "no_earlier_metastasis",
    "no metastasis coded at an admission before the index one",
    ~pl.col("metastasis_before"),
)

_DAYS_TO_DEATH = (pl.col("dod") - pl.col("dischtime").dt.date()).dt.total_days()

TARGETS: Final[Mapping[TargetName, Target]] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="mortality_1y",
                description="death within 365 days after the discharge of the index admission",
                prediction_times=("discharge",),
                label=_DAYS_TO_DEATH.is_between(0, MORTALITY_HORIZON_DAYS).fill_null(False),
                conditions=(_ALIVE,),
                masked_features={**_OUTCOME, **_DESTINATION},
            ),
            Target(
                name="in_hospital_mortality",
                description="death before the end of the admission",
                prediction_times=("admission_plus_24h",),
                label=pl.col("hospital_expire_flag") == 1,
                conditions=(_STILL_THERE,),
                masked_features={**_OUTCOME, **_DESTINATION},
            ),
            Target(
                name="readmission_30d",
                description="an unplanned admission within 30 days after the discharge; dying "
                "without one counts as none",
                prediction_times=("discharge",),
                label=pl.col("days_to_unplanned").le(READMISSION_HORIZON_DAYS).fill_null(False),
                conditions=(_ALIVE, _NO_TRANSFER),
                masked_features=_OUTCOME,
            ),
            Target(
                name="metastasis",
                description="a code of secondary or disseminated cancer at the index admission or "
                "a later one",
                prediction_times=("discharge", "admission_plus_24h"),
                label=pl.col("metastasis_from_now_on"),
                conditions=(_PRESENT, _NO_METASTASIS_YET),
                masked_comorbidities=_CANCER_CODES,
                masked_treatments=_CANCER_DRUGS,
                masked_labs=_TUMOUR_MARKERS,
                masked_features={**_OUTCOME, **_DESTINATION},
            ),
            Target(
                name="breast_cancer",
                description="a code of the cohort's ICD lists at any admission (cases), against "
                "all other adults (controls)",
                prediction_times=("discharge", "admission_plus_24h"),
                label=pl.col("diagnosed_ever"),
                conditions=(_PRESENT,),
                uses_diagnosis=True,
                masked_comorbidities=_CANCER_CODES,
                masked_treatments=_CANCER_DRUGS,
                masked_labs=_TUMOUR_MARKERS,
                masked_features=_OUTCOME,
            ),
        )
    }
)


def has_code(icd9: Sequence[str], icd10: Sequence[str]) -> pl.Expr:
    """Match diagnoses whose undotted code starts with a prefix of its own version."""
    return _starts_with(9, icd9) | _starts_with(10, icd10)


def _starts_with(version: int, prefixes: Sequence[str]) -> pl.Expr:
    code = pl.col("icd_code")
    matches = pl.any_horizontal(pl.lit(False), *(code.str.starts_with(p) for p in prefixes))
    return (pl.col("icd_version") == version) & matches


def add_outcomes(
    stays: pl.DataFrame, hospital: Hospital, icd9: Sequence[str], icd10: Sequence[str]
) -> pl.DataFrame:
    """Add what each target is told by, for all admissions of a patient in order of time.

    Args:
        stays: One row an admission of every patient, with ``dod``.
        hospital: The tables it stems from.
        icd9: Prefixes of the cohort's diagnosis.
        icd10: Prefixes of the cohort's diagnosis.

    Returns:
        `stays` by subject_id and admittime with ``diagnosed`` (at this admission),
        ``diagnosed_ever``, ``metastasis_before`` and ``metastasis_from_now_on`` (booleans), and
        ``days_to_unplanned`` (float, from this discharge to the next unplanned admission, or null).
    """
    diagnoses = hospital.diagnoses
    diagnosed = diagnoses.filter(has_code(icd9, icd10))["hadm_id"].unique().implode()
    spread = diagnoses.filter(has_code(METASTASIS_ICD9, METASTASIS_ICD10))["hadm_id"]
    here = pl.col("metastasis_here").cast(pl.Int8)
    return (
        stays.sort("subject_id", "admittime", "hadm_id")
        .with_columns(
            diagnosed=pl.col("hadm_id").is_in(diagnosed),
            metastasis_here=pl.col("hadm_id").is_in(spread.unique().implode()),
        )
        .with_columns(
            diagnosed_ever=pl.col("diagnosed").any().over("subject_id"),
            metastasis_before=(here.cum_max().shift(1).over("subject_id") == 1).fill_null(False),
            metastasis_from_now_on=here.cum_max(reverse=True).over("subject_id") == 1,
            days_to_unplanned=_days_to_unplanned(stays),
        )
        .drop("metastasis_here")
    )


def _days_to_unplanned(stays: pl.DataFrame) -> pl.Series:
    """Days from each discharge to the same patient's next unplanned admission.

    Rows are ordered by subject_id, admittime and hadm_id. An admission that begins before the
    discharge (an overlap in the record) is no readmission.
    """
    ordered = stays.sort("subject_id", "admittime", "hadm_id")
    unplanned = ordered.filter(~pl.col("admission_type").is_in(PLANNED_ADMISSIONS))
    following = unplanned.select("subject_id", next_admittime="admittime").sort("next_admittime")
    joined = (
        ordered.with_row_index("row")
        .sort("dischtime")
        .join_asof(
            following,
            left_on="dischtime",
            right_on="next_admittime",
            by="subject_id",
            strategy="forward",
            check_sortedness=False,  # both are sorted above; polars cannot tell within groups
        )
        .sort("row")
    )
    gap = joined["next_admittime"] - joined["dischtime"]
    return gap.dt.total_seconds() / 86_400
