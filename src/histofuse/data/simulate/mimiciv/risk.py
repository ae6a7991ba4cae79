"""The simulated hospital's risk model: death within a year of leaving the index admission.

The true probability is the logistic of `INTERCEPT` plus the terms below, all of which the tables
record. A test that is not ordered adds nothing, so that no model lacks what the risk model knows.
Death is one Bernoulli trial, and nothing else before the discharge depends on its outcome. So the
AUROC of the true probability is what the best conceivable model reaches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Term:
    """One term: ``weight * (value - centre) / scale``, the quotient kept within ±`SATURATION`."""

    weight: float  # log-odds a scale
    centre: float = 0.0  # value without effect
    scale: float = 1.0  # step the weight refers to


# Risk levels off at both ends: an albumin of 2.5 g/dL is not much worse news than one of 2.9.
SATURATION: Final = 1.25

# One-year mortality after discharge. Laboratory values are the admission's own level, in the units
# of `mimic_catalogue.LABS`; the logarithm of LDH, which is skewed.
INTERCEPT: Final = -1.9
TERMS: Final[Mapping[str, Term]] = {
    "age_years": Term(0.6, 62.0, 10.0),
    "metastatic_cancer": Term(1.5),
    "albumin": Term(-1.1, 3.5, 0.4),
    "log_lactate_dehydrogenase": Term(0.2, 5.4, 0.35),
    "weight_loss": Term(0.3),
    "heart_failure": Term(0.4),
}

# Death during the index admission: the same risk, shifted and damped.
IN_HOSPITAL_INTERCEPT: Final = -2.7
IN_HOSPITAL_SLOPE: Final = 0.7


def compute_logit(values: Mapping[str, NDArray]) -> NDArray[np.float64]:
    """Compute the log-odds of one-year mortality from a vector for each name of `TERMS`."""
    logit = np.full(len(values["age_years"]), INTERCEPT)
    for name, term in TERMS.items():
        steps = (np.asarray(values[name], dtype=np.float64) - term.centre) / term.scale
        logit += term.weight * np.clip(steps, -SATURATION, SATURATION)
    return logit
