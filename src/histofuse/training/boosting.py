"""Boosting: how many rounds.

Of XGBoost by cross-validation on the training rows, of gradient boosting by the validation loss.
Source: paper 3.2 (stratified 5-fold cross-validation, early stopping after 50 rounds).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from histofuse.core.naming import name_column
from histofuse.core.progress import report, track
from histofuse.core.seeding import derive_seed
from histofuse.models.trees import XGBOOST_THREADS, find_prior, make_matrix
from histofuse.params.tabular import BoosterSection, GradientBoostingParams
from histofuse.training.folds import split_folds
from histofuse.training.recorder import Recorder
from histofuse.training.rows import LabelledRows, score_logits

if TYPE_CHECKING:
    import xgboost
    from sklearn.ensemble import GradientBoostingClassifier

# Writing each of 800 rounds to a tracking server would take longer than the rounds.
ROUNDS_PER_RECORD = 10
WATCHED, SCORED = ("loss", "auroc"), ("auroc", "macro_f1")
Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class CrossValidation:
    """Results of a cross-validation.

    `rounds` have the highest mean AUROC over the held-out folds, at which `scores` are given
    (macro_f1 at 0.5; null where not defined). `history` has the mean and ``_sd`` of loss and AUROC
    of both parts by ``round``; `note` says what the rows were too few for.
    """

    rounds: int
    history: pd.DataFrame
    scores: Scores
    folds: int
    note: str


@dataclass(frozen=True)
class _Fold:
    booster: xgboost.Booster
    train: xgboost.DMatrix
    held_out: xgboost.DMatrix
    held_out_target: Int[np.ndarray, " n"]

    def step(self, number: int) -> dict[str, float]:
        self.booster.update(self.train, number)
        parts = {"train": self.train, "validation": self.held_out}
        scores = {
            part: score_logits(self.booster.predict(m, output_margin=True), m.get_label())
            for part, m in parts.items()
        }
        return {f"{part}_{name}": s[name] for part, s in scores.items() for name in WATCHED}


def make_rows(rows: LabelledRows) -> xgboost.DMatrix:
    """Hand labelled rows to XGBoost, with their weights."""
    return make_matrix(rows.x, rows.target, rows.weight)


def fit_booster(
    rows: LabelledRows, params: BoosterSection, rounds: int, seed: int
) -> xgboost.Booster:
    """Fit on all given rows for a fixed number of rounds; NaN means missing."""
    import xgboost

    return xgboost.train(make_settings(params, rows, seed), make_rows(rows), rounds)


def make_settings(params: BoosterSection, rows: LabelledRows, seed: int) -> dict[str, Any]:
    """Translate the params into XGBoost's own."""
    negatives = len(rows) - rows.positives
    weighted = params.imbalance == "class_weights"
    return {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": params.max_depth,
        "eta": params.learning_rate,
        "subsample": params.subsample,
        "colsample_bytree": params.colsample,
        "min_child_weight": params.min_child_weight,
        "reg_lambda": params.reg_lambda,
        "scale_pos_weight": negatives / rows.positives if weighted else 1.0,
        "nthread": XGBOOST_THREADS,
        "seed": derive_seed(seed, "xgboost") % 2**31,
    }


def cross_validate(
    rows: LabelledRows, params: BoosterSection, seed: int, recorder: Recorder
) -> CrossValidation:
    """Choose the number of rounds by stratified cross-validation, patients kept together.

    All folds grow together, one tree per round each, until the mean AUROC of the held-out folds has
    not risen for ``early_stopping_rounds``. NaN means missing.
    """
    splits = split_folds(rows.target, rows.subjects, 2, params.folds, derive_seed(seed, "folds"))
    if len(splits) < 2:
        return _skip(params, "no cross-validation: fewer than two patients of one class")
    folds = [_make_fold(rows, *split, params=params, seed=seed) for split in splits]
    history = pd.DataFrame(_grow(folds, params, recorder))
    if history["validation_auroc"].isna().all():
        return _skip(params, "no cross-validation: no fold holds both classes")
    rounds = int(np.nanargmax(history["validation_auroc"])) + 1
    scores = _score_folds(folds, rounds)
    note = f"{len(folds)} folds: too few patients" if len(folds) < params.folds else ""
    if note:
        report(f"warning: cross-validation: {note}")
    return CrossValidation(rounds, history, scores, len(folds), note)


