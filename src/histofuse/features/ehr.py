"""The feature table: one row an index admission, nothing from after its prediction time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import polars as pl

from histofuse.data.mimic import collect_rows, find_table, read_rows, scan_rows
from histofuse.data.targets import Target
from histofuse.features.comorbidity import COUNT, Grouping, build_comorbidities, load_grouping
from histofuse.features.demographics import ADMISSION_COLUMNS, build_demographics
from histofuse.features.labs import (
    LABEVENT_COLUMNS,
    STATISTICS,
    Lab,
    aggregate_labs,
    choose_labs,
    count_fates,
    spread_labs,
)
from histofuse.features.specs import KEY, FeatureSpec, Group, Kind
from histofuse.features.treatments import (
    PRESCRIPTION_COLUMNS,
    Treatment,
    choose_treatments,
    flag_treatments,
    select_orders,
)
from histofuse.params.cohort import PredictionTime
from histofuse.params.ehr_features import DiagnosesFrom, EhrFeaturesParams

DIAGNOSIS_COLUMNS: Final = ("subject_id", "hadm_id", "icd_code", "icd_version")
INDEX_COLUMNS: Final = ("subject_id", "hadm_id", "admittime", "dischtime", "prediction_time")


def _describe(
    name: str, kind: Kind, description: str, unit: str = "", group: Group = "demographics"
) -> FeatureSpec:
    return FeatureSpec(name, name, kind, unit, group, description)


def _describe_use(name: str, kind: Kind, description: str, unit: str = "") -> FeatureSpec:
    return _describe(name, kind, description, unit, "utilisation")


DEMOGRAPHICS: Final = (
    _describe("age_years", "continuous", "Age at the admission", "years"),
    _describe("sex", "categorical", "Sex as recorded: F or M"),
    _describe("race_group", "categorical", "Recorded race, in six groups"),
    _describe("insurance", "categorical", "Insurance"),
    _describe("marital_status", "categorical", "Marital status"),
    _describe("language_english", "binary", "Speaks English"),
    _describe_use("admission_kind", "categorical", "Emergency, elective or observation"),
    _describe_use("emergency_department", "binary", "Came through the emergency department"),
    _describe_use("transferred_in", "binary", "Transferred from another institution"),
    _describe_use("admitted_at_night", "binary", "Admitted between 20:00 and 06:59"),
    _describe_use("prior_admissions", "continuous", "Admissions before this one", "admissions"),
    _describe_use(
        "days_since_last_admission",
        "continuous",
        "Days since the end of the last admission before this one; missing for a first one",
        "days",
    ),
    _describe_use("length_of_stay_days", "continuous", "Days from admission to discharge", "days"),
)


@dataclass(frozen=True)
class EhrFeatures:
    """The feature table and what belongs to it.

    Attributes:
        table: ``subject_id``, ``hadm_id`` and a column a feature, sorted by key.
        specs: The features in the order of their columns.
        masked: What the target's declaration removed, and why.
        lab_quality: One row a laboratory value: what became of its rows.
    """

    table: pd.DataFrame
    specs: list[FeatureSpec]
    masked: dict[str, Any]
    lab_quality: pd.DataFrame


@dataclass(frozen=True)
class Plan:
    """What is built once the target's masks are taken off.

    Attributes:
        grouping: Whose comorbidity groups.
        groups: The groups built.
        labs: The laboratory values built.
        treatments: The treatment groups built.
        demographics: The features about patient and admission built.
        from_index: Whether the index admission's own diagnoses may be used.
    """

    grouping: Grouping
    groups: tuple[str, ...]
    labs: list[Lab]
    treatments: list[Treatment]
    demographics: tuple[FeatureSpec, ...]
    from_index: bool


def make_plan(params: EhrFeaturesParams, target: Target, prediction_time: PredictionTime) -> Plan:
    """Take the target's masks off what params ask for.

    Raises:
        InputError: With every laboratory value and treatment group that is not defined.
    """
    grouping = load_grouping(params.comorbidities)
    masked = target.masked_features_at(prediction_time)
    use_index = params.diagnoses_from == "prior_and_index"
    labs, treatments = choose_labs(params.labs), choose_treatments(params.treatments)
    return Plan(
        grouping=grouping,
        groups=tuple(g for g in grouping.groups if g not in target.masked_comorbidities),
        labs=[lab for lab in labs if lab.name not in target.masked_labs],
        treatments=[t for t in treatments if t.name not in target.masked_treatments],
        demographics=tuple(spec for spec in DEMOGRAPHICS if spec.name not in masked),
        from_index=use_index and not target.diagnoses_prior_only(prediction_time),
    )


def build_features(
    cohort: pd.DataFrame,
    root: Path,
    params: EhrFeaturesParams,
    target: Target,
    prediction_time: PredictionTime,
) -> EhrFeatures:
    """Build the feature table of a cohort.

    Args:
        cohort: As ``COHORT`` (data/cohort.py) has it.
        root: The folder that holds ``hosp/``.
        params: What to build.
        target: What is predicted; its masks are obeyed.
        prediction_time: When it is predicted.

    Raises:
        InputError: If params name something unknown, or a table cannot be read.
    """
    plan = make_plan(params, target, prediction_time)
    index = pl.from_pandas(cohort).sort(KEY)
    subjects = index["subject_id"].unique().to_list()

    admissions = read_rows(root, "admissions", ADMISSION_COLUMNS, {"subject_id": subjects})
    people = build_demographics(index, admissions)
    people = people.select(*KEY, *(spec.name for spec in plan.demographics))
    illnesses = _build_comorbidities(index, admissions, root, plan)
    values, quality = _build_labs(index, root, plan.labs, params.lab_lookback_hours)
    drugs = _build_treatments(index, root, plan.treatments, params.treatment_lookback_days)

    table = people
    for part in (illnesses, drugs, values):
        table = table.join(part, on=KEY, how="left", maintain_order="left", validate="1:1")
    specs = _list_specs(plan)
    return EhrFeatures(
        _to_pandas(table.select(*KEY, *(spec.name for spec in specs)), specs),
        specs,
        describe_masks(plan, target, prediction_time),
        quality.to_pandas(),
    )


def _build_comorbidities(
    index: pl.DataFrame, admissions: pl.DataFrame, root: Path, plan: Plan
) -> pl.DataFrame:
    subjects = index["subject_id"].unique().to_list()
    diagnoses = read_rows(root, "diagnoses_icd", DIAGNOSIS_COLUMNS, {"subject_id": subjects})
    return build_comorbidities(
        index.select(INDEX_COLUMNS),
        admissions.select("subject_id", "hadm_id", "admittime", "dischtime"),
        diagnoses,
        plan.grouping,
        from_index=plan.from_index,
        exclude=set(plan.grouping.groups) - set(plan.groups),
    )


def _build_labs(
    index: pl.DataFrame, root: Path, labs: Sequence[Lab], lookback_hours: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    keep = {
        "itemid": [itemid for lab in labs for itemid in lab.itemids],
        "subject_id": index["subject_id"].unique().to_list(),
    }
    rows = scan_rows(root, "labevents", LABEVENT_COLUMNS, keep)
    aggregated = aggregate_labs(rows, index, labs, lookback_hours=lookback_hours)
    collected = collect_rows(aggregated, find_table(root, "labevents"))
    return spread_labs(collected, index, labs), count_fates(collected, labs)


def _build_treatments(
    index: pl.DataFrame, root: Path, treatments: Sequence[Treatment], lookback_days: float
) -> pl.DataFrame:
    keep = {"subject_id": index["subject_id"].unique().to_list()}
    rows = scan_rows(root, "prescriptions", PRESCRIPTION_COLUMNS, keep)
    orders = select_orders(rows, index, lookback_days=lookback_days)
    collected = collect_rows(orders, find_table(root, "prescriptions"))
    return flag_treatments(collected, index, treatments)


def _list_specs(plan: Plan) -> list[FeatureSpec]:
    labels = plan.grouping.labels
    specs = list(plan.demographics)
    specs += [_describe(g, "binary", labels[g], group="comorbidity") for g in plan.groups]
    count = f"Comorbidity groups present, out of {len(plan.groups)}"
    specs.append(_describe(COUNT, "continuous", count, "groups", "comorbidity"))
    for treatment in plan.treatments:
        specs.append(_describe(treatment.name, "binary", treatment.label, group="treatment"))
    for lab in plan.labs:
        specs += [_spec_lab(lab, statistic) for statistic in STATISTICS]
    return specs


def _spec_lab(lab: Lab, statistic: str) -> FeatureSpec:
    word = {"mean": "mean", "min": "lowest", "max": "highest"}[statistic]
    return FeatureSpec(
        name=f"{lab.name}_{statistic}",
        variable=lab.name,
        kind="continuous",
        unit=lab.unit,
        group="laboratory",
        description=f"{lab.label}, {word} value up to the prediction time",
        indicator=True,
    )


def _to_pandas(table: pl.DataFrame, specs: Sequence[FeatureSpec]) -> pd.DataFrame:
    dtypes = {"continuous": "float64", "binary": "int8", "categorical": "str"}
    return table.to_pandas().astype({spec.name: dtypes[spec.kind] for spec in specs})


def describe_masks(plan: Plan, target: Target, prediction_time: PredictionTime) -> dict[str, Any]:
    """Say what the target's declaration removed, and why, for ``masked.json``."""
    declared: Mapping[str, Mapping[str, str]] = {
        "comorbidity": target.masked_comorbidities,
        "laboratory": target.masked_labs,
        "treatment": target.masked_treatments,
        "feature": target.masked_features_at(prediction_time),
    }
    diagnoses_from: DiagnosesFrom = "prior_and_index" if plan.from_index else "prior"
    return {
        "target": target.name,
        "prediction_time": prediction_time,
        "diagnoses_from": diagnoses_from,
        "masked": [
            {"group": group, "name": name, "reason": reason}
            for group, masks in declared.items()
            for name, reason in sorted(masks.items())
        ],
    }
