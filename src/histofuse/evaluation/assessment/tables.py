"""Tables of the assessment: calibration, operating points, prediction sets, subgroups."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from histofuse.core.naming import show_name
from histofuse.evaluation.assessment.assess import (
    CHOSEN_PAIR,
    NO_PATIENTS,
    NOT_EXCHANGEABLE,
    STRANGERS,
    Assessment,
    has_strangers,
)
from histofuse.evaluation.assessment.calibration import ALL
from histofuse.evaluation.assessment.conformal import SCORES
from histofuse.evaluation.assessment.operating_points import RATES
from histofuse.evaluation.assessment.subgroups import Attribute
from histofuse.evaluation.metrics.bootstrap import EXPLAIN_BIASED, explain_resampling
from histofuse.evaluation.performance.results import Context
from histofuse.evaluation.performance.tables import Cell, Table
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams

Row = dict[str, Cell]
# Of columns whose name in words is not the heading.
_HEADINGS: Final = {
    "brier_change": "Change",
    "ece_before": "ECE before",
    "ece_after": "ECE after",
    "ece_change": "Change",
    "aim": "Aim on validation",
    "ppv": "PPV",
    "npv": "NPV",
    "single": "One class",
    "full": "All classes",
    "attribute": "By",
    "auroc": "AUROC",
    "false_positive_rate": "FPR",
}


def make_assessment_tables(
    assessments: Sequence[Assessment],
    context: Context,
    params: AssessmentParams,
    intervals: IntervalParams,
) -> list[Table]:
    """Make all four tables; one without rows is left out."""
    simulated = any(a.result.simulated for a in assessments)
    marked = " Simulated data: no patients, no claim." if simulated else ""
    tables = [
        _make_calibration_table(assessments),
        _make_operating_table(assessments),
        _make_conformal_table(assessments, params),
        _make_subgroup_table(assessments, context),
    ]
    return [
        replace(
            table,
            caption=f"{table.caption}, {context.split} split.{marked}",
            notes=[
                *table.notes,
                explain_resampling(intervals, "cases (images, fusion) or patients (health record)"),
                f"With fewer than {intervals.fewest_groups} cases an interval says little.",
            ],
        )
        for table in tables
        if table.rows
    ]


def _make_table(name: str, caption: str, rows: list[Row], notes: list[str]) -> Table:
    columns = rows[0] if rows else ()
    headings = {c: _HEADINGS.get(c, show_name(c).capitalize()) for c in columns}
    return Table(name, caption, headings, rows, notes)


def _make_calibration_table(assessments: Sequence[Assessment]) -> Table:
    rows: list[Row] = []
    for a in assessments:
        for name, quality in a.quality.items():
            row: Row = {"model": a.result.title, "class": "all" if name == ALL else show_name(name)}
            sides = {"before": quality.before, "after": quality.after, "change": quality.change}
            for metric in ("ece", "brier"):
                row |= {f"{metric}_{side}": of[metric] for side, of in sides.items()}
            after = quality.after
            row |= {part: after[part] for part in ("reliability", "resolution", "uncertainty")}
            variance = after["within_bin_variance"].value or 0.0
            row["within_bins"] = variance - (after["within_bin_covariance"].value or 0.0)
            row["method"] = show_name(a.calibrator.taken)
            rows.append(row)
    notes = [
        "Before: the softmax of the logits. After: calibrated on validation rows. Lower is better, "
        "but for resolution.",
        "Brier = reliability − resolution + uncertainty + within bins, exactly, of the calibrated "
        "probabilities over ten bins of equal width.",
        "A class is compared with the rest. All: the Brier score is the sum over the classes, ECE "
        "their mean.",
        EXPLAIN_BIASED,
    ]
    return _make_table("calibration", "Calibration before and after", rows, notes)


def _make_operating_table(assessments: Sequence[Assessment]) -> Table:
    rows: list[Row] = []
    for a in assessments:
        for p in a.operating_points:
            row: Row = {"model": a.result.title, "class": show_name(a.focus)}
            row |= {"aim": f"{p.aim} {p.target:.0%}", "threshold": p.threshold}
            rows.append(row | {rate: p.rates.get(rate) for rate in RATES})
    notes = [
        "Each threshold was chosen on validation rows and then applied: the rate aimed at and the "
        "rate reached differ. Intervals are for the chosen threshold.",
        "PPV and NPV are those of the share of the class in these rows; PPV is not defined where "
        "nothing is flagged.",
    ]
    return _make_table("operating_points", "Operating points", rows, notes)


def _make_conformal_table(assessments: Sequence[Assessment], params: AssessmentParams) -> Table:
    rows: list[Row] = []
    for a in assessments:
        classes = a.result.model.classes
        for score, coverage in a.coverage.items():
            start: Row = {"model": a.result.title, "score": score}
            sizes: Row = {
                n: coverage.intervals[n] for n in ("mean_size", "empty", "single", "full")
            }
            quantiles = zip(("all", *classes), ("", *coverage.rule.quantiles), strict=True)
            for name, quantile in quantiles:
                row: Row = {"class": show_name(name), "quantile": quantile}
                row["coverage"] = coverage.intervals[f"coverage/{name}"]
                rows.append(start | row | (sizes if name == "all" else dict.fromkeys(sizes, "")))
    notes = [
        "; ".join(f"{score}: {words}" for score, words in SCORES.items()),
        f"Asked for: the true class in {params.coverage:.0%} of the sets, over all rows (lac, aps) "
        "or in each class (lac_by_class).",
        NOT_EXCHANGEABLE,
        "A class without a quantile under lac_by_class had too few validation rows and is in every "
        "set; sizes are of the sets of all rows.",
    ]
    return _make_table("conformal", "Prediction sets", rows, notes)


def _make_subgroup_table(assessments: Sequence[Assessment], context: Context) -> Table:
    rows: list[Row] = []
    for a in assessments:
        for attribute, found in (a.subgroups or {}).items():
            start: Row = {"model": a.result.title, "attribute": show_name(attribute)}
            rows += [start | row for row in _list_subgroups(found)]
    notes = [
        "Recall and false positive rate are at the saved threshold; predicted is the mean "
        "calibrated probability, observed the share that is of the class.",
        CHOSEN_PAIR,
        f"Image models: {NO_PATIENTS}.",
    ]
    if any(has_strangers(a, context) for a in assessments):
        notes.append(f"Fusion: {STRANGERS}")
    return _make_table("subgroups", "Subgroups of patients", rows, notes)


def _list_subgroups(attribute: Attribute) -> list[Row]:
    metrics = ("auroc", "recall", "false_positive_rate", "predicted", "observed")
    rows: list[Row] = []
    for s in attribute.subgroups:
        counts: Row = {"rows": s.rows, "patients": s.patients, "positives": s.positives}
        values: Row = {m: s.intervals.get(m) for m in metrics}
        rows.append({"subgroup": s.name} | counts | values | {"note": s.note})
    gaps: dict[str, Cell] = {m: g.interval for m, g in attribute.gaps.items() if m in metrics}
    if gaps:
        between = "; ".join(
            f"{show_name(m)}: {g.high} − {g.low}" for m, g in attribute.gaps.items() if m in metrics
        )
        empty: Row = dict.fromkeys(("rows", "patients", "positives", *metrics), "")
        rows.append({"subgroup": "largest gap"} | empty | gaps | {"note": between})
    return rows
