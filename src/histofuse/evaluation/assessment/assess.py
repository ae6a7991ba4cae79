"""The assessment of one model: calibration, decisions, prediction sets, subgroups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from histofuse.core.naming import name_pairing
from histofuse.evaluation.assessment.calibration import Quality, measure_quality
from histofuse.evaluation.assessment.conformal import (
    Coverage,
    fit_conformal,
    list_scores,
    measure_coverage,
)
from histofuse.evaluation.assessment.decision_curves import DecisionCurve, measure_decision_curve
from histofuse.evaluation.assessment.inputs import Assessed
from histofuse.evaluation.assessment.operating_points import (
    OperatingPoint,
    measure_operating_points,
)
from histofuse.evaluation.assessment.reliability import Bin, measure_reliability
from histofuse.evaluation.assessment.subgroups import (
    Attribute,
    Rows,
    measure_subgroups,
    name_subgroups,
)
from histofuse.evaluation.focus import find_minority_class
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.classification import ECE_BINS
from histofuse.evaluation.metrics.clustered import ClusterBootstrap
from histofuse.evaluation.metrics.clusters import number_groups
from histofuse.evaluation.performance.results import Facts, Result
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams

RESTRICTED: Final = "restricted"
NO_PATIENTS: Final = "an image model knows no patients: there are no subgroups"
STRANGERS: Final = (
    "The patients stand beside patches of other people: differences between subgroups are those of "
    "the tissue they were paired with."
)
NOT_EXCHANGEABLE: Final = (
    "Promised if validation and test rows are exchangeable. Rows of one case resemble each other "
    "and cases differ, so the promise does not hold to the letter; what was measured is given. The "
    "validation rows also chose the epoch and fitted the calibrator."
)
CHOSEN_PAIR: Final = (
    "The two subgroups of a gap were chosen for lying furthest apart, so its interval leaves out 0 "
    "more often than it should."
)

Reliabilities = Mapping[str, Mapping[str, list[Bin]]]


@dataclass(frozen=True)
class Assessment:
    """What was found of one model on the split reported.

    Attributes:
        assessed: The model.
        focus: The class that counts most.
        quality: Class, or ``all``, to its calibration.
        reliability: ``before`` and ``after`` to class to bins.
        decision_curve: For `focus`.
        operating_points: Likewise.
        coverage: Conformal method to what its sets do; empty without validation rows.
        subgroups: Attribute to subgroups; None for image models.
    """

    assessed: Assessed
    focus: str
    quality: Mapping[str, Quality]
    reliability: Reliabilities
    decision_curve: DecisionCurve
    operating_points: list[OperatingPoint]
    coverage: Mapping[str, Coverage]
    subgroups: Mapping[str, Attribute] | None

    @property
    def result(self) -> Result:
        """Its predictions, and what is known of them."""
        return self.assessed.result


def assess_model(
    assessed: Assessed,
    features: pd.DataFrame,
    facts: Facts,
    params: AssessmentParams,
    bootstrap: Bootstrap,
) -> Assessment:
    """Assess a model on the split reported; what is chosen is chosen on validation."""
    model, split = assessed.model, facts.split
    rows, validation = model.of(split), model.of("validation")
    before = assessed.before[assessed.find(split)]
    focus = find_minority_class(rows)
    column = rows.classes.index(focus)
    positive = rows.labels == column
    drawn = ClusterBootstrap(bootstrap, number_groups(rows))
    probability = rows.probabilities[:, column]
    chosen_by = (validation.probabilities[:, column], validation.labels == column)
    return Assessment(
        assessed=assessed,
        focus=focus,
        quality=measure_quality(before, rows.probabilities, rows.labels, rows.classes, drawn),
        reliability=_measure_reliabilities(assessed, facts, bootstrap.params.confidence),
        decision_curve=measure_decision_curve(probability, positive, params.thresholds, drawn),
        operating_points=measure_operating_points(
            chosen_by, (probability, positive), params, drawn
        ),
        coverage=_measure_coverages(assessed, facts, params, drawn),
        subgroups=_split_patients(
            assessed, focus, features, facts=facts, params=params, bootstrap=drawn
        ),
    )


def _measure_reliabilities(
    assessed: Assessed, facts: Facts, confidence: float
) -> dict[str, dict[str, list[Bin]]]:
    rows = assessed.model.of(facts.split)
    group = number_groups(rows).number
    restricted = not rows.on_patches and facts.patient_source == RESTRICTED
    columns = [1] if len(rows.classes) == 2 else range(len(rows.classes))
    sides = {"before": assessed.before[assessed.find(facts.split)], "after": rows.probabilities}
    return {
        side: {
            rows.classes[c]: measure_reliability(
                p[:, c], rows.labels == c, group, confidence, restricted=restricted
            )
            for c in columns
        }
        for side, p in sides.items()
    }


def _measure_coverages(
    assessed: Assessed, facts: Facts, params: AssessmentParams, bootstrap: ClusterBootstrap
) -> dict[str, Coverage]:
    validation, rows = assessed.model.of("validation"), assessed.model.of(facts.split)
    if not len(validation):
        return {}
    found = {}
    for score in list_scores(validation.labels):
        given = (validation.probabilities, validation.labels)
        rule = fit_conformal(*given, score, params.coverage, bootstrap.bootstrap.seed)
        found[score] = measure_coverage(
            rule, rows.probabilities, rows.labels, rows.classes, bootstrap
        )
    return found


def _split_patients(
    assessed: Assessed,
    focus: str,
    features: pd.DataFrame,
    *,
    facts: Facts,
    params: AssessmentParams,
    bootstrap: ClusterBootstrap,
) -> dict[str, Attribute] | None:
    here = assessed.find(facts.split)
    rows = assessed.model.take(here)
    if assessed.admissions is None or rows.subjects is None:
        return None
    column = rows.classes.index(focus)
    split_rows = Rows(
        rows.probabilities[:, column],
        rows.predictions == column,
        rows.labels == column,
        rows.subjects,
    )
    membership = name_subgroups(features, assessed.admissions[here], params.age_bands_years)
    restricted = facts.patient_source == RESTRICTED
    return measure_subgroups(split_rows, membership, params, bootstrap, restricted=restricted)


# --- rendering ----------------------------------------------------------------------------------


def describe_assessments(
    assessments: list[Assessment], facts: Facts, params: AssessmentParams, intervals: IntervalParams
) -> dict[str, Any]:
    """Render ``assessment.json``.

    Returns:
        ``split``, ``confidence``, ``method``, ``resamples`` (of the intervals) and ``models``: name
        to ``title``, ``kind``, ``data``, ``leaky`` ("" for none known), ``unit``, ``rows``,
        ``group_unit``, ``groups``, ``focus`` (the class decisions are about), and

        - ``calibration``: ``method``, ``fitted_on``, ``bins``, ``quality`` (class, or ``all`` of
          several, to ``before``, ``after`` and ``change``, each metric to an interval) and
          ``reliability`` (``before`` and ``after`` to class to a list of bins: ``predicted``,
          ``observed``, ``low``, ``high``, ``rows``, ``groups``);
        - ``decision_curve``: ``thresholds``, ``model``, ``low``, ``high``, ``treat_all`` as lists
          of one length, ``better_than_all_and_none`` as ranges of thresholds;
        - ``operating_points``: a list of ``aim``, ``target``, ``threshold``, ``validation`` and
          ``found`` (rate to interval), with ``note`` where there is none;
        - ``conformal``: ``score``, ``coverage_asked``, ``classes``, ``quantile`` (class to number,
          None: in every set), which `conformal.predict_set` turns a row's probabilities into a set
          with, ``methods`` (score to ``quantile``, ``validation_rows``, ``coverage/all``,
          ``coverage/<class>``, ``mean_size``, ``empty``, ``single``, ``full``) and ``note``;
        - ``subgroups``: None for image models, with ``subgroups_note``; else attribute to
          ``subgroups`` (a list: ``name``, ``rows``, ``positives``, ``patients``, a metric each,
          ``note``) and ``largest_gaps`` (metric to ``high_in``, ``low_in`` and an interval).

        An interval is ``value``, ``low`` and ``high``, None where not defined, with a ``note``
        where there is no interval.
    """
    return {
        "split": facts.split,
        "confidence": intervals.confidence,
        "method": intervals.method,
        "resamples": intervals.resamples,
        "models": {a.result.name: _describe(a, facts, params) for a in assessments},
    }


def _describe(assessment: Assessment, facts: Facts, params: AssessmentParams) -> dict[str, Any]:
    result = assessment.result
    rows = result.model.of(facts.split)
    subgroups = assessment.subgroups
    return {
        "title": result.title,
        "kind": result.model.kind,
        "data": result.data,
        "leaky": result.leaky,
        "unit": rows.unit,
        "rows": len(rows),
        "group_unit": rows.group_unit,
        "groups": rows.count_groups(),
        "focus": assessment.focus,
        "calibration": _describe_calibration(assessment),
        "decision_curve": assessment.decision_curve.to_dict(),
        "operating_points": [point.to_dict() for point in assessment.operating_points],
        "conformal": _describe_conformal(assessment, params),
        "subgroups": None
        if subgroups is None
        else {name: attribute.to_dict() for name, attribute in subgroups.items()},
        "subgroups_note": explain_subgroups(assessment, facts),
    }


def _describe_calibration(assessment: Assessment) -> dict[str, Any]:
    calibrator = assessment.assessed.calibrator
    return {
        "method": calibrator.method,
        "fitted_on": calibrator.fitted_on.to_dict(),
        "bins": ECE_BINS,
        "quality": {name: quality.to_dict() for name, quality in assessment.quality.items()},
        "reliability": {
            side: {name: [b.to_dict() for b in bins] for name, bins in of.items()}
            for side, of in assessment.reliability.items()
        },
    }


def _describe_conformal(assessment: Assessment, params: AssessmentParams) -> dict[str, Any] | None:
    if not assessment.coverage:
        return None
    classes = assessment.assessed.model.classes
    methods = {name: c.to_dict(classes) for name, c in assessment.coverage.items()}
    return {
        "score": params.conformal_score,
        "coverage_asked": params.coverage,
        "classes": classes,
        "quantile": methods[params.conformal_score]["quantile"],
        "methods": methods,
        "note": NOT_EXCHANGEABLE,
    }


def has_strangers(assessment: Assessment, facts: Facts) -> bool:
    """Tell whether a model's patients stand beside tissue that is not theirs."""
    model = assessment.assessed.model
    rule = facts.rules.get(name_pairing(model.name))
    return model.kind == "fusion" and rule != "linked"


def explain_subgroups(assessment: Assessment, facts: Facts) -> str:
    """Say what a model's subgroups are of."""
    if assessment.subgroups is None:
        return NO_PATIENTS
    if not has_strangers(assessment, facts):
        return CHOSEN_PAIR
    model = assessment.assessed.model
    subjects = model.of(facts.split).subjects
    patients = 0 if subjects is None else len(np.unique(subjects))
    return f"{patients:,} patients stand beside the patches. {STRANGERS} {CHOSEN_PAIR}"
