"""What the methods without a network are made of: logistic regression and boosted trees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64, Int64
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from histofuse.core.seeding import derive_seed
from histofuse.models.standardiser import SMALLEST_SPREAD
from histofuse.patients.rows import PatientRows
from histofuse.training.folds import Folds, split_folds

if TYPE_CHECKING:
    import xgboost

Matrix = Float[np.ndarray, "p width"]
Logits = Float64[np.ndarray, " p"]


@dataclass(frozen=True)
class Logistic:
    """L2-penalised logistic regression on standardised columns."""

    mean: Float64[np.ndarray, " width"]
    scale: Float64[np.ndarray, " width"]
    weights: Float64[np.ndarray, " width"]
    intercept: Float64[np.ndarray, " 1"]

    @property
    def parameters(self) -> int:
        """Weights and intercept."""
        return len(self.weights) + 1

    def logits(self, x: Matrix) -> Logits:
        """Compute log-odds."""
        return (x - self.mean) / self.scale @ self.weights + self.intercept[0]

    def write(self, folder: Path, name: str) -> None:
        """Write the arrays as safetensors."""
        save_file(vars(self), folder / f"{name}.safetensors")


def load_logistic(folder: Path, name: str) -> Logistic:
    """Read what `Logistic.write` wrote."""
    return Logistic(**load_file(folder / f"{name}.safetensors"))


def fit_logistic(
    blocks: Sequence[Float[np.ndarray, "p _"]], outcome: Int64[np.ndarray, " p"], c: float
) -> Logistic:
    """Fit on joined blocks of columns.

    Columns are divided by the root of their block's width: the penalty then weighs each block
    alike, however wide it is, and 512 dimensions of an embedding do not drown ten laboratory
    values.
    """
    from sklearn.linear_model import LogisticRegression

    x = np.hstack(blocks).astype(np.float64)
    widths = np.concatenate([np.full(block.shape[1], block.shape[1]) for block in blocks])
    spread = x.std(axis=0)
    scale = np.where(spread > SMALLEST_SPREAD, spread, 1.0) * np.sqrt(widths)
    mean = x.mean(axis=0)
    regression = LogisticRegression(C=c, max_iter=5000, tol=1e-8)
    # One thread: the order in which BLAS sums depends on their number.
    with threadpool_limits(limits=1, user_api="blas"):
        regression.fit((x - mean) / scale, outcome)
    return Logistic(mean, scale, regression.coef_[0], np.ravel(regression.intercept_))


@dataclass(frozen=True)
class Booster:
    """XGBoost; NaN means missing."""

    booster: "xgboost.Booster"

    @property
    def parameters(self) -> int:
        """Nodes of all trees: a threshold or a value each."""
        return len(self.booster.trees_to_dataframe())

    def logits(self, x: Matrix) -> Logits:
        """Compute log-odds."""
        from histofuse.models.trees import make_matrix

        return self.booster.predict(make_matrix(x), output_margin=True).astype(np.float64)

    def write(self, folder: Path, name: str) -> None:
        """Write it in XGBoost's own binary JSON."""
        self.booster.save_model(folder / f"{name}.ubj")


Learner = Logistic | Booster


def load_booster(folder: Path, name: str) -> Booster:
    """Read what `Booster.write` wrote."""
    from histofuse.models import trees

    return Booster(trees.load_booster(folder / f"{name}.ubj"))


def split_patients(outcome: Int64[np.ndarray, " p"], folds: int, seed: int) -> Folds:
    """Split patients into stratified folds: numbers of the rest and of those held out."""
    patients = np.arange(len(outcome))
    return split_folds(outcome, patients, 2, folds, derive_seed(seed, "patients"))


def answer_views(
    rows: PatientRows, answers: Mapping[str, Callable[[PatientRows], Logits]], prior: float
) -> Logits:
    """Answer each patient by the sides that are given; where no answer fits, by the prior."""
    logits = np.full(len(rows), prior)
    for view, answer in answers.items():
        if len(chosen := np.flatnonzero(rows.match(view))):
            logits[chosen] = answer(rows.take(chosen))
    return logits


def compute_prior(outcome: Int64[np.ndarray, " p"]) -> float:
    """Compute the log-odds of the outcome among patients of both outcomes."""
    share = float(outcome.mean())
    return float(np.log(share / (1 - share)))
