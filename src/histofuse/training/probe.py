"""A linear head on frozen features of an image network, solved to its optimum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from histofuse.core.errors import InputError
from histofuse.core.progress import report
from histofuse.core.seeding import derive_seed
from histofuse.models.backbones import ImageModel
from histofuse.models.standardiser import Standardiser
from histofuse.params.image import SolvedHeadParams
from histofuse.training.folds import Folds, split_folds

Features = Float32[np.ndarray, "n width"]
Logits = Float[np.ndarray, "n classes"]
Labels = Int64[np.ndarray, " n"]

# Units that folds keep whole, the first that leaves every class in every training part.
_UNITS = ("case_id", "frame_id", "patch_id")
_STEPS = 1000


class LinearHead(NamedTuple):
    """A standardiser and what it is followed by: (classes, width) weights and (classes,) biases."""

    scaler: Standardiser
    weight: Float32[np.ndarray, "classes width"]
    bias: Float32[np.ndarray, " classes"]

    def logits(self, features: Features) -> Logits:
        """Compute logits of features."""
        return self.scaler(torch.from_numpy(features)).numpy() @ self.weight.T + self.bias


@dataclass(frozen=True)
class Probe:
    """A fitted head, and how its penalty was chosen."""

    head: LinearHead  # fitted on all training rows
    c: float  # inverse strength of its penalty
    # of each candidate, the mean average precision of the classes on rows held out
    scores: dict[float, float]
    folds: int  # how many
    unit: str  # what a fold kept whole
    held_out: Logits  # logits of each training row, by a head fitted on the folds that it is not in

    def describe(self) -> dict[str, Any]:
        """Describe the choice as ``probe`` of ``config.json``."""
        scores = {str(c): score for c, score in self.scores.items()}
        return {"c": self.c, "scores": scores, "folds": self.folds, "unit": self.unit}


def fit_probe(
    features: Features, labels: Labels, keys: pd.DataFrame, params: SolvedHeadParams, seed: int
) -> Probe:
    """Choose the penalty by cross-validation of the training rows, and fit the head on all of them.

    The penalty is the one with the highest mean average precision of the classes; of equal ones
    the strongest. The loss would prefer shrunken logits, which calibration brings about anyway.
    `labels` are class numbers from 0 to the highest, each of which occurs; `keys` are ``case_id``,
    ``frame_id`` and ``patch_id``. Raises InputError if a class has fewer than two rows.
    """
    folds, unit = split_by_unit(labels, keys, params.folds, seed)
    candidates, classes = sorted(params.c), int(labels.max()) + 1
    held_out = {c: np.empty((len(labels), classes)) for c in candidates}
    for rest, held in folds:
        for c, head in _fit_heads(features[rest], labels[rest], candidates):
            held_out[c][held] = head.logits(features[held])
    scores = {c: _measure_precision(held_out[c], labels) for c in candidates}
    best = max(candidates, key=scores.__getitem__)
    ((_, head),) = _fit_heads(features, labels, [best])
    report(f"probe: C = {best:g} of {len(candidates)}, {len(folds)} folds by {unit}")
    return Probe(head, best, scores, len(folds), unit, held_out[best])


def split_by_unit(labels: Labels, keys: pd.DataFrame, folds: int, seed: int) -> tuple[Folds, str]:
    """Split rows into stratified folds by case; by frame, then by patch, where cases are too few.

    Cases are too few where a class would be missing from the rest of a fold. Returns row numbers
    (rest, held out) of each fold, and the unit. Raises InputError if a class has fewer than two
    rows.
    """
    classes = int(labels.max()) + 1
    for unit in (u for u in _UNITS if u in keys):
        groups = pd.factorize(keys[unit])[0]
        own = derive_seed(seed, "probe", unit)
        if splits := split_folds(labels, groups, classes, folds, own):
            return splits, unit.removesuffix("_id")
    raise InputError.of(
        "split 'train'", "a class has fewer than two rows", "two or more of each class"
    )


def _fit_heads(
    features: Features, labels: Labels, candidates: list[float]
) -> list[tuple[float, LinearHead]]:
    """Fit a head for each candidate, from the strongest penalty on, each from the one before."""
    from sklearn.linear_model import LogisticRegression

    scaler = Standardiser(features.shape[1])
    scaler.fit(torch.from_numpy(features))
    x = scaler(torch.from_numpy(features)).numpy().astype(np.float64)
    regression = LogisticRegression(class_weight="balanced", max_iter=_STEPS, warm_start=True)
    heads = []
    for c in candidates:
        # One thread: the order in which BLAS sums depends on their number.
        with threadpool_limits(limits=1, user_api="blas"):
            regression.set_params(C=c).fit(x, labels)
        weight, bias = np.array(regression.coef_), np.array(regression.intercept_)
        if len(weight) == 1:
            weight, bias = (np.concatenate([np.zeros_like(a), a]) for a in (weight, bias))
        heads.append((c, LinearHead(scaler, weight.astype(np.float32), bias.astype(np.float32))))
    return heads


def _measure_precision(logits: Logits, labels: Labels) -> float:
    """Compute the mean over classes of their average precision."""
    from sklearn.metrics import average_precision_score

    probabilities = softmax(logits, axis=1)
    precisions = [
        average_precision_score(labels == c, probabilities[:, c]) for c in range(logits.shape[1])
    ]
    return float(np.mean(precisions))


def put_head(model: ImageModel, head: LinearHead) -> None:
    """Give a network its head."""
    state = {f"0.{name}": value for name, value in head.scaler.state_dict().items()}
    state |= {"1.weight": torch.from_numpy(head.weight), "1.bias": torch.from_numpy(head.bias)}
    model.head.load_state_dict(state)
