"""Decision curves: net benefit of acting on the model, on everyone and on no one.

At probability t a false alarm weighs t / (1 - t) as much as a hit.

Source: Vickers & Elkin 2006, Decision Curve Analysis.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from histofuse.evaluation.metrics.bootstrap import ClusterBootstrap
from histofuse.evaluation.metrics.classification import Events, Scores
from histofuse.evaluation.metrics.weighted import Clusters, PerWeighting, Totals
from histofuse.params.evaluation import ThresholdRange

Series = Float[np.ndarray, " t"]


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over threshold probabilities; NaN where not defined."""

    thresholds: Series  # at which one would act
    model: Series  # acting where the model says at least that much
    low: Series  # lower end of its pointwise interval
    high: Series
    treat_all: Series  # acting on every row


def list_thresholds(span: ThresholdRange) -> Series:
    """List the thresholds of a range, both ends included where the step meets them."""
    count = int(np.floor((span.high - span.low) / span.step + 1e-9)) + 1
    return np.round(span.low + span.step * np.arange(count), 9)


def measure_decision_curve(
    probability: Scores, positive: Events, span: ThresholdRange, bootstrap: ClusterBootstrap
) -> DecisionCurve:
    """Measure net benefit, with pointwise percentile intervals over cases or patients."""
    thresholds = list_thresholds(span)
    odds = thresholds / (1 - thresholds)
    steps = len(thresholds)
    clusters = bootstrap.clusters
    hits = _count_acted(probability, positive, clusters, thresholds)
    alarms = _count_acted(probability, ~positive, clusters, thresholds)
    totals = clusters.add_up(np.column_stack([np.ones(len(positive)), positive]))

    def measure(sums: Totals) -> dict[str, PerWeighting]:
        rows, events = sums[:, -2:-1], sums[:, -1:]
        net = (sums[:, :steps] - odds * sums[:, steps:-2]) / rows
        everyone = (events - odds * (rows - events)) / rows
        named = (("net", net), ("all", everyone))
        return {f"{name}/{t}": values[:, t] for name, values in named for t in range(steps)}

    sums = np.column_stack([hits, alarms, totals])
    found = bootstrap.estimate(sums, measure, method="percentile")

    def collect(name: str, end: str) -> Series:
        ends = (getattr(found[f"{name}/{t}"], end) for t in range(steps))
        return np.array([np.nan if e is None else e for e in ends])

    return DecisionCurve(
        thresholds,
        collect("net", "value"),
        collect("net", "low"),
        collect("net", "high"),
        collect("all", "value"),
    )


def _count_acted(
    probability: Scores, chosen: Events, clusters: Clusters, thresholds: Series
) -> Float[np.ndarray, "g t"]:
    """Count the chosen rows of each group whose probability reaches each threshold."""
    reached = np.searchsorted(thresholds, probability, side="right")
    counts = clusters.count_cells(reached, len(thresholds) + 1, chosen)
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, 1:]
