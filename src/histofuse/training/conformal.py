"""Conformal prediction sets: the classes that cannot be ruled out at a promised coverage.

The promise holds if validation and new rows are exchangeable. Rows of one case resemble each other,
and the same rows chose the epoch and fitted the calibrator, so ``assess`` measures the coverage.

``lac``: the classes of at least a certain probability; ``aps``: the likeliest classes until a
certain probability is reached; coverage promised over all rows, so a rare class may be missed as a
rule. ``lac_by_class``: a limit from each class's own rows, coverage promised in each class.

Sources: Sadinle, Lei & Wasserman 2019, Least Ambiguous Set-Valued Classifiers with Bounded Error
Levels; Romano, Sesia & Candès 2020, Classification with Valid and Adaptive Coverage; Vovk 2012,
Conditional Validity of Inductive Conformal Predictors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from histofuse.core.seeding import derive_seed

COVERAGE: Final = 0.9  # of the sets in answers; that of the report is a param
_SLACK: Final = 1e-8  # a class exactly at the limit is in the set, as in MAPIE

Score = Literal["lac", "aps", "lac_by_class"]
Sets = Bool[np.ndarray, "n k"]


@dataclass(frozen=True)
class ConformalRule:
    """The rule that makes the prediction set of a row.

    There is a quantile of the conformity scores for each class, None where validation `rows` are
    too few to rule the class out at this coverage: it is in every set.
    """

    score: Score
    quantiles: tuple[float | None, ...]
    rows: tuple[int, ...]


def fit_conformal(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    score: Score,
    coverage: float,
    seed: int,
) -> ConformalRule:
    """Fit a rule on validation rows; of the scores only ``aps`` has a random part."""
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
    """Find the order statistic of the conformity scores; None where there are too few."""
    place = int(np.ceil((len(labels) + 1) * coverage - 1e-9))
    if place > len(labels):
        return None
    if score == "lac":
        scores = 1 - probabilities[np.arange(len(labels)), labels]
    else:
        scores = _score_adaptively(probabilities, labels, seed)
    return float(np.sort(scores)[place - 1])


def _score_adaptively(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, " n"]:
    # It imports scikit-learn, which the other rules do not need.
    from mapie.conformity_scores import APSConformityScore

    mapie, classes = APSConformityScore(), np.arange(probabilities.shape[1])
    mapie.set_external_attributes(classes=classes, random_state=derive_seed(seed, "conformal"))
    return mapie.get_conformity_scores(labels, probabilities, y_enc=labels).ravel()


def predict_sets(
    probabilities: Float[np.ndarray, "n k"], score: Score, quantiles: Sequence[float | None]
) -> Sets:
    """Make the prediction set of each row, as MAPIE would; a quantile of None keeps its class."""
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
