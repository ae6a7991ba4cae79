"""Quality of probabilities before and after calibration, and reliability diagrams.

Over bins of equal width the Brier score is exactly

    reliability - resolution + uncertainty + within-bin variance - within-bin covariance

The first three are Murphy's; the covariance counts twice. The interval of a bin is Wilson's on the
rows it would have were they independent: fewer, the more the rows of one case agree. Where all rows
agree its cases are counted; a bootstrap would give such a bin an interval of no width.

Sources: Murphy 1973, A New Vector Partition of the Probability Score; Stephenson, Coelho & Jolliffe
2008, Two Extra Components in the Brier Score Decomposition; Korn & Graubard 1998, Confidence
Intervals for Proportions with Small Expected Number of Positive Counts Estimated from Survey Data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from histofuse.core.privacy import FEWEST_PATIENTS
from histofuse.evaluation.metrics.bootstrap import ClusterBootstrap, Interval
from histofuse.evaluation.metrics.classification import (
    ECE_BINS,
    Events,
    Labels,
    Probabilities,
    Scores,
    place_in_bins,
)
from histofuse.evaluation.metrics.weighted import Clusters, PerWeighting, Totals

ALL: Final = "all"
COMPONENTS: Final = (
    "reliability", "resolution", "uncertainty", "within_bin_variance", "within_bin_covariance"
)  # fmt: skip
QUALITIES: Final = ("brier", "ece", *COMPONENTS)
_TERMS: Final = 5  # a bin: rows, and sums of p, o, p squared, p times o

Found = dict[str, PerWeighting]


@dataclass(frozen=True)
class Quality:
    """Calibration of one class against the rest, or of all."""

    before: Mapping[str, Interval]  # `QUALITIES` of the softmax of the logits
    after: Mapping[str, Interval]  # likewise, calibrated
    # after less before, of ``brier`` and ``ece``, on the same resamples
    change: Mapping[str, Interval]


def measure_quality(
    before: Probabilities,
    after: Probabilities,
    labels: np.ndarray,
    classes: list[str],
    bootstrap: ClusterBootstrap,
) -> dict[str, Quality]:
    """Measure calibration before and after, with intervals over cases or patients.

    Of two classes the positive one. Of more each class against the rest, and `ALL`: there the Brier
    score and its parts are sums over the classes, and the calibration error is their mean.
    """
    scopes = {name: [c] for c, name in enumerate(classes)} | {ALL: list(range(len(classes)))}
    if len(classes) == 2:
        scopes = {classes[1]: [1]}
    quality = {}
    for name, columns in scopes.items():
        parts = [(side[:, c], labels == c) for side in (before, after) for c in columns]
        sums = np.column_stack([sum_bins(*part, bootstrap.clusters) for part in parts])
        quality[name] = _measure_scope(sums, bootstrap)
    return quality


def _measure_scope(sums: Float[np.ndarray, "g s"], bootstrap: ClusterBootstrap) -> Quality:
    def measure(totals: Totals) -> Found:
        sides = zip(("before", "after"), np.hsplit(totals, 2), strict=True)
        return {f"{side}/{n}": v for side, of in sides for n, v in compute_quality(of).items()}

    def measure_change(totals: Totals) -> Found:
        found = measure(totals)
        return {n: found[f"after/{n}"] - found[f"before/{n}"] for n in ("brier", "ece")}

    found = bootstrap.estimate(sums, measure)
    before, after = ({n: found[f"{s}/{n}"] for n in QUALITIES} for s in ("before", "after"))
    return Quality(before, after, bootstrap.estimate(sums, measure_change, paired=True))


def sum_bins(probability: Scores, happened: Events, clusters: Clusters) -> Float[np.ndarray, "g s"]:
    """Add up over each group and bin: rows, p, o, p squared, p times o; bins by bins."""
    p, o = probability, happened.astype(np.float64)
    place = place_in_bins(p)
    terms = (np.ones_like(p), p, o, p * p, p * o)
    return np.column_stack([clusters.count_cells(place, ECE_BINS, t) for t in terms])


def compute_quality(totals: Totals) -> Found:
    """Compute `QUALITIES` from weighted sums of `sum_bins`, a class after the other."""
    classes = totals.reshape(len(totals), -1, _TERMS, ECE_BINS)
    each = [_decompose(classes[:, c]) for c in range(classes.shape[1])]
    found = {name: np.sum([e[name] for e in each], axis=0) for name in ("brier", *COMPONENTS)}
    return found | {"ece": np.mean([e["ece"] for e in each], axis=0)}


def _decompose(terms: Float[np.ndarray, "w 5 bins"]) -> Found:
    rows, p, o, pp, po = (terms[:, t] for t in range(_TERMS))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = rows.sum(axis=1)
        held = np.maximum(rows, 1.0)
        rate = o.sum(axis=1) / total
        gap = p - o
        return {
            "brier": (pp - 2 * po + o).sum(axis=1) / total,
            "ece": np.abs(gap).sum(axis=1) / total,
            "reliability": (gap**2 / held).sum(axis=1) / total,
            "resolution": (rows * (o / held - rate[:, None]) ** 2).sum(axis=1) / total,
            "uncertainty": rate * (1 - rate),
            "within_bin_variance": (pp - p * p / held).sum(axis=1) / total,
            "within_bin_covariance": 2 * (po - p * o / held).sum(axis=1) / total,
        }


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram."""

    predicted: float  # mean probability
    observed: float  # share of its rows in which the event happened
    low: float  # lower end of the interval of `observed`
    high: float
    rows: int  # how many there are
    groups: int  # of how many cases, or patients


def measure_reliability(
    probability: Scores, happened: Events, group: Labels, confidence: float, *, restricted: bool
) -> list[Bin]:
    """Measure each bin that holds rows; if `restricted`, at least `FEWEST_PATIENTS` patients."""
    place = place_in_bins(probability)
    bins: list[Bin] = []
    for b in range(ECE_BINS):
        here = place == b
        groups = len(np.unique(group[here]))
        if groups >= (FEWEST_PATIENTS if restricted else 1):
            low, high = bound_share(happened[here], group[here], confidence)
            predicted, observed = probability[here].mean(), happened[here].mean()
            bins.append(Bin(float(predicted), float(observed), low, high, int(here.sum()), groups))
    return bins


def bound_share(happened: Events, group: Labels, confidence: float) -> tuple[float, float]:
    """Bound a share of clustered rows by Wilson's interval on their effective number."""
    share = float(happened.mean())
    n = count_effective(happened, group)
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)


def count_effective(happened: Events, group: Labels) -> float:
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