def _make_fold(
    rows: LabelledRows, rest: np.ndarray, held_out: np.ndarray, params: BoosterSection, seed: int
) -> _Fold:
    import xgboost

    train, validation = (make_rows(rows.take(part)) for part in (rest, held_out))
    # Matrices named here keep their predictions between rounds: only the new tree is added.
    settings = make_settings(params, rows, seed)
    booster = xgboost.Booster(settings, cache=[train, validation])
    return _Fold(booster, train, validation, rows.target[held_out])


def _grow(
    folds: list[_Fold], params: BoosterSection, recorder: Recorder
) -> Iterator[dict[str, float]]:
    best, best_round = -np.inf, 0
    for number in track(range(params.rounds), "cross-validation", params.rounds):
        row = _summarise([fold.step(number) for fold in folds])
        yield {"round": number + 1, **row}
        if number % ROUNDS_PER_RECORD == 0:
            means = {k: v for k, v in row.items() if not k.endswith("_sd") and np.isfinite(v)}
            named = {name_column(k, cross_validated=True): v for k, v in means.items()}
            recorder.log_metrics(named, number + 1)
        if row["validation_auroc"] > best:
            best, best_round = row["validation_auroc"], number
        if number - best_round >= params.early_stopping_rounds:
            return


def _summarise(rows: list[dict[str, float]]) -> dict[str, float]:
    """Compute mean and sd over folds, leaving out those where a score is not defined."""
    summary = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        values = values[~np.isnan(values)]
        summary[name] = float(values.mean()) if len(values) else np.nan
        summary[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else np.nan
    return summary


def _score_folds(folds: list[_Fold], rounds: int) -> Scores:
    scored = []
    for fold in folds:
        margin = fold.booster.predict(
            fold.held_out, output_margin=True, iteration_range=(0, rounds)
        )
        scores = score_logits(margin, fold.held_out_target)
        scored.append({name: scores[name] for name in SCORED})
    summary = {k: None if np.isnan(v) else v for k, v in _summarise(scored).items()}
    return {n: {"mean": summary[n], "sd": summary[f"{n}_sd"]} for n in SCORED}


def _skip(params: BoosterSection, why: str) -> CrossValidation:
    rounds, note = _take_few(params, why)
    scores: Scores = {name: {"mean": None, "sd": None} for name in SCORED}
    columns = [f"{part}_{name}" for part in ("train", "validation") for name in WATCHED]
    return CrossValidation(rounds, pd.DataFrame(columns=["round", *columns]), scores, 0, note)


def _take_few(params: BoosterSection | GradientBoostingParams, why: str) -> tuple[int, str]:
    rounds = min(params.rounds, params.early_stopping_rounds)
    note = f"{why}; {rounds} rounds taken"
    report(f"warning: {note}")
    return rounds, note


class BestRound:
    """Finds the round with the lowest validation loss while scikit-learn's trees grow.

    Growing stops once the loss has not fallen for ``early_stopping_rounds``, or where validation
    lacks a class, after as many rounds; `note` then says so.
    """

    def __init__(self, validation: LabelledRows, params: GradientBoostingParams) -> None:
        self.rounds, self.note = 0, ""
        self._rows, self._patience = validation, params.early_stopping_rounds
        self._best = np.inf
        self._logits = np.zeros(len(validation))
        if not 0 < validation.positives < len(validation):
            self.rounds, self.note = _take_few(params, "a class is absent from validation")

    def __call__(self, number: int, model: GradientBoostingClassifier, _: Any) -> bool:
        """Look at the tree grown last; True ends growing."""
        if self.note:
            return number + 1 >= self.rounds
        tree = model.estimators_[number, 0]
        if number == 0:
            self._logits += find_prior(model)
        self._logits = self._logits + model.learning_rate * tree.predict(self._rows.x)
        loss = score_logits(self._logits, self._rows.target)["loss"]
        if loss < self._best:
            self._best, self.rounds = loss, number + 1
        return number + 1 - self.rounds >= self._patience
