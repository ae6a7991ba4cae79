"""What an assessment needs of a model beside its predictions: its logits before calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import softmax

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import Fault, InputError, collect_faults
from histofuse.evaluation.performance.results import Result
from histofuse.evaluation.predictions import PREDICTIONS, Predictions, name_admissions
from histofuse.training.calibrate import Calibrator
from histofuse.training.decision import CALIBRATOR

# Bundles keep logits and probabilities as 32-bit numbers.
_TOLERANCE: Final = 1e-4


@dataclass(frozen=True)
class Assessed:
    """A model with its probabilities before and after calibration.

    Attributes:
        result: Its predictions, calibrated, and what is known of them.
        before: Probabilities by the softmax of the logits alone, a row a row of the predictions.
        calibrator: What leads from the logits to the calibrated probabilities.
        admissions: Admission each row stands beside, ``subject_id/hadm_id``; None for image models.
    """

    result: Result
    before: Float[np.ndarray, "n k"]
    calibrator: Calibrator
    admissions: np.ndarray | None

    @property
    def model(self) -> Predictions:
        """Its predictions on all splits."""
        return self.result.model

    def find(self, split: str) -> Int[np.ndarray, " m"]:
        """Find the rows of one split."""
        return np.flatnonzero(self.model.split == split)


def load_assessed(result: Result, path: Path) -> Assessed:
    """Load what the bundle holds beside the predictions of a result.

    Raises:
        InputError: If the bundle lacks logits, or its calibrator does not lead from them to the
            probabilities it holds.
        BundleError: If the bundle does not match its manifest.
    """
    bundle = open_bundle(path)
    file = bundle.path / PREDICTIONS
    table, model = pd.read_parquet(file), result.model
    tabular = model.kind == "tabular"
    columns = ["logit"] if tabular else [f"logit_{c}" for c in model.classes]
    with collect_faults() as faults:
        for column in columns:
            if column not in table:
                expected = "the logit before calibration"
                faults.add(file, f"no column {column!r}", expected, "Train it anew with dvc repro.")
    logits = table[columns].to_numpy(dtype=np.float64)
    if tabular:
        logits = np.column_stack([np.zeros(len(logits)), logits])
    calibrator = Calibrator.from_dict(load_json(bundle.path / CALIBRATOR))
    _check_calibrator(calibrator, logits, model, file)
    paired = {"subject_id", "hadm_id"} <= set(table)
    return Assessed(
        result=result,
        before=softmax(logits, axis=1),
        calibrator=calibrator,
        admissions=name_admissions(table["subject_id"].to_numpy(), table["hadm_id"].to_numpy())
        if paired
        else None,
    )


def _check_calibrator(
    calibrator: Calibrator, logits: Float[np.ndarray, "n k"], model: Predictions, file: Path
) -> None:
    """Hold the probabilities of the bundle against its logits and calibrator, row by row."""
    apart = np.abs(calibrator.probabilities(logits) - model.probabilities).max(initial=0.0)
    if apart > _TOLERANCE:
        problem = f"probabilities differ by up to {apart:.4f} from the calibrated logits"
        expected = f"at most {_TOLERANCE}"
        raise InputError([Fault(file, problem, expected, "Train it anew with dvc repro.")])
