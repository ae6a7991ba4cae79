"""A declared table -> its rows with their target, and how many could not be used.

A target within a horizon is known where the event happened by then, or follow-up went beyond it.
Rows censored before are neither; calling them negative would make short follow-up look like health.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.data.cohort import Attrition, count_rows
from histofuse.data.declared.table import DECLARATION, KEY, DeclaredTable
from histofuse.params.records import NONE, Declaration, EventTarget


@dataclass(frozen=True)
class DeclaredCohort:
    """The rows that can be used."""

    source: DeclaredTable
    # as `data.cohort.COHORT`, with ``patient_id`` and ``visit_id`` as they are spelt,
    # ``split_group`` where one is declared, and ``weight`` where rows are weighted
    table: pd.DataFrame
    attrition: Attrition
    censored: int | None  # how many rows were censored before the horizon; None where there is none

    def describe(self) -> dict[str, Any]:
        """Describe the rows, for ``meta.json``."""
        declaration = self.source.declaration
        return {
            "records": "table",
            "target": declaration.target.name,
            "description": declaration.target.description,
            "prediction_time": declaration.prediction_time.description,
            "index_admission": "all",
            **count_rows(self.table),
            "censored_before_horizon": self.censored,
            "weighted": "weight" in self.table,
            "left_out": dict(self.source.left_out),
        }


def build_declared_cohort(source: DeclaredTable) -> DeclaredCohort:
    """Label the rows of a declared table and leave out those whose target is not known.

    Raises InputError with cells of the target that mean nothing and times below zero, or if all
    rows have one value of the target.
    """
    target, cells = source.declaration.target, source.cells
    attrition = Attrition()
    attrition.keep(cells, "everyone", "all rows of the table", pl.lit(True))
    with collect_faults() as faults:
        column, yes, no = target.words
        words = dict.fromkeys(yes, 1.0) | dict.fromkeys(no, 0.0)
        happened = source.map(column, words, faults)
        columns = {"target": happened, "recorded": happened.is_not_null()}
        if isinstance(target, EventTarget):
            columns = _label_event(source, target, happened, faults)
    rows = cells.with_columns(**columns)
    rows = attrition.keep(rows, "target_recorded", "target recorded", pl.col("recorded"))
    censored = None
    if isinstance(target, EventTarget):
        censored = int(rows["censored"].sum())
        horizon = f"{target.horizon:g} {target.unit}"
        reason = f"event, or followed up for {horizon} (not censored before)"
        if target.censoring == "weighted":
            reason += "; weighted for those that were"
            rows = rows.with_columns(weight=weigh(rows["time"], rows["happened"], target.horizon))
        rows = attrition.keep(rows, "outcome_known", reason, ~pl.col("censored"))
    _check_classes(rows, source, attrition)
    return DeclaredCohort(source, _to_table(rows, source.declaration), attrition, censored)


def _label_event(
    source: DeclaredTable, target: EventTarget, happened: pl.Series, faults: FaultList
) -> dict[str, pl.Series]:
    time = source.read(target.time, "float", f"a number of {target.unit}", faults)
    for line in source.cells.filter(time < 0)["line"]:
        expected = f"{target.unit} from the prediction on, 0 or more"
        faults.add(source.locate(line, target.time), "is below 0", expected)
    return {
        "time": time,
        "happened": happened,
        "target": ((happened == 1) & (time <= target.horizon)).cast(pl.Float64),
        "recorded": time.is_not_null() & happened.is_not_null(),
        "censored": (happened == 0) & (time < target.horizon),
    }


def weigh(time: pl.Series, happened: pl.Series, horizon: float) -> pl.Series:
    """Weigh rows whose outcome at a horizon is known by the inverse of their chance to be known.

    `happened` is 1 where `time` is that of the event, 0 where the row is censored. Returns 1 /
    G(min(time, horizon)-), G the Kaplan-Meier estimate of not being censored, an event before a
    censoring of the same time; 0 where censored before the horizon. They sum to the number of rows.
    Source: Graf et al., Statistics in Medicine 1999;18.
    """
    times, events = time.to_numpy(), happened.to_numpy() == 1
    moments = np.unique(times[~events])
    lost = np.array([(times[~events] == u).sum() for u in moments])
    at_risk = np.array([(times > u).sum() for u in moments]) + lost
    # G after each moment; what counts is G just before the row's own time.
    free = np.cumprod(np.append(1.0, 1.0 - lost / at_risk))
    own = free[np.searchsorted(moments, np.minimum(times, horizon), side="left")]
    known = events | (times >= horizon)
    return pl.Series(np.where(known, 1.0 / np.where(known, own, 1.0), 0.0))


def _check_classes(rows: pl.DataFrame, source: DeclaredTable, attrition: Attrition) -> None:
    values = rows["target"].unique().to_list()
    if len(values) == 2:
        return
    problem = f"all {rows.height} rows have target {values[0]:g}" if values else "no row is left"
    remedy = f"Declare another target or horizon. Patients/rows left: {attrition}."
    where = f"{source.path.with_name(DECLARATION)}, target"
    raise InputError.of(where, problem, "rows with target 0 and with target 1", remedy)


def _to_table(rows: pl.DataFrame, declaration: Declaration) -> pd.DataFrame:
    if declaration.split_group != NONE:
        rows = rows.with_columns(split_group=pl.col(declaration.split_group.lower()))
    wanted = (*KEY, "target", "patient_id", "visit_id", "split_group", "weight")
    kept = rows.select(name for name in wanted if name in rows.columns)
    return kept.with_columns(pl.col("target").cast(pl.Int64)).to_pandas()
