"""One side alone: what fusion is measured against."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histofuse.params.patients import SideParams
from histofuse.patients.fusion.interface import Fitted, PatientModel
from histofuse.patients.learners import (
    Logistic,
    Logits,
    answer_views,
    compute_prior,
    fit_logistic,
    load_logistic,
)
from histofuse.patients.rows import PatientRows, Side
from histofuse.training.recorder import Recorder


@dataclass(frozen=True)
class SideModel(PatientModel):
    """Logistic regression on one side; without that side it answers the outcome's share."""

    params: SideParams
    learner: Logistic
    prior: float

    @property
    def parameters(self) -> int:
        """Weights and intercept."""
        return self.learner.parameters

    def logits(self, rows: PatientRows) -> Logits:
        """Compute log-odds."""

        def answer(chosen: PatientRows) -> Logits:
            return self.learner.logits(describe_side(chosen, self.params.side, self.params))

        return answer_views(rows, {"both": answer, self.params.side: answer}, self.prior)

    def write(self, folder: Path) -> None:
        """Write the weights."""
        self.learner.write(folder, self.params.side)


def describe_side(rows: PatientRows, side: Side, params: Any) -> np.ndarray:
    """Describe one side by columns without missing values."""
    return rows.record if side == "record" else rows.describe_image(params.aggregators)


def fit(
    train: PatientRows, validation: PatientRows, params: SideParams, seed: int, recorder: Recorder
) -> Fitted:
    """Fit on the train patients."""
    learner = fit_logistic([describe_side(train, params.side, params)], train.outcome, params.c)
    prior = compute_prior(train.outcome)
    return Fitted(SideModel(params, learner, prior), pd.DataFrame(), {"prior": prior})


def load(folder: Path, params: SideParams, architecture: Mapping[str, Any]) -> SideModel:
    """Load what `SideModel.write` wrote."""
    return SideModel(params, load_logistic(folder, params.side), architecture["prior"])
