"""Objectives on health records: cross-validation over folds of the training patients.

The validation patients stay out of it: they are kept for calibration and thresholds.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.errors import InputError
from histofuse.core.seeding import derive_seed
from histofuse.models.trees import XGBOOST_THREADS
from histofuse.params.tabular import AnyTabularParams, MlpParams, XgboostParams
from histofuse.params.tune import StudyParams
from histofuse.studies.run import StudyJob
from histofuse.studies.trials import Report, TrialResult
from histofuse.training.boosting import make_rows, make_settings
from histofuse.training.folds import split_folds
from histofuse.training.recorder import Recorder
from histofuse.training.rows import LabelledRows, check_trainable, score_logits, select_rows
from histofuse.training.tabular import EncodedTable

if TYPE_CHECKING:
    import xgboost
    from xgboost.callback import TrainingCallback

MLP_FOLDS: Final = 5
_NAMES: Final = {"auroc": "cv/auroc", "macro_f1": "cv/f1/macro"}


@dataclass(frozen=True)
class _Fold:
    rest: LabelledRows
    held_out: LabelledRows


_Prepared = tuple[_Fold, "xgboost.DMatrix", "xgboost.DMatrix"]
_Grown = tuple["xgboost.Booster", np.ndarray]


def _make_folds(
    table: pd.DataFrame, features: list[str], folds: int, seed: int, kind: str
) -> tuple[LabelledRows, list[_Fold]]:
    check_trainable(table, features, "xgboost" if kind == "xgboost" else "mlp")
    rows = select_rows(table, features, "train")
    splits = split_folds(rows.target, rows.subjects, 2, folds, derive_seed(seed, "folds"))
    if len(splits) < 2:
        problem = f"{rows.positives} of {len(rows)} training rows have the target"
        expected = "at least two patients of each class, for folds"
        raise InputError.of("data/encoded", problem, expected, "Tune on a larger cohort.")
    return rows, [_Fold(rows.take(rest), rows.take(held_out)) for rest, held_out in splits]


def make_objective(
    table: EncodedTable, base: AnyTabularParams, seed: int, metric: str
) -> "XgboostObjective | MlpObjective":
    """Make the objective of a tabular model; InputError if its kind has none, or no folds."""
    match base:
        case XgboostParams():
            return XgboostObjective(table.rows, table.features, base, seed, metric)
        case MlpParams():
            return MlpObjective(table.rows, table.features, seed, metric)
        case _:
            raise InputError.of("tune", f"is of kind {base.kind}", "xgboost or mlp")


def make_job(
    name: str, table: EncodedTable, base: AnyTabularParams, params: StudyParams, seed: int
) -> StudyJob:
    """Make the study of the section ``tabular.<name>``."""
    return StudyJob(
        name=name,
        model=f"tabular.{name}",
        base=base,
        params=params,
        seed=seed,
        inputs=dict(table.digests),
        source=table.source,
        measured_on="stratified folds of the training patients",
        make_objective=lambda seed, metric: make_objective(table, base, seed, metric),
    )


class XgboostObjective:
    """Mean score over held-out folds at the best common number of rounds.

    Folds are grown two at a time and looked at in order, so that a hopeless trial ends after the
    first. Each stops once its own AUROC has not risen for ``early_stopping_rounds``; the rounds are
    then chosen by the mean over the folds, as training itself does. The matrices are made once and
    shared by all trials. The run's seed makes the folds those of training.
    """

    def __init__(
        self, table: pd.DataFrame, features: list[str], base: XgboostParams, seed: int, metric: str
    ) -> None:
        self.metric, self.seed = metric, seed
        self._rows, folds = _make_folds(table, features, base.folds, seed, "xgboost")
        self._folds = [(fold, make_rows(fold.rest), make_rows(fold.held_out)) for fold in folds]

    def __call__(self, params: XgboostParams, report: Report) -> TrialResult:
        """Cross-validate."""
        curves: list[np.ndarray] = []
        boosters: list[xgboost.Booster] = []
        rounds = params.rounds
        with _growing(partial(self._grow, params=params), self._folds) as grown:
            for number, (booster, curve) in enumerate(grown):
                boosters.append(booster)
                curves.append(curve)
                rounds = choose_rounds(curves)
                report(number, mean_defined(self._score(boosters, rounds)[self.metric]))
        scores = self._score(boosters, rounds)
        return to_result(scores, self.metric, {"cv/rounds": float(rounds)})

    def _grow(self, prepared: _Prepared, ended: threading.Event, params: XgboostParams) -> _Grown:
        import xgboost

        fold, rest, held_out = prepared
        curves: dict[str, dict[str, list[float]]] = {}
        settings = make_settings(params, fold.rest, self.seed)
        booster = xgboost.train(
            settings | {"eval_metric": "auc", "nthread": 1},
            rest,
            num_boost_round=params.rounds,
            evals=[(held_out, "held_out")],
            evals_result=curves,  # pyright: ignore[reportArgumentType]
            early_stopping_rounds=params.early_stopping_rounds,
            callbacks=[_make_stop(ended)],
            verbose_eval=False,
        )
        return booster, np.array(curves["held_out"]["auc"])

    def _score(self, boosters: "list[xgboost.Booster]", rounds: int) -> dict[str, list[float]]:
        scored = [
            score_logits(
                booster.predict(held_out, output_margin=True, iteration_range=(0, rounds)),
                fold.held_out.target,
            )
            for booster, (fold, _, held_out) in zip(boosters, self._folds, strict=False)
        ]
        return {key: [s[key] for s in scored] for key in _NAMES}


@contextmanager
def _growing(
    grow: Callable[[_Prepared, threading.Event], _Grown], folds: list[_Prepared]
) -> Iterator[Iterator[_Grown]]:
    """Grow folds side by side, each on one thread; give them in order, and end with the block.

    Trees are small: two threads on one of them wait for each other after every node.
    """
    ended = threading.Event()
    with ThreadPoolExecutor(XGBOOST_THREADS) as pool:
        try:
            yield pool.map(lambda fold: grow(fold, ended), folds)
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


def _make_stop(ended: threading.Event) -> "TrainingCallback":
    """Make a callback that stops growing after the round in which the event is set."""
    from xgboost.callback import TrainingCallback

    class Stop(TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            return ended.is_set()

    return Stop()


def score_folds(
    folds: Sequence[Any],
    fit: Callable[[Any], Mapping[str, float]],
    metric: str,
    report: Report,
) -> TrialResult:
    """Fit and score fold after fold, and average."""
    scores: dict[str, list[float]] = {key: [] for key in _NAMES}
    for number, fold in enumerate(folds):
        measured = fit(fold)
        for key, known in scores.items():
            known.append(measured[key])
        report(number, mean_defined(scores[metric]))
    return to_result(scores, metric, {})


def to_result(scores: dict[str, list[float]], metric: str, others: dict[str, float]) -> TrialResult:
    """Average the scores of the folds, by name in training; `others` are added as they are."""
    return TrialResult(
        value=mean_defined(scores[metric]),
        scores=others | {name: mean_defined(scores[key]) for key, name in _NAMES.items()},
        steps={f"{name}/fold": scores[key] for key, name in _NAMES.items()},
    )


def mean_defined(scores: list[float]) -> float:
    """Mean over the folds where a score is defined; a fold may hold one class alone."""
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def choose_rounds(curves: list[Float[np.ndarray, " _"]]) -> int:
    """Choose the number of rounds with the highest mean over folds.

    A fold that stopped early has nothing better to show, so all are cut to the shortest.
    """
    shortest = min(map(len, curves))
    return int(np.argmax(np.nanmean([curve[:shortest] for curve in curves], axis=0))) + 1


class MlpObjective:
    """Mean score over held-out folds, each at the epoch that early stopping keeps.

    A fold's own held-out rows choose its epoch, which flatters all trials alike. Imputation and
    scaling were fitted on all training patients.
    """

    def __init__(self, table: pd.DataFrame, features: list[str], seed: int, metric: str) -> None:
        self.metric, self.seed = metric, seed
        _, self._folds = _make_folds(table, features, MLP_FOLDS, seed, "mlp")

    def __call__(self, params: MlpParams, report: Report) -> TrialResult:
        """Cross-validate."""
        return score_folds(self._folds, partial(self._fit, params=params), self.metric, report)

    def _fit(self, fold: _Fold, params: MlpParams) -> dict[str, float]:
        from histofuse.models.mlp import compute_logits
        from histofuse.training.mlp import fit_mlp

        parts, recorder = (fold.rest, fold.held_out), Recorder()
        network, *_ = fit_mlp(*parts, params, self.seed, recorder=recorder, show_progress=False)
        logits = compute_logits(network, fold.held_out.x)
        return score_logits(logits, fold.held_out.target)
