"""The assessment of one model: calibration, decisions, prediction sets, subgroups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import softmax

from histofuse.core.artifacts import render
from histofuse.core.errors import InputError
from histofuse.core.naming import name_pairing
from histofuse.core.privacy import RESTRICTED
from histofuse.evaluation.assessment.calibration import (
    Bin,
    Quality,
    measure_quality,
    measure_reliability,
)
from histofuse.evaluation.assessment.conformal import Coverage, list_scores, measure_coverage
from histofuse.evaluation.assessment.decision_curves import DecisionCurve, measure_decision_curve
from histofuse.evaluation.assessment.operating_points import (
    OperatingPoint,
    measure_operating_points,
)
from histofuse.evaluation.assessment.subgroups import (
    Attribute,
    Rows,
    measure_subgroups,
    name_subgroups,
)
from histofuse.evaluation.metrics.bootstrap import (
    BIASED,
    BIASED_METHOD,
    Bootstrap,
    ClusterBootstrap,
)
from histofuse.evaluation.metrics.classification import ECE_BINS
from histofuse.evaluation.metrics.weighted import number_groups
from histofuse.evaluation.performance.results import Context, Result
from histofuse.evaluation.predictions import Predictions
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.calibrate import Calibrator
from histofuse.training.conformal import fit_conformal

_TOLERANCE: Final = 1e-4  # bundles keep logits and probabilities as 32-bit numbers
_RETRAIN: Final = "Train the model again with dvc repro."
NO_PATIENTS: Final = "an image model knows no patients: there are no subgroups"
STRANGERS: Final = (
    "The patients are paired with patches of other people: differences between subgroups are those "
    "of the tissue they were paired with."
)
NOT_EXCHANGEABLE: Final = (
    "Promised if validation and test rows are exchangeable. Rows of one case resemble each other "
    "and cases differ, so the promise does not hold to the letter; what was measured is given. The "
    "validation rows also chose the epoch and fitted the calibrator."
)
CHOSEN_PAIR: Final = (
    "The two subgroups of a gap were chosen for differing most, so its interval excludes 0 "
    "more often than it should."
)


@dataclass(frozen=True)
class Assessment:
    """The assessment of one model on the split reported."""

    result: Result  # its predictions and their metrics
    calibrator: Calibrator  # computes its calibrated probabilities from its logits
    focus: str
    quality: Mapping[str, Quality]  # class, or ``all``, to its calibration
    reliability: Mapping[str, Mapping[str, list[Bin]]]  # ``before`` and ``after`` to class to bins
    decision_curve: DecisionCurve
    operating_points: list[OperatingPoint]
    # conformal method to the coverage of its sets; empty without validation rows
    coverage: Mapping[str, Coverage]
    subgroups: Mapping[str, Attribute] | None  # attribute to subgroups; None for image models


def assess_model(
    result: Result,
    calibrator: Calibrator,
    features: pd.DataFrame,
    context: Context,
    params: AssessmentParams,
    *,
    bootstrap: Bootstrap,
) -> Assessment:
    """Assess a model on the split reported; thresholds and sets are fitted on validation."""
    logits = require_logits(result.model, calibrator)
    before = softmax(logits[result.model.split == context.split], axis=1)
    rows, validation = (result.model.of(split) for split in (context.split, "validation"))
    focus = rows.focus_class
    column = rows.classes.index(focus)
    drawn = ClusterBootstrap(bootstrap, number_groups(rows))
    scores, positive = rows.probabilities[:, column], rows.labels == column
    chosen_on = (validation.probabilities[:, column], validation.labels == column)
    restricted = context.patient_source == RESTRICTED
    subgroups = None
    if rows.admissions is not None and rows.subjects is not None:
        of = Rows(scores, rows.predictions == column, positive, rows.subjects)
        membership = name_subgroups(features, rows.admissions, params.age_bands_years)
        subgroups = measure_subgroups(of, membership, params, drawn, restricted=restricted)
    return Assessment(
        result=result,
        calibrator=calibrator,
        focus=focus,
        quality=measure_quality(before, rows.probabilities, rows.labels, rows.classes, drawn),
        reliability={
            side: _measure_reliability(rows, of, drawn, restricted=restricted)
            for side, of in (("before", before), ("after", rows.probabilities))
        },
        decision_curve=measure_decision_curve(scores, positive, params.thresholds, drawn),
        operating_points=measure_operating_points(chosen_on, (scores, positive), params, drawn),
        coverage=_measure_coverages(validation, rows, params, drawn),
        subgroups=subgroups,
    )


def require_logits(model: Predictions, calibrator: Calibrator) -> Float[np.ndarray, "n k"]:
    """Return a model's logits; InputError if its calibrator does not give its answers."""
    if model.logits is None:
        problem, expected = "its predictions hold no logits", "the logits before calibration"
        raise InputError.of(model.name, problem, expected, _RETRAIN)
    gap = np.abs(calibrator.probabilities(model.logits) - model.probabilities).max(initial=0.0)
    if gap > _TOLERANCE:
        problem = f"probabilities differ by up to {gap:.4f} from the calibrated logits"
        raise InputError.of(model.name, problem, f"at most {_TOLERANCE}", _RETRAIN)
    return model.logits


