"""Fits and loads whichever method of fusion the params are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histofuse.params.patients import AnyPatientParams
from histofuse.patients.fusion.interface import Fitted, PatientModel
from histofuse.patients.rows import PatientRows
from histofuse.training.recorder import Recorder


def fit_method(
    train: PatientRows,
    validation: PatientRows,
    params: AnyPatientParams,
    seed: int,
    recorder: Recorder,
) -> Fitted:
    """Fit whichever method the params are of; validation patients choose when to stop."""
    return _find_module(params.kind).fit(train, validation, params, seed, recorder)


def load_method(
    folder: Path, params: AnyPatientParams, architecture: Mapping[str, Any]
) -> PatientModel:
    """Load the weights that a method wrote."""
    return _find_module(params.kind).load(folder, params, architecture)


def _find_module(kind: str) -> Any:
    """Import the module of a kind, with a `fit` and a `load` that are called as above."""
    match kind:
        case "early_logistic" | "early_xgboost":
            from histofuse.patients.fusion import early as module
        case "side" | "late":
            from histofuse.patients.fusion import late as module
        case "intermediate":
            from histofuse.patients.fusion import intermediate as module
        case "gated":
            from histofuse.patients.fusion import gated as module
        case "bilinear":
            from histofuse.patients.fusion import bilinear as module
        case _:
            from histofuse.patients.fusion import cross_attention as module
    return module
