"""Linked patients, and the best that can be said of their outcome."""

import numpy as np
import pytest
from pydantic import ValidationError

from histofuse.core.auroc import compute_auroc
from histofuse.data.simulate.linked.achievable import compute_best, measure_achievable
from histofuse.data.simulate.linked.cohort import draw_cohort, draw_outcome, mean_risk
from histofuse.params.base import load_section
from histofuse.params.simulation import LinkedSimulationParams

PARAMS = load_section(LinkedSimulationParams, "simulation.linked")
MANY = PARAMS.model_copy(update={"patients": 20_000})


def change(**values) -> LinkedSimulationParams:
    return MANY.model_copy(update=values)


@pytest.fixture(scope="module")
def cohort():
    return draw_cohort(MANY, 1)


def test_defaults_give_each_side_something_the_other_lacks():
    expected = measure_achievable(draw_cohort(PARAMS, 1), np.ones(600, bool), PARAMS, 5)["expected"]
    assert 0.72 <= expected["image"] <= 0.78
    assert 0.72 <= expected["record"] <= 0.78
    assert 0.08 <= expected["both"] - max(expected["image"], expected["record"]) <= 0.12


@pytest.mark.parametrize("side", ["image", "record", "both"])
def test_best_probabilities_are_calibrated(cohort, side):
    best = compute_best(cohort, MANY)[side]
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)):
        group = (low <= best) & (best < high)
        error = 4 * np.sqrt(0.25 / group.sum())
        assert cohort.outcome[group].mean() == pytest.approx(best[group].mean(), abs=error)


def test_missing_values_are_reckoned_with():
    params = change(missing=0.5)
    cohort = draw_cohort(params, 2)
    for side, best in compute_best(cohort, params).items():
        top = best > np.quantile(best, 0.8)
        assert cohort.outcome[top].mean() == pytest.approx(best[top].mean(), abs=0.025), side


def test_without_the_images_own_part_the_record_says_all():
    params = change(image_own=0.0)
    cohort = draw_cohort(params, 3)
    best = compute_best(cohort, params)
    np.testing.assert_allclose(best["both"], best["record"], atol=1e-9)
    assert compute_auroc(best["image"], cohort.outcome) > 0.53  # through the shared severity


def test_under_the_null_outcome_and_tissue_are_independent_given_the_record():
    params = change(image_own=0.0)
    cohort = draw_cohort(params, 4)
    residual = cohort.outcome - compute_best(cohort, params)["record"]
    correlation = np.corrcoef(residual, cohort.tissue.counts[:, 0])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(residual))


def test_without_a_shared_part_each_side_is_independent_of_the_other():
    params = change(severity_in_record=0.0)
    cohort = draw_cohort(params, 5)
    grade = cohort.tissue.counts[:, 0]
    recorded = np.nansum(cohort.record.markers, axis=1)
    assert abs(np.corrcoef(grade, recorded)[0, 1]) < 0.03


def test_severity_shows_in_the_tissue_and_in_the_record(cohort):
    severity = cohort.tissue.severity
    mitoses, markers = cohort.tissue.counts[:, 0], np.nansum(cohort.record.markers, axis=1)
    assert np.corrcoef(severity, mitoses)[0, 1] > 0.2
    assert np.corrcoef(severity, cohort.tissue.pleomorphism)[0, 1] > 0.08
    assert np.corrcoef(severity, markers)[0, 1] > 0.7


def test_prevalence_is_the_one_asked_for(cohort):
    assert cohort.outcome.mean() == pytest.approx(MANY.prevalence, abs=0.015)


def test_strengths_of_the_outcome_leave_the_tissue_as_it_is(cohort):
    null = draw_cohort(change(image_own=0.0, shared=2.0), 1)
    np.testing.assert_array_equal(null.tissue.counts, cohort.tissue.counts)


def test_outcome_is_drawn_from_the_values_as_the_table_holds_them(cohort):
    record, _ = draw_outcome(cohort.tissue, MANY, 1)
    sizes = record.markers[:, 0] * 8 + 26
    np.testing.assert_allclose(sizes, np.round(sizes, 1), atol=1e-9)


def test_mean_risk_of_certain_log_odds_is_their_logistic():
    risk = mean_risk(np.array([0.0, 2.0]), np.zeros(2))
    np.testing.assert_allclose(risk, [0.5, 1 / (1 + np.exp(-2))])


def test_mean_risk_agrees_with_many_draws():
    drawn = 1 / (1 + np.exp(-(1 + 2 * np.random.default_rng(0).standard_normal(400_000))))
    risk = mean_risk(np.array([1.0]), np.array([4.0]))
    assert risk.item() == pytest.approx(drawn.mean(), abs=0.003)


def test_params_that_leave_no_test_split_are_refused():
    with pytest.raises(ValidationError, match="leaves a test split"):
        LinkedSimulationParams(**{**PARAMS.model_dump(), "train": 0.8, "validation": 0.2})
