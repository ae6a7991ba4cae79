"""Draw patients whose severity shows in the tissue and in the record, and an outcome.

The outcome is drawn from the recorded values themselves and the grade's own part. Without that part
it is independent of the tissue given the record: two noisy readings of one severity would not be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import brentq
from scipy.special import expit, logit

from histofuse.core.seeding import make_rng
from histofuse.params.simulation import LinkedSimulationParams

# Column -> mean and standard deviation; a negative one where low values are bad.
MARKERS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"tumour_size_mm": (26.0, 8.0), "ca_15_3": (28.0, 8.0), "alkaline_phosphatase": (85.0, 22.0)}
)
OWN: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"age_years": (62.0, 11.0), "comorbidity_score": (10.0, 3.0), "albumin": (38.0, -4.0)}
)
CLASSES: Final = ("mitosis", "tumour", "non_tumour")
_NON_TUMOUR: Final = 0.12  # share of nuclei; says nothing
_STREAM: Final = "simulate_linked"
_NODES, _WEIGHTS = hermegauss(24)


@dataclass(frozen=True)
class Tissue:
    """What a patient's nuclei are drawn as, and the latents behind them."""

    severity: Float[np.ndarray, " n"]  # latent, standard normal
    own: Float[np.ndarray, " n"]  # the grade's own part, latent, standard normal
    counts: Int[np.ndarray, "n 3"]  # nuclei of each of `CLASSES`
    pleomorphism: Float[np.ndarray, " n"]  # as drawn, in standard deviations


@dataclass(frozen=True)
class Record:
    """Standardised recorded values; NaN where missing."""

    markers: Float[np.ndarray, "n 3"]  # of severity
    own: Float[np.ndarray, "n 3"]  # of what only the record tells; high is bad


@dataclass(frozen=True)
class LinkedCohort:
    """Drawn patients."""

    tissue: Tissue
    record: Record
    outcome: Int[np.ndarray, " n"]


def draw_cohort(params: LinkedSimulationParams, seed: int) -> LinkedCohort:
    """Draw the patients; the tissue depends neither on the record's nor on the outcome's params."""
    tissue = draw_tissue(params, seed)
    record, outcome = draw_outcome(tissue, params, seed)
    return LinkedCohort(tissue, record, outcome)


def draw_tissue(params: LinkedSimulationParams, seed: int) -> Tissue:
    """Draw severity, grade and what the nuclei are."""
    rng = make_rng(seed, _STREAM, "tissue")
    severity, own, noise = rng.standard_normal((3, params.patients))
    w = params.severity_in_tissue
    grade = w * severity + np.sqrt(1 - w**2) * own
    mitosis = (1 - _NON_TUMOUR) * compute_mitotic_share(grade, params)
    shares = np.column_stack((mitosis, 1 - _NON_TUMOUR - mitosis, np.full(len(grade), _NON_TUMOUR)))
    counts = rng.multinomial(params.nuclei_per_patient, shares)
    rho = params.pleomorphism_correlation
    return Tissue(severity, own, counts, rho * grade + np.sqrt(1 - rho**2) * noise)


def compute_mitotic_share(
    grade: Float[np.ndarray, " n"], params: LinkedSimulationParams
) -> Float[np.ndarray, " n"]:
    """Compute the probability that a nucleus of the tumour divides."""
    return expit(logit(params.mitosis_fraction) + params.grade_effect * grade)


def draw_outcome(
    tissue: Tissue, params: LinkedSimulationParams, seed: int
) -> tuple[Record, Int[np.ndarray, " n"]]:
    """Draw a record and an outcome to each tissue."""
    rng = make_rng(seed, _STREAM, "record")
    n, rho = len(tissue.severity), params.severity_in_record
    markers = rho * tissue.severity[:, None] + np.sqrt(1 - rho**2) * rng.standard_normal((n, 3))
    own = rng.standard_normal((n, 3))
    gone = rng.random((2, n, 3)) < params.missing
    record = _round_as_recorded(
        Record(np.where(gone[0], np.nan, markers), np.where(gone[1], np.nan, own))
    )
    risk = expit(score_record(record, params) + params.image_own * tissue.own)
    return record, (rng.random(n) < risk).astype(np.int64)


def _round_as_recorded(record: Record) -> Record:
    """Round the values as the table holds them, for the outcome is drawn from the table."""
    table = tabulate_record(record)
    return Record(*(
        np.column_stack([(table[c] - mean) / sd for c, (mean, sd) in columns.items()])
        for columns in (MARKERS, OWN)
    ))  # fmt: skip


def tabulate_record(record: Record) -> pd.DataFrame:
    """Give the recorded values their units; null where missing."""
    scales = [*MARKERS.items(), *OWN.items()]
    values = np.column_stack((record.markers, record.own)).T
    columns = zip(scales, values, strict=True)
    return pd.DataFrame({name: np.round(mean + sd * z, 1) for (name, (mean, sd)), z in columns})


def score_record(record: Record, params: LinkedSimulationParams) -> Float[np.ndarray, " n"]:
    """Compute the record's part of the log-odds; a missing value counts as the mean."""
    shared = np.nansum(record.markers, axis=1) / spread_of_markers(params)
    own = np.nansum(record.own, axis=1) / np.sqrt(len(OWN))
    return find_intercept(params) + params.shared * shared + params.record_own * own


def spread_of_markers(params: LinkedSimulationParams) -> float:
    """Compute the standard deviation of the sum of all markers."""
    k = len(MARKERS)
    return float(np.sqrt(k + k * (k - 1) * params.severity_in_record**2))


def find_intercept(params: LinkedSimulationParams) -> float:
    """Find the intercept that gives the prevalence, with nothing missing."""
    variance = params.shared**2 + params.image_own**2 + params.record_own**2

    def miss(intercept: float) -> float:
        return mean_risk(np.array([intercept]), np.array([variance])).item() - params.prevalence

    return float(brentq(miss, -60, 60))  # pyright: ignore[reportArgumentType]


def mean_risk(
    mean: Float[np.ndarray, " *n"], variance: Float[np.ndarray, " *n"]
) -> Float[np.ndarray, " *n"]:
    """Average the logistic function over normally distributed log-odds."""
    spread, weights = np.sqrt(variance), _WEIGHTS / _WEIGHTS.sum()
    # A loop, not a third axis, which of many patients would take a gigabyte.
    nodes = zip(_NODES, weights, strict=True)
    return sum((w * expit(mean + spread * x) for x, w in nodes), start=np.zeros_like(mean))
