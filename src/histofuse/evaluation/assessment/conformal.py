"""Coverage of conformal prediction sets (`training.conformal`), measured on the split reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from histofuse.evaluation.metrics.bootstrap import ClusterBootstrap, Interval
from histofuse.evaluation.metrics.classification import Labels, Probabilities
from histofuse.evaluation.metrics.weighted import PerWeighting, Totals
from histofuse.training.conformal import ConformalRule, Score, predict_sets

SCORES: Final[Mapping[str, str]] = {
    "lac": "Least ambiguous sets (LAC)",
    "aps": "Adaptive sets (APS)",
    "lac_by_class": "LAC in each class",
}


def list_scores(labels: Labels) -> list[Score]:
    """List the methods that validation rows allow: of two classes ``aps`` is not defined."""
    scores: list[Score] = ["lac", "lac_by_class"]
    if len(np.unique(labels)) > 2:
        scores.insert(1, "aps")
    return scores


def predict_set(probabilities: Sequence[float], conformal: Mapping[str, Any]) -> list[str]:
    """Name the classes in a row's prediction set, by ``conformal`` of ``assessment.json``."""
    classes, quantile = conformal["classes"], conformal["quantile"]
    row = np.asarray(probabilities, dtype=np.float64)[None]
    (held,) = predict_sets(row, conformal["score"], [quantile[c] for c in classes])
    return [name for name, inside in zip(classes, held, strict=True) if inside]


@dataclass(frozen=True)
class Coverage:
    """Coverage and size of the sets of a rule on the split reported."""

    rule: ConformalRule  # that made them
    # of ``coverage/all`` and ``coverage/<class>``, ``mean_size``, ``empty``, ``single`` and
    # ``full`` (shares of sets), for the fitted rule
    intervals: Mapping[str, Interval]


def measure_coverage(
    rule: ConformalRule,
    probabilities: Probabilities,
    labels: Labels,
    classes: Sequence[str],
    bootstrap: ClusterBootstrap,
) -> Coverage:
    """Measure coverage, in each class and over all, and the size of the sets."""
    sets, k = predict_sets(probabilities, rule.score, rule.quantiles), len(classes)
    size = sets.sum(axis=1)
    covered = sets[np.arange(len(labels)), labels]
    own = np.eye(k)[labels]
    columns = (own, own * covered[:, None], size, size == 0, size == 1, size == k)
    sums = bootstrap.clusters.add_up(np.column_stack(columns))

    def measure(totals: Totals) -> dict[str, PerWeighting]:
        rows, held = totals[:, :k], totals[:, k : 2 * k]
        total = rows.sum(axis=1)
        named = zip(classes, (held / rows).T, strict=True)
        sizes = zip(("mean_size", "empty", "single", "full"), totals[:, 2 * k :].T, strict=True)
        return (
            {"coverage/all": held.sum(axis=1) / total}
            | {f"coverage/{name}": share for name, share in named}
            | {name: value / total for name, value in sizes}
        )

    return Coverage(rule, bootstrap.estimate(sums, measure))
