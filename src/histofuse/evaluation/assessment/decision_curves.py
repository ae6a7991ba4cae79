"""Decision curves: net benefit of acting on the model, on everyone and on no one.

At probability t a false alarm weighs t / (1 - t) as much as a hit.

Source: Vickers & Elkin 2006, Decision Curve Analysis.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from histofuse.evaluation.metrics.classification import Events, Scores
from histofuse.evaluation.metrics.clustered import ClusterBootstrap, round_all
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
    gain_low: Series  # lower end of the interval of the model less the better of all and none

    def find_useful(self) -> list[tuple[float, float]]:
        """Find the ranges of thresholds in which the model surely beats both all and none."""
        better = np.nan_to_num(self.gain_low, nan=-1.0) > 0
        edges = np.flatnonzero(np.diff(np.concatenate([[False], better, [False]]).astype(int)))
        pairs = zip(edges[::2], edges[1::2] - 1, strict=True)
        return [(float(self.thresholds[a]), float(self.thresholds[b])) for a, b in pairs]

    def to_dict(self) -> dict[str, Any]:
        """Render for JSON."""
        series = ("thresholds", "model", "low", "high", "treat_all")
        return {name: round_all(getattr(self, name)) for name in series} | {
            "better_than_all_and_none": [round_all(ends) for ends in self.find_useful()]
        }


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
        gain = net - np.maximum(everyone, 0.0)
        named = (("net", net), ("all", everyone), ("gain", gain))
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
        collect("gain", "low"),
    )


def _count_acted(
    probability: Scores, chosen: Events, clusters: Clusters, thresholds: Series
) -> Float[np.ndarray, "g t"]:
    """Count the chosen rows of each group whose probability reaches each threshold."""
    reached = np.searchsorted(thresholds, probability, side="right")
    counts = clusters.count_cells(reached, len(thresholds) + 1, chosen)
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, 1:]
