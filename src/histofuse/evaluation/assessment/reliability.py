"""Reliability diagrams: in each bin what was predicted, what happened, and how sure that is.

The interval of a bin is Wilson's on the rows it would have were they independent: fewer, the more
the rows of one case agree. In a bin where all rows agree there is no telling, so its cases, not its
rows, are counted. A bootstrap would give such a bin an interval of no width.

Source: Korn & Graubard 1998, Confidence Intervals for Proportions with Small Expected Number of
Positive Counts Estimated from Survey Data (effective sample size).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri, stdtrit

from histofuse.evaluation.metrics.bootstrap import round_number
from histofuse.evaluation.metrics.classification import ECE_BINS, place_in_bins

# Nothing is shown of fewer patients where they must not be identifiable.
FEWEST_SHOWN: Final = 10


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram.

    Attributes:
        predicted: Mean probability.
        observed: Share of its rows in which the event happened.
        low: Lower end of the interval of `observed`.
        high: Upper end.
        rows: How many there are.
        groups: Of how many cases, or patients.
    """

    predicted: float
    observed: float
    low: float
    high: float
    rows: int
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        ends = {n: round_number(getattr(self, n)) for n in ("predicted", "observed", "low", "high")}
        return ends | {"rows": self.rows, "groups": self.groups}


def measure_reliability(
    probability: Float[np.ndarray, " n"],
    happened: Bool[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    confidence: float,
    *,
    restricted: bool,
) -> list[Bin]:
    """Measure each bin that holds rows, from the lowest probability up.

    Args:
        probability: Of the event.
        happened: Whether it did.
        group: Case or patient of each row.
        confidence: Of the intervals.
        restricted: Whether bins of fewer than `FEWEST_SHOWN` patients are left out.
    """
    place = place_in_bins(probability)
    bins: list[Bin] = []
    for b in range(ECE_BINS):
        here = place == b
        groups = len(np.unique(group[here]))
        if groups >= (FEWEST_SHOWN if restricted else 1):
            low, high = bound_share(happened[here], group[here], confidence)
            predicted, observed = probability[here].mean(), happened[here].mean()
            bins.append(Bin(float(predicted), float(observed), low, high, int(here.sum()), groups))
    return bins


def bound_share(
    happened: Bool[np.ndarray, " n"], group: Int[np.ndarray, " n"], confidence: float
) -> tuple[float, float]:
    """Bound a share of clustered rows by Wilson's interval on their effective number."""
    share = float(happened.mean())
    n = count_effective(happened, group)
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)


def count_effective(happened: Bool[np.ndarray, " n"], group: Int[np.ndarray, " n"]) -> float:
    """Count the independent rows that would say as much as these, from 1 up to their number."""
    _, number, sizes = np.unique(group, return_inverse=True, return_counts=True)
    n, groups, share = len(happened), len(sizes), float(happened.mean())
    if groups in (n, 1) or share in (0.0, 1.0):
        return float(groups)
    deviation = np.bincount(number, happened - share)
    clustered = groups / (groups - 1) * (deviation**2).sum() / n**2
    plain = share * (1 - share) / (n - 1)
    # Of few groups the spread itself is uncertain: Student's t for the normal, as squares.
    few = (stdtrit(n - 1, 0.975) / stdtrit(groups - 1, 0.975)) ** 2
    return max(1.0, n / max(clustered / plain, 1.0) * float(few))
