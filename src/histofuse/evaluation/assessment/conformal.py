"""Conformal prediction sets: the classes that cannot be ruled out at a promised coverage.

Calibrated on validation rows, measured on the split reported. The promise holds if the rows of both
are exchangeable. Rows of one case resemble each other and cases differ, so it does not hold here to
the letter: the measured coverage says how far it holds. The same validation rows also chose the
epoch and fitted the calibrator, which flatters the calibration of the sets a little.

Three methods. ``lac``: the classes of at least a certain probability, coverage promised over all
rows, so a rare class may be missed as a rule. ``aps``: the likeliest classes until a certain
probability is reached, likewise. ``lac_by_class``: a limit for each class, chosen on validation
rows of that class alone, coverage promised in each class.

Sources: Sadinle, Lei & Wasserman 2019, Least Ambiguous Set-Valued Classifiers with Bounded Error
Levels; Romano, Sesia & Candès 2020, Classification with Valid and Adaptive Coverage; Vovk 2012,
Conditional Validity of Inductive Conformal Predictors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from histofuse.core.seeding import derive_seed
from histofuse.evaluation.metrics.bootstrap import Interval, round_number
from histofuse.evaluation.metrics.clustered import ClusterBootstrap, render_intervals

_SLACK: Final = 1e-8  # a class exactly at the limit is in the set, as in MAPIE

Score = Literal["lac", "aps", "lac_by_class"]
SCORES: Final[Mapping[str, str]] = {
    "lac": "Least ambiguous sets (LAC)",
    "aps": "Adaptive sets (APS)",
    "lac_by_class": "LAC in each class",
}
Sets = Bool[np.ndarray, "n k"]


@dataclass(frozen=True)
class ConformalRule:
    """The rule that makes the prediction set of a row.

    Attributes:
        score: The method.
        quantiles: Of the conformity scores, one a class, the same for all but by class; None where
            validation rows are too few to rule the class out at this coverage: it is in every set.
        rows: Validation rows behind each.
    """

    score: Score
    quantiles: tuple[float | None, ...]
    rows: tuple[int, ...]


def list_scores(labels: Int[np.ndarray, " n"]) -> list[Score]:
    """List the methods that validation rows allow: of two classes ``aps`` is not defined."""
    scores: list[Score] = ["lac", "lac_by_class"]
    if len(np.unique(labels)) > 2:
        scores.insert(1, "aps")
    return scores


def fit_conformal(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    score: Score,
    coverage: float,
    seed: int,
) -> ConformalRule:
    """Fit a rule on validation rows through MAPIE; of the scores only ``aps`` has a random part."""
    k = probabilities.shape[1]
    if score != "lac_by_class":
        quantile = _find_quantile(probabilities, labels, score, coverage, seed)
        return ConformalRule(score, (quantile,) * k, (len(labels),) * k)
    own = [labels == c for c in range(k)]
    quantiles = [_find_quantile(probabilities[o], labels[o], "lac", coverage, seed) for o in own]
    return ConformalRule(score, tuple(quantiles), tuple(int(o.sum()) for o in own))


def _find_quantile(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    score: Literal["lac", "aps"],
    coverage: float,
    seed: int,
) -> float | None:
    """Find the order statistic of MAPIE's conformity scores; None where there are too few."""
    # It imports scikit-learn, which rules that are only applied do not need.
    from mapie.conformity_scores import APSConformityScore, LACConformityScore

    place = int(np.ceil((len(labels) + 1) * coverage - 1e-9))
    if place > len(labels):
        return None
    mapie = LACConformityScore() if score == "lac" else APSConformityScore()
    classes = np.arange(probabilities.shape[1])
    mapie.set_external_attributes(classes=classes, random_state=derive_seed(seed, "conformal"))
    scores = mapie.get_conformity_scores(labels, probabilities, y_enc=labels)
    return float(np.sort(scores.ravel())[place - 1])


def predict_sets(
    probabilities: Float[np.ndarray, "n k"],
    score: Score,
    quantiles: Sequence[float | None],
) -> Sets:
    """Make the prediction set of each row, as MAPIE would.

    Args:
        probabilities: Calibrated; any number of rows, one included.
        score: The method.
        quantiles: One a class; None keeps the class in every set.
    """
    limits = np.array([np.inf if q is None else q for q in quantiles])
    if score != "aps":
        return 1 - probabilities <= limits + _SLACK
    order = np.argsort(-probabilities, axis=1, kind="stable")
    reached = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    # The class with which the limit is reached is in the set, those before it too.
    before = np.column_stack([np.zeros(len(reached)), reached[:, :-1]])
    sets = np.empty(probabilities.shape, dtype=bool)
    np.put_along_axis(sets, order, before < limits[0] - _SLACK, axis=1)
    return sets


def predict_set(probabilities: Sequence[float], conformal: Mapping[str, Any]) -> list[str]:
    """Name the classes in the prediction set of one row.

    Args:
        probabilities: Calibrated, in the order of the model's classes.
        conformal: What ``assessment.json`` holds under ``models.<name>.conformal``.
    """
    classes, quantile = conformal["classes"], conformal["quantile"]
    row = np.asarray(probabilities, dtype=np.float64)[None]
    (held,) = predict_sets(row, conformal["score"], [quantile[c] for c in classes])
    return [name for name, inside in zip(classes, held, strict=True) if inside]


@dataclass(frozen=True)
class Coverage:
    """Coverage and size of the sets of a rule on the split reported.

    Attributes:
        rule: That made them.
        intervals: Of ``coverage/all`` and ``coverage/<class>``, ``mean_size``, ``empty``,
            ``single`` and ``full`` (shares of sets), for the fitted rule.
    """

    rule: ConformalRule
    intervals: Mapping[str, Interval]

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Render for JSON."""
        quantiles = map(round_number, self.rule.quantiles)
        return {
            "quantile": dict(zip(classes, quantiles, strict=True)),
            "validation_rows": dict(zip(classes, self.rule.rows, strict=True)),
        } | render_intervals(self.intervals)


def measure_coverage(
    rule: ConformalRule,
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
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

    def measure(totals: Float[np.ndarray, "w s"]) -> dict[str, Float[np.ndarray, " w"]]:
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
