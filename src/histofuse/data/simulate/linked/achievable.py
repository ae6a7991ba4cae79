"""What the model that drew the patients can say of the outcome from what is observed.

Observed are the nuclei (classes and pleomorphism) and the recorded values, never a latent. Given
them, the grade has a posterior on a grid; given the grade, the log-odds of the outcome are normal,
so their mean risk is a quadrature. No method can expect a higher AUROC.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Float
from scipy.special import comb, log_softmax

from histofuse.core.auroc import compute_auroc
from histofuse.data.simulate.linked.cohort import (
    MARKERS,
    OWN,
    LinkedCohort,
    Record,
    Tissue,
    compute_mitotic_share,
    draw_cohort,
    find_intercept,
    mean_risk,
    score_record,
    spread_of_markers,
)
from histofuse.params.simulation import LinkedSimulationParams

SIDES: Final = ("image", "record", "both")
_GRID: Final = np.linspace(-5, 5, 101)
_EXPECTED_PATIENTS: Final = 20_000


def compute_best(
    cohort: LinkedCohort, params: LinkedSimulationParams
) -> dict[str, Float[np.ndarray, " n"]]:
    """Compute the probability of the outcome given the image, the record, and both."""
    unseen = np.full(len(cohort.outcome), params.image_own**2)
    return {
        "image": _judge_image(cohort.tissue, params),
        "record": mean_risk(score_record(cohort.record, params), unseen),
        "both": _judge_both(cohort, params),
    }


def measure_achievable(
    cohort: LinkedCohort, test: np.ndarray, params: LinkedSimulationParams, seed: int
) -> dict[str, Any]:
    """Measure the AUROC of `compute_best` on the test patients, and what to expect of others."""
    best = compute_best(cohort, params)
    many = params.model_copy(update={"patients": _EXPECTED_PATIENTS})
    others = draw_cohort(many, seed)
    expected = compute_best(others, many)
    return {
        "test": {s: compute_auroc(best[s][test], cohort.outcome[test]) for s in SIDES},
        "expected": {s: compute_auroc(expected[s], others.outcome) for s in SIDES},
    }


def _judge_image(tissue: Tissue, params: LinkedSimulationParams) -> Float[np.ndarray, " n"]:
    prior = -0.5 * _GRID**2
    posterior = np.exp(log_softmax(prior + _grade_likelihood(tissue, params), axis=1))
    return posterior @ _risk_by_grade(params)


def _risk_by_grade(params: LinkedSimulationParams) -> Float[np.ndarray, " g"]:
    """Compute the risk at each grade of a patient whose record, with its gaps, is not seen."""
    w, rho = params.severity_in_tissue, params.severity_in_record
    u, spread = np.sqrt(1 - w**2), spread_of_markers(params)
    risk = np.zeros_like(_GRID)
    for k, weight in enumerate(_chances(len(MARKERS), params)):
        slope = params.shared * w * k * rho / spread + params.image_own * u
        shared = params.shared**2 * (k + k * (k - 1) * rho**2) / spread**2
        for m, chance in enumerate(_chances(len(OWN), params)):
            own = params.record_own**2 * m / len(OWN)
            variance = shared + own + params.image_own**2 - slope**2
            log_odds = find_intercept(params) + slope * _GRID
            risk += weight * chance * mean_risk(log_odds, np.full_like(_GRID, variance))
    return risk


def _chances(columns: int, params: LinkedSimulationParams) -> Float[np.ndarray, " k"]:
    """Compute the probability that 0, 1 ... of some columns are recorded."""
    recorded, share = np.arange(columns + 1), 1 - params.missing
    return comb(columns, recorded) * share**recorded * params.missing ** (columns - recorded)


def _judge_both(cohort: LinkedCohort, params: LinkedSimulationParams) -> Float[np.ndarray, " n"]:
    w = params.severity_in_tissue
    mean, variance = _expect_severity(cohort.record, params)
    mean, variance = w * mean[:, None], (w**2 * variance + 1 - w**2)[:, None]
    prior = -0.5 * (_GRID - mean) ** 2 / variance
    posterior = np.exp(log_softmax(prior + _grade_likelihood(cohort.tissue, params), axis=1))
    # The grade's own part, given grade and record.
    own = np.sqrt(1 - w**2) * (_GRID - mean) / variance
    left = np.broadcast_to(1 - (1 - w**2) / variance, own.shape)
    log_odds = score_record(cohort.record, params)[:, None] + params.image_own * own
    return (posterior * mean_risk(log_odds, params.image_own**2 * left)).sum(axis=1)


def _expect_severity(
    record: Record, params: LinkedSimulationParams
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    rho, recorded = params.severity_in_record, (~np.isnan(record.markers)).sum(axis=1)
    variance = 1 / (1 + recorded * rho**2 / (1 - rho**2))
    return variance * rho / (1 - rho**2) * np.nansum(record.markers, axis=1), variance


def _grade_likelihood(tissue: Tissue, params: LinkedSimulationParams) -> Float[np.ndarray, "n g"]:
    share = compute_mitotic_share(_GRID, params)
    mitoses, others = tissue.counts[:, :1], tissue.counts[:, 1:2]
    rho = params.pleomorphism_correlation
    off = tissue.pleomorphism[:, None] - rho * _GRID
    classes = mitoses * np.log(share) + others * np.log1p(-share)
    return classes - 0.5 * off**2 / (1 - rho**2)
