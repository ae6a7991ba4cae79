"""Faithfulness scores: value, interval, direction and concern."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from histofuse.core.artifacts import load_json, render, write_json
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.sides import Estimate, find_side
from histofuse.evaluation.metrics.weighted import Clusters

FAITHFULNESS: Final = "faithfulness.json"
Outcome = Literal["good", "concern", "inconclusive", ""]
Scores = Mapping[str, Float[np.ndarray, " n"]]


@dataclass(frozen=True)
class Score(Estimate):
    """A faithfulness score: the mean of n rows; `note` says why there is no interval."""

    n: int = 0
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """The definition of a faithfulness score.

    A score not better than the `limit`, in the direction of `better`, is a `concern`; for
    comparison only, all three are empty. `exact`: the value itself decides, such as a largest
    error.
    """

    meaning: str
    better: Literal["higher", "lower", ""] = ""
    limit: float | None = None
    concern: str = ""
    exact: bool = False

    def find_outcome(self, estimate: Score, fewest_groups: int) -> Outcome:
        """Tell on which side of its limit a score lies by its interval; empty without a limit."""
        if estimate.value is None or self.limit is None:
            return ""
        if self.exact:
            estimate = replace(estimate, low=estimate.value, high=estimate.value)
        side = find_side(estimate, 0 if self.exact else fewest_groups, self.limit)
        if side == "inconclusive":
            return "inconclusive"
        return "good" if (side == "above") == (self.better == "higher") else "concern"

    def find_concern(self, estimate: Score, fewest_groups: int) -> str:
        """Describe the concern about a score; empty where its value is on the good side."""
        if estimate.value is None or self.limit is None:
            return ""
        sign = 1 if self.better == "higher" else -1
        if sign * (estimate.value - self.limit) > 0:
            return ""
        sure = self.find_outcome(estimate, fewest_groups) == "concern"
        return self.concern if sure else f"{self.concern}, inconclusive"


def load_measures(path: Path) -> dict[str, Measure]:
    """Load the definitions of scores from a JSON file."""
    return {name: Measure(**entry) for name, entry in load_json(path).items()}


def estimate_means(
    scores: Scores, groups: Shaped[np.ndarray, " n"], bootstrap: Bootstrap, unit: str = "cases"
) -> dict[str, Score]:
    """Compute the mean of each score and its interval over groups (`unit` in the plural).

    A row where a score is NaN is left out of that mean.
    """
    values = np.column_stack([*scores.values()])
    known = ~np.isnan(values)
    names, numbers = np.unique(groups, return_inverse=True)
    clusters = Clusters(numbers, len(names), unit)
    totals, rows = (clusters.add_up(c) for c in (np.where(known, values, 0.0), known))

    def measure(weights: Int[np.ndarray, "w g"]) -> Float[np.ndarray, "w m"]:
        n = weights @ rows
        return np.divide(weights @ totals, n, out=np.full(n.shape, np.nan), where=n > 0)

    intervals = bootstrap.resample(measure, tuple(scores), clusters, paired=True).intervals()
    counts = known.sum(axis=0).tolist()
    return {
        name: Score(i.value, i.low, i.high, i.groups, n, i.note)
        for n, (name, i) in zip(counts, intervals.items(), strict=True)
    }


def correlate_ranks(
    values: Float[np.ndarray, "n values"], others: Float[np.ndarray, "n values"]
) -> Float[np.ndarray, " n"]:
    """Compute Spearman's rank correlation row by row; NaN where a row is constant."""
    ranks = [pd.DataFrame(v).rank(axis=1).to_numpy() for v in (values, others)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def render_estimates(
    estimates: Mapping[str, Score], measures: Mapping[str, Measure], fewest_groups: int
) -> dict[str, dict[str, Any]]:
    """Render for `write_scores`.

    Returns name to the fields of `Score`, ``better``, ``limit``, ``meaning``, ``outcome``
    (``good``, ``concern`` or ``inconclusive``; empty without a limit) and ``concern`` (a sentence
    where the value is on the wrong side of its limit, else empty). A name ``a/b`` is part b of a,
    and no concern by itself.
    """
    rendered = {}
    for name, estimate in estimates.items():
        whole, _, part = name.partition("/")
        measure = replace(measures[whole], limit=None) if part else measures[whole]
        rendered[name] = render(estimate) | {
            "better": measure.better,
            "limit": measure.limit,
            "meaning": measure.meaning,
            "outcome": measure.find_outcome(estimate, fewest_groups),
            "concern": measure.find_concern(estimate, fewest_groups),
        }
    return rendered


def write_scores(rendered: Mapping[str, Any], digest: str, path: Path) -> None:
    """Write rendered scores with the digest of the bundle they are of: ``digest``, ``scores``."""
    write_json({"digest": digest, "scores": rendered}, path)


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Read the scores that `write_scores` wrote."""
    return load_json(path)["scores"]


def list_concerns(rendered: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the concerns, each with its score."""
    return [
        f"{name} {score['value']:+.3f}: {score['concern']}"
        for name, score in rendered.items()
        if score["concern"]
    ]