def _measure_reliability(
    rows: Predictions, of: Float[np.ndarray, "n k"], drawn: ClusterBootstrap, *, restricted: bool
) -> dict[str, list[Bin]]:
    columns = [1] if len(rows.classes) == 2 else range(len(rows.classes))
    return {
        rows.classes[c]: measure_reliability(
            of[:, c],
            rows.labels == c,
            drawn.clusters.number,
            drawn.bootstrap.params.confidence,
            restricted=restricted and not rows.on_patches,
        )
        for c in columns
    }


def _measure_coverages(
    validation: Predictions, rows: Predictions, params: AssessmentParams, drawn: ClusterBootstrap
) -> dict[str, Coverage]:
    if not len(validation):
        return {}
    found = {}
    for score in list_scores(validation.labels):
        fitted_on = validation.probabilities, validation.labels
        rule = fit_conformal(*fitted_on, score, params.coverage, drawn.bootstrap.seed)
        found[score] = measure_coverage(rule, rows.probabilities, rows.labels, rows.classes, drawn)
    return found


def describe_assessments(
    assessments: list[Assessment],
    context: Context,
    params: AssessmentParams,
    intervals: IntervalParams,
) -> dict[str, Any]:
    """Render ``assessment.json``; the parts of `Assessment` have their own fields as keys.

    An interval is ``value``, ``low`` and ``high``, None where not defined, with a ``note`` where
    there is no interval. ``conformal.quantile`` is None of a class that is in every set.
    """
    return {
        "split": context.split,
        "confidence": intervals.confidence,
        "method": intervals.method,
        "method_of": dict.fromkeys(sorted(BIASED), BIASED_METHOD),
        "resamples": intervals.resamples,
        "models": {a.result.name: _describe(a, context, params) for a in assessments},
    }


def _describe(assessment: Assessment, context: Context, params: AssessmentParams) -> dict[str, Any]:
    result = assessment.result
    rows = result.model.of(context.split)
    calibrator = assessment.calibrator.to_dict()
    return {
        "digest": result.model.digest,
        "title": result.title,
        "kind": result.model.kind,
        "data": result.data,
        "leaky": result.leaky,
        "unit": rows.unit,
        "rows": len(rows),
        "group_unit": rows.group_unit,
        "groups": rows.count_groups(),
        "focus": assessment.focus,
        "calibration": {
            **{name: calibrator[name] for name in ("method", "fitted_on", "choice")},
            "bins": ECE_BINS,
            "quality": render(assessment.quality),
            "reliability": render(assessment.reliability),
        },
        "decision_curve": render(assessment.decision_curve),
        "operating_points": render(assessment.operating_points),
        "conformal": _describe_conformal(assessment, params),
        "subgroups": render(assessment.subgroups),
        "subgroups_note": explain_subgroups(assessment, context),
    }


def _describe_conformal(assessment: Assessment, params: AssessmentParams) -> dict[str, Any] | None:
    if not assessment.coverage:
        return None
    classes = assessment.result.model.classes
    quantiles = render(assessment.coverage[params.conformal_score].rule.quantiles)
    return {
        "score": params.conformal_score,
        "coverage_asked": params.coverage,
        "classes": classes,
        "quantile": dict(zip(classes, quantiles, strict=True)),
        "methods": render(assessment.coverage),
        "note": NOT_EXCHANGEABLE,
    }


def has_strangers(assessment: Assessment, context: Context) -> bool:
    """Whether a model's patients are paired with tissue that is not theirs."""
    model = assessment.result.model
    rule = context.rules.get(name_pairing(model.name))
    return model.kind == "fusion" and rule != "linked"


def explain_subgroups(assessment: Assessment, context: Context) -> str:
    """Say what a model's subgroups are of."""
    if assessment.subgroups is None:
        return NO_PATIENTS
    if not has_strangers(assessment, context):
        return CHOSEN_PAIR
    model = assessment.result.model
    subjects = model.of(context.split).subjects
    patients = 0 if subjects is None else len(np.unique(subjects))
    return f"{patients:,} patients are paired with the patches. {STRANGERS} {CHOSEN_PAIR}"
