"""Targets by name: what is predicted, for whom it is defined, and what would give it away.

A target is a declaration over *stays*, one row an admission, with the columns of `add_outcomes`.

In v2.2 ``patients.dod`` is kept up to one year after a patient's last discharge: a null means
"alive then". The end of data collection is not known for a patient, so the discharges of the last
30 days of twelve years (under 1 %) may lack a readmission that happened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import polars as pl

from histofuse.core.errors import InputError
from histofuse.data.mimic import Hospital
from histofuse.params.base import PARAMS_FILE
from histofuse.params.ehr import PredictionTime

# How the admission or the life ended; where the patient was discharged to; what is known only at
# discharge; that there is a cancer, or that it has spread.
Secret = Literal["ending", "destination", "discharge", "cancer"]

HOURS_AFTER_ADMISSION: Final = 24
MORTALITY_HORIZON_DAYS: Final = 365
READMISSION_HORIZON_DAYS: Final = 30

# Secondary neoplasms and disseminated cancer. C80.1 and 199.1 (unspecified *primary*) stay out.
METASTASIS_ICD9: Final = ("196", "197", "198", "1990")
METASTASIS_ICD10: Final = ("C77", "C78", "C79", "C800")
# Booked ahead; every other admission type counts as unplanned.
PLANNED_ADMISSIONS: Final = ("ELECTIVE", "SURGICAL SAME DAY ADMISSION", "AMBULATORY OBSERVATION")


def spell(column: str) -> pl.Expr:
    """Bring a column of categories to MIMIC's spelling: upper case, single blanks."""
    return pl.col(column).str.to_uppercase().str.replace_all(r"\s+", " ")


@dataclass(frozen=True)
class Condition:
    """A stay the target is defined for."""

    name: str  # its step in the attrition table
    description: str
    holds: pl.Expr  # over the columns of stays; null counts as not held


@dataclass(frozen=True)
class Target:
    """What is predicted, and what must not be seen while predicting it."""

    name: str  # in params
    description: str  # of the label
    # those it can be predicted at; the first is its ``target_default``
    prediction_times: tuple[PredictionTime, ...]
    label: pl.Expr  # boolean over the columns of stays
    conditions: tuple[Condition, ...]  # stays it is defined for
    # what no feature may give away; each group of features declares what it would
    secrets: tuple[Secret, ...]
    # whether the cohort's ICD lists define the cases rather than the cohort
    uses_diagnosis: bool = False

    def secrets_at(self, prediction_time: PredictionTime) -> tuple[Secret, ...]:
        """What must not be seen at that time: its own secrets, and what is known only later."""
        if prediction_time == "discharge":
            return self.secrets
        return ("discharge", *self.secrets)


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
    spell("discharge_location").ne_missing("ACUTE HOSPITAL"),
)
_NO_METASTASIS_YET = Condition(
    "no_earlier_metastasis",
    "no metastasis coded at an admission before the index one",
    ~pl.col("metastasis_before"),
)

_DAYS_TO_DEATH = (pl.col("dod") - pl.col("dischtime").dt.date()).dt.total_days()

TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target(
                name="mortality_1y",
                description="death within 365 days after the discharge of the index admission",
                prediction_times=("discharge",),
                label=_DAYS_TO_DEATH.is_between(0, MORTALITY_HORIZON_DAYS).fill_null(False),
                conditions=(_ALIVE,),
                secrets=("ending", "destination"),
            ),
            Target(
                name="in_hospital_mortality",
                description="death before the end of the admission",
                prediction_times=("admission_plus_24h",),
                label=pl.col("hospital_expire_flag") == 1,
                conditions=(_STILL_THERE,),
                secrets=("ending", "destination"),
            ),
            Target(
                name="readmission_30d",
                description="an unplanned admission within 30 days after the discharge; dying "
                "without one counts as none",
                prediction_times=("discharge",),
                label=pl.col("days_to_unplanned").le(READMISSION_HORIZON_DAYS).fill_null(False),
                conditions=(_ALIVE, _NO_TRANSFER),
                secrets=("ending",),
            ),
            Target(
                name="metastasis",
                description="a code of secondary or disseminated cancer at the index admission or "
                "a later one",
                prediction_times=("discharge", "admission_plus_24h"),
                label=pl.col("metastasis_from_now_on"),
                conditions=(_PRESENT, _NO_METASTASIS_YET),
                secrets=("ending", "destination", "cancer"),
            ),
            Target(
                name="breast_cancer",
                description="a code of the cohort's ICD lists at any admission (cases), against "
                "all other adults (controls)",
                prediction_times=("discharge", "admission_plus_24h"),
                label=pl.col("diagnosed_ever"),
                conditions=(_PRESENT,),
                uses_diagnosis=True,
                secrets=("ending", "cancer"),
            ),
        )
    }
)


def find_target(name: str) -> Target:
    """Look up a target by its name in params. Raises InputError if there is none of that name."""
    if name not in TARGETS:
        where = f"{PARAMS_FILE}, cohort.target"
        raise InputError.of(where, f"no target {name!r}", f"one of {', '.join(TARGETS)}")
    return TARGETS[name]


def has_code(icd9: Sequence[str], icd10: Sequence[str]) -> pl.Expr:
    """Match diagnoses by the prefixes of their undotted code, in its own version."""
    return _starts_with(9, icd9) | _starts_with(10, icd10)


def _starts_with(version: int, prefixes: Sequence[str]) -> pl.Expr:
    code = pl.col("icd_code")
    matches = pl.any_horizontal(pl.lit(False), *(code.str.starts_with(p) for p in prefixes))
    return (pl.col("icd_version") == version) & matches


def add_outcomes(
    stays: pl.DataFrame, hospital: Hospital, icd9: Sequence[str], icd10: Sequence[str]
) -> pl.DataFrame:
    """Add the columns that labels and conditions use to the admissions of all patients.

    `icd9` and `icd10` are prefixes of the cohort's diagnosis. Returns `stays` by subject_id and
    admittime with ``diagnosed`` (at this admission), ``diagnosed_ever``, ``metastasis_before`` and
    ``metastasis_from_now_on`` (booleans), and ``days_to_unplanned`` (float, from this discharge to
    the next unplanned admission, or null).
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
    """Days from each discharge to the same patient's next unplanned admission, in their order.

    An admission that begins before the discharge (an overlap in the record) is no readmission.
    """
    ordered = stays.sort("subject_id", "admittime", "hadm_id")
    unplanned = ordered.filter(~spell("admission_type").is_in(PLANNED_ADMISSIONS))
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
