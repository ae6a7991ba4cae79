"""Intervals of anything that can be computed from sums over cases, or patients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval
from histofuse.evaluation.metrics.weighted import Clusters, PerWeighting
from histofuse.params.intervals import IntervalMethod, IntervalParams

Measure = Callable[[Shaped[np.ndarray, "w s"]], Mapping[str, PerWeighting]]


@dataclass(frozen=True)
class ClusterBootstrap:
    """A bootstrap of the groups of certain rows."""

    bootstrap: Bootstrap
    clusters: Clusters

    def estimate(
        self,
        sums: Float[np.ndarray, "g s"],
        measure: Measure,
        *,
        paired: bool = False,
        method: IntervalMethod | None = None,
    ) -> dict[str, Interval]:
        """Compute intervals of metrics of weighted sums; curves take ``percentile``."""

        def measure_sums(weights: Shaped[np.ndarray, "w g"]) -> Mapping[str, np.ndarray]:
            with np.errstate(invalid="ignore", divide="ignore"):
                return measure(weights.astype(np.float64) @ sums)

        return self.estimate_weighted(measure_sums, paired=paired, method=method)

    def estimate_weighted(
        self, measure: Measure, *, paired: bool = False, method: IntervalMethod | None = None
    ) -> dict[str, Interval]:
        """Compute the interval of each metric of the weights themselves, such as one of rank."""
        names = tuple(measure(np.ones((1, self.clusters.count), dtype=np.int32)))

        def stack(weights: Shaped[np.ndarray, "w g"]) -> Float[np.ndarray, "w m"]:
            metrics = measure(weights)
            return np.column_stack([metrics[name] for name in names])

        resampled = self.bootstrap.resample(stack, names, self.clusters, paired=paired)
        return resampled.intervals(method)


def explain_resampling(params: IntervalParams, units: str) -> str:
    """Say under a table how its intervals were made."""
    method = params.method.replace("bca", "BCa (of differences of models, percentile)")
    return (
        f"In brackets {params.confidence:.0%} intervals: {method} bootstrap, {params.resamples:,} "
        f"resamples of whole {units}."
    )
