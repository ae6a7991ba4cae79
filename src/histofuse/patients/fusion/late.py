"""Late fusion: a model a side; their log-odds are averaged, or weighed by a second model.

With a model of one side alone it is what fusion is measured against.

The mean of log-odds is the product of the odds: right where the sides are independent given the
outcome, and each is calibrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float32

from histofuse.params.patients import LateParams, SideParams
from histofuse.patients.fusion.interface import Fitted, PatientModel
from histofuse.patients.learners import (
    Logistic,
    Logits,
    answer_views,
    compute_prior,
    fit_logistic,
    load_logistic,
    split_patients,
)
from histofuse.patients.rows import PatientRows, Side
from histofuse.training.recorder import Recorder

_SIDES: Final[tuple[Side, ...]] = ("image", "record")
_UNPENALISED: Final = 1e6  # two columns need no penalty


@dataclass(frozen=True)
class LateModel(PatientModel):
    """A model of each or one side and, where they are stacked, one of their log-odds.

    Where no side that it has is given, it answers the outcome's share.
    """

    params: LateParams | SideParams
    sides: Mapping[Side, Logistic]
    stack: Logistic | None
    prior: float

    @property
    def parameters(self) -> int:
        """Of all models."""
        models = [*self.sides.values(), *([self.stack] if self.stack else [])]
        return sum(model.parameters for model in models)

    def logits(self, rows: PatientRows) -> Logits:
        """Compute log-odds."""
        alone = {side: partial(self._answer, side) for side in self.sides}
        return answer_views(rows, {"both": self._combine, **alone}, self.prior)

    def _combine(self, rows: PatientRows) -> Logits:
        each = np.column_stack([self._answer(side, rows) for side in self.sides])
        return self.stack.logits(each) if self.stack else each.mean(axis=1)

    def _answer(self, side: Side, rows: PatientRows) -> Logits:
        return self.sides[side].logits(_describe_side(rows, side, self.params))

    def write(self, folder: Path) -> None:
        """Write the weights."""
        for side, model in self.sides.items():
            model.write(folder, side)
        if self.stack:
            self.stack.write(folder, "stack")


def _describe_side(
    rows: PatientRows, side: Side, params: LateParams | SideParams
) -> Float32[np.ndarray, "p _"]:
    """Describe one side by columns without missing values."""
    return rows.record if side == "record" else rows.describe_image(params.aggregators)


def _list_sides(params: LateParams | SideParams) -> tuple[Side, ...]:
    return (params.side,) if isinstance(params, SideParams) else _SIDES


def fit(
    train: PatientRows,
    validation: PatientRows,
    params: LateParams | SideParams,
    seed: int,
    recorder: Recorder,
) -> Fitted:
    """Fit on the train patients; the stack on log-odds of folds held out from the sides' models."""
    prior = compute_prior(train.outcome)
    sides: dict[Side, Logistic] = {
        side: _fit_side(train, side, params) for side in _list_sides(params)
    }
    if isinstance(params, SideParams):
        return Fitted(LateModel(params, sides, None, prior), pd.DataFrame(), {"prior": prior})
    folds = split_patients(train.outcome, params.folds, seed)
    stack = None
    if params.combine == "stacked" and folds:
        crossed = np.zeros((len(train), 2))
        for rest, held_out in folds:
            for column, side in enumerate(_SIDES):
                model = _fit_side(train.take(rest), side, params)
                x = _describe_side(train.take(held_out), side, params)
                crossed[held_out, column] = model.logits(x)
        stack = fit_logistic([crossed], train.outcome, _UNPENALISED)
    model = LateModel(params, sides, stack, prior)
    return Fitted(model, pd.DataFrame(), {"prior": prior, "stacked": stack is not None})


def _fit_side(rows: PatientRows, side: Side, params: LateParams | SideParams) -> Logistic:
    return fit_logistic([_describe_side(rows, side, params)], rows.outcome, params.c)


def load(
    folder: Path, params: LateParams | SideParams, architecture: Mapping[str, Any]
) -> LateModel:
    """Load what `LateModel.write` wrote."""
    sides: dict[Side, Logistic] = {
        side: load_logistic(folder, side) for side in _list_sides(params)
    }
    stack = load_logistic(folder, "stack") if architecture.get("stacked") else None
    return LateModel(params, sides, stack, architecture["prior"])
