"""Late fusion: a model a side; their log-odds are averaged, or weighed by a second model.

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

from histofuse.params.patients import LateParams
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
from histofuse.patients.side import describe_side
from histofuse.training.recorder import Recorder

_SIDES: Final[tuple[Side, ...]] = ("image", "record")
_UNPENALISED: Final = 1e6  # two columns need no penalty


@dataclass(frozen=True)
class LateModel(PatientModel):
    """A model a side and, where they are stacked, one of their log-odds."""

    params: LateParams
    sides: Mapping[str, Logistic]
    stack: Logistic | None
    prior: float

    @property
    def parameters(self) -> int:
        """Of all models."""
        models = [*self.sides.values(), *([self.stack] if self.stack else [])]
        return sum(model.parameters for model in models)

    def logits(self, rows: PatientRows) -> Logits:
        """Compute log-odds."""
        alone = {side: partial(self._answer, side) for side in _SIDES}
        return answer_views(rows, {"both": self._combine, **alone}, self.prior)

    def _combine(self, rows: PatientRows) -> Logits:
        both = np.column_stack([self._answer(side, rows) for side in _SIDES])
        return self.stack.logits(both) if self.stack else both.mean(axis=1)

    def _answer(self, side: Side, rows: PatientRows) -> Logits:
        return self.sides[side].logits(describe_side(rows, side, self.params))

    def write(self, folder: Path) -> None:
        """Write the weights."""
        for side, model in self.sides.items():
            model.write(folder, side)
        if self.stack:
            self.stack.write(folder, "stack")


def fit(
    train: PatientRows, validation: PatientRows, params: LateParams, seed: int, recorder: Recorder
) -> Fitted:
    """Fit on the train patients; the stack on log-odds of folds held out from the sides' models."""
    prior = compute_prior(train.outcome)
    sides = {side: _fit_side(train, side, params) for side in _SIDES}
    folds = split_patients(train.outcome, params.folds, seed)
    stack = None
    if params.combine == "stacked" and folds:
        crossed = np.zeros((len(train), 2))
        for rest, held_out in folds:
            for column, side in enumerate(_SIDES):
                model = _fit_side(train.take(rest), side, params)
                x = describe_side(train.take(held_out), side, params)
                crossed[held_out, column] = model.logits(x)
        stack = fit_logistic([crossed], train.outcome, _UNPENALISED)
    model = LateModel(params, sides, stack, prior)
    return Fitted(model, pd.DataFrame(), {"prior": prior, "stacked": stack is not None})


def _fit_side(rows: PatientRows, side: Side, params: LateParams) -> Logistic:
    return fit_logistic([describe_side(rows, side, params)], rows.outcome, params.c)


def load(folder: Path, params: LateParams, architecture: Mapping[str, Any]) -> LateModel:
    """Load what `LateModel.write` wrote."""
    sides = {side: load_logistic(folder, side) for side in _SIDES}
    stack = load_logistic(folder, "stack") if architecture["stacked"] else None
    return LateModel(params, sides, stack, architecture["prior"])
