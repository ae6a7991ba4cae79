"""The interface of all methods of fusion at patient level."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from histofuse.patients.rows import PatientRows


class PatientModel:
    """Patients -> log-odds of the outcome, from whichever sides are given."""

    @property
    def parameters(self) -> int:
        """How many numbers were learnt."""
        raise NotImplementedError

    @property
    def most_nuclei(self) -> int | None:
        """How many nuclei of a patient it reads at most; None for all."""
        return None

    def logits(self, rows: PatientRows) -> Float64[np.ndarray, " p"]:
        """Compute log-odds, not calibrated, from the sides that are given."""
        raise NotImplementedError

    def attend(self, rows: PatientRows) -> Float32[np.ndarray, " n"] | None:
        """Compute each nucleus's share in its patient's image vector; None if it has no meaning."""
        return None

    def write(self, folder: Path) -> None:
        """Write the weights into a bundle's folder."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fitted:
    """A fitted method."""

    model: PatientModel  # at inference
    history: pd.DataFrame  # one row an epoch or round
    # what `load` needs besides the params
    architecture: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)  # how it ended, for ``config.json``
