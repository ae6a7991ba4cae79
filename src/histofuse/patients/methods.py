"""The interface of all methods of fusion, and where each kind is implemented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from histofuse.params.patients import AnyPatientParams
from histofuse.patients.rows import PatientRows
from histofuse.training.recorder import Recorder

# Kind -> module of this package with `fit` (a `FitMethod`) and `load` (a `LoadMethod`).
_MODULES: Final[Mapping[str, str]] = {
    "side": "side",
    "early_logistic": "early",
    "early_xgboost": "early",
    "late": "late",
    "intermediate": "intermediate",
    "gated": "gated",
    "bilinear": "bilinear",
    "cross_attention": "cross_attention",
}


@runtime_checkable
class PatientModel(Protocol):
    """Patients -> log-odds of the outcome, from whichever sides are given."""

    @property
    def parameters(self) -> int:
        """How many numbers were learnt."""
        ...

    def logits(self, rows: PatientRows) -> Float64[np.ndarray, " p"]:
        """Compute log-odds, not calibrated, from the sides that are given."""
        ...

    def attend(self, rows: PatientRows) -> Float32[np.ndarray, " n"] | None:
        """Compute each nucleus's share in its patient's image vector; None if it has no meaning."""
        ...

    def write(self, folder: Path) -> None:
        """Write the weights into a bundle's folder."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A fitted method.

    Attributes:
        model: At inference.
        history: One row an epoch or round.
        architecture: What `load` needs besides the params.
        training: How it ended, for ``config.json``.
    """

    model: PatientModel
    history: pd.DataFrame
    architecture: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class FitMethod(Protocol):
    """Fits a method on train patients; validation patients choose when to stop."""

    def __call__(
        self,
        train: PatientRows,
        validation: PatientRows,
        params: Any,
        seed: int,
        recorder: Recorder,
    ) -> Fitted:
        """Fit."""
        ...


def fit_method(
    train: PatientRows,
    validation: PatientRows,
    params: AnyPatientParams,
    seed: int,
    recorder: Recorder,
) -> Fitted:
    """Fit whichever method the params are of."""
    fit: FitMethod = _find_module(params.kind).fit
    return fit(train, validation, params, seed, recorder)


def load_method(
    folder: Path, params: AnyPatientParams, architecture: Mapping[str, Any]
) -> PatientModel:
    """Load the weights that a method wrote."""
    return _find_module(params.kind).load(folder, params, architecture)


def _find_module(kind: str) -> Any:
    return import_module(f"histofuse.patients.{_MODULES[kind]}")
