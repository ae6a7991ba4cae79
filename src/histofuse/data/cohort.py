"""MIMIC-IV tables -> index admissions with prediction time and target, and the attrition."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import polars as pl

from histofuse.core.errors import InputError
from histofuse.core.tables import Contract, parse_columns
from histofuse.data.mimic import Hospital
from histofuse.data.targets import HOURS_AFTER_ADMISSION, Target, add_outcomes, find_target
from histofuse.params.base import PARAMS_FILE
from histofuse.params.ehr import CohortParams, IndexAdmission, PredictionTime

COHORT: Final = Contract(
    name="index admissions",
    columns=parse_columns("subject_id:int hadm_id:int target:int"),
    key=("subject_id", "hadm_id"),
    open_ended=True,
)
ADMISSIONS: Final = Contract(
    name="index admissions of MIMIC-IV",
    columns=parse_columns(
        "subject_id:int hadm_id:int admittime:datetime dischtime:datetime "
        "prediction_time:datetime target:int age_years:float sex race insurance marital_status "
        "admission_type"
    ),
    key=("subject_id", "hadm_id"),
)
DEMOGRAPHICS: Final = ("sex", "race", "insurance", "marital_status", "admission_type")


@dataclass
class Attrition:
    """Number of patients and admissions left after each step."""

    steps: list[dict[str, Any]] = field(default_factory=list)

    def note(self, name: str, description: str, patients: int, admissions: int) -> None:
        """Add a step with what is left after it."""
        step = {"step": len(self.steps) + 1, "name": name, "description": description}
        left = {"patients": patients, "admissions": admissions}
        last = self.steps[-1] if self.steps else left
        removed = {f"removed_{unit}": last[unit] - count for unit, count in left.items()}
        self.steps.append(step | left | removed)

    def keep(self, stays: pl.DataFrame, name: str, text: str, holds: pl.Expr) -> pl.DataFrame:
        """Filter stays and note the step; null counts as not held."""
        kept = stays.filter(holds.fill_null(False))
        self.note(name, text, kept["subject_id"].n_unique(), kept.height)
        return kept

    def to_table(self) -> pd.DataFrame:
        """One row a step."""
        return pd.DataFrame(self.steps)

    def __str__(self) -> str:
        return ", ".join(f"{s['patients']:,}/{s['admissions']:,} {s['name']}" for s in self.steps)


@dataclass(frozen=True)
class Cohort:
    """The cohort and how it was selected."""

    table: pd.DataFrame  # rows by subject_id and hadm_id, as `ADMISSIONS` has them
    attrition: Attrition
    target: Target
    prediction_time: PredictionTime
    index_admission: IndexAdmission  # which admission represents a patient

    def describe(self) -> dict[str, Any]:
        """Describe the rows, for ``meta.json``."""
        return {
            "target": self.target.name,
            "description": self.target.description,
            "prediction_time": self.prediction_time,
            "index_admission": self.index_admission,
            **count_rows(self.table),
        }


def count_rows(table: pd.DataFrame) -> dict[str, int]:
    """Count the patients, admissions and positives of a `COHORT`."""
    patients, positives = int(table["subject_id"].nunique()), int(table["target"].sum())
    return {"patients": patients, "admissions": len(table), "positives": positives}


def build_cohort(hospital: Hospital, params: CohortParams, source: str | Path) -> Cohort:
    """Select index admissions, one per patient (or all), and label them.

    Demographics are the index admission's own; a null one is filled from earlier admissions, never
    from later ones. With ICD lists, ``first_with_diagnosis``, ``last`` and ``all`` begin at the
    first admission that carries the diagnosis; ``first`` may lie before it and then knows a
    patient's future.

    Raises InputError if the target or its prediction time is wrong, or the cohort is empty or holds
    one class only; the message holds the attrition table and `source`, the folder of the tables.
    """
    target = find_target(params.target)
    prediction_time = choose_prediction_time(target, params)
    index_admission = choose_index_admission(target, params)

    attrition = Attrition()
    patients, admissions = hospital.patients.height, hospital.admissions.height
    attrition.note("everyone", "all patients of the data set", patients, admissions)
    moment = pl.col("dischtime")  # nothing after it may be a feature
    if prediction_time == "admission_plus_24h":
        moment = pl.col("admittime") + pl.duration(hours=HOURS_AFTER_ADMISSION)
    stays = describe_stays(hospital, params).with_columns(prediction_time=moment)
    stays = _select_stays(stays, params, target, attrition)
    onset = not target.uses_diagnosis
    stays = _select_index(stays, index_admission, attrition, from_diagnosis=onset)
    text = f"age, {', '.join(DEMOGRAPHICS)} known at the index admission"
    known = pl.all_horizontal(pl.col("age_years", *DEMOGRAPHICS).is_not_null())
    stays = attrition.keep(stays, "complete_demographics", text, known)
    for condition in target.conditions:
        stays = attrition.keep(stays, condition.name, condition.description, condition.holds)
    stays = stays.with_columns(target=target.label.cast(pl.Int64))
    _check_classes(stays, target, attrition, source)
    return Cohort(_to_table(stays), attrition, target, prediction_time, index_admission)


def choose_prediction_time(target: Target, params: CohortParams) -> PredictionTime:
    """Resolve ``target_default``, and refuse a time at which the target is already known.

    Raises InputError if the target cannot be predicted then.
    """
    if params.prediction_time == "target_default":
        return target.prediction_times[0]
    if params.prediction_time not in target.prediction_times:
        problem = f"{params.prediction_time!r} does not suit the target {target.name}"
        allowed = ", ".join(("target_default", *target.prediction_times))
        raise InputError.of(f"{PARAMS_FILE}, cohort.prediction_time", problem, f"one of {allowed}")
    return params.prediction_time


def choose_index_admission(target: Target, params: CohortParams) -> IndexAdmission:
    """Resolve the index admission.

    Where the diagnosis is the target, an index that depends on it would give it away (controls have
    none), so ``first_with_diagnosis`` means the first admission, for cases and controls alike.
    Raises InputError if the target needs ICD lists to tell cases from controls, and both are empty.
    """
    if target.uses_diagnosis and not (params.icd9 or params.icd10):
        where = f"{PARAMS_FILE}, cohort.icd9 and cohort.icd10"
        problem = f"both are empty, but the target {target.name} takes its cases from them"
        raise InputError.of(where, problem, 'prefixes such as "174" and C50')
    if target.uses_diagnosis and params.index_admission == "first_with_diagnosis":
        return "first"
    return params.index_admission


def describe_stays(hospital: Hospital, params: CohortParams) -> pl.DataFrame:
    """Join admissions to patients: one row an admission, by subject_id, admittime and hadm_id.

    ``age_years`` is anchor_age + year(admittime) - anchor_year (patients.anchor_*), right to the
    year; ages above 89 are 91 at the anchor.
    """
    patients = hospital.patients.select("subject_id", "anchor_age", "anchor_year", "dod", "gender")
    age = pl.col("anchor_age") + pl.col("admittime").dt.year() - pl.col("anchor_year")
    stays = (
        hospital.admissions.join(patients, on="subject_id", how="inner")
        .sort("subject_id", "admittime", "hadm_id")
        .with_columns(
            pl.col("race", "insurance", "marital_status").forward_fill().over("subject_id"),
            age_years=age.cast(pl.Float64),
            sex=pl.col("gender"),
        )
    )
    return add_outcomes(stays, hospital, params.icd9, params.icd10)


def _select_stays(
    stays: pl.DataFrame, params: CohortParams, target: Target, attrition: Attrition
) -> pl.DataFrame:
    after = pl.col("dischtime") > pl.col("admittime")
    stays = attrition.keep(stays, "admitted", "an admission that ends after it begins", after)
    minimum = params.minimum_age_years
    adult = pl.col("age_years") >= minimum
    stays = attrition.keep(stays, "adult", f"admissions at {minimum} years or older", adult)
    if target.uses_diagnosis or not (params.icd9 or params.icd10):
        return stays
    codes = [f"ICD-9 {c}" for c in params.icd9] + [f"ICD-10 {c}" for c in params.icd10]
    description = f"patients with {', '.join(codes)} at one of these admissions"
    carries = pl.col("diagnosed").any().over("subject_id")
    return attrition.keep(stays, "diagnosis", description, carries)


_INDEX_DESCRIPTIONS: Final[dict[IndexAdmission, str]] = {
    "first_with_diagnosis": "one index admission per patient: the first with the diagnosis",
    "first": "one index admission per patient: the first",
    "last": "one index admission per patient: the last",
    "all": "every admission, from the first with the diagnosis where one is required",
}


def _select_index(
    stays: pl.DataFrame,
    index_admission: IndexAdmission,
    attrition: Attrition,
    *,
    from_diagnosis: bool,
) -> pl.DataFrame:
    """Choose index admissions; where no diagnosis is asked for, among all of a patient's."""
    onset = pl.col("diagnosed").cast(pl.Int8).cum_max().over("subject_id") == 1
    begun = onset | ~pl.col("diagnosed").any().over("subject_id")
    number = pl.int_range(pl.len()).over("subject_id")
    if from_diagnosis and index_admission != "first":
        stays = stays.filter(begun)
    last = pl.len().over("subject_id") - 1
    holds = {"last": number == last, "all": pl.lit(True)}.get(index_admission, number == 0)
    return attrition.keep(stays, "index", _INDEX_DESCRIPTIONS[index_admission], holds)


def _check_classes(
    stays: pl.DataFrame, target: Target, attrition: Attrition, source: str | Path
) -> None:
    classes = stays["target"].unique().to_list()
    if len(classes) == 2:
        return
    problem, expected = "the cohort is empty", "at least one admission"
    if classes:
        problem = f"all {stays.height} admissions have {target.name} = {classes[0]}"
        expected = "admissions with target 0 and with target 1"
    remedy = f"Widen the section cohort of {PARAMS_FILE}. Patients/admissions left: {attrition}."
    raise InputError.of(source, problem, expected, remedy)


def _to_table(stays: pl.DataFrame) -> pd.DataFrame:
    table = stays.select(ADMISSIONS.columns.keys()).sort("subject_id", "hadm_id").to_pandas()
    texts = [name for name, kind in ADMISSIONS.columns.items() if kind == "str"]
    return table.astype(dict.fromkeys(texts, "str"))
