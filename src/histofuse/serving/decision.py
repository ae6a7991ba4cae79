"""From logits to an answer: calibrated probabilities and the class the thresholds decide on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from histofuse.core.bundle import Bundle
from histofuse.tracking.interface import PREDICTION, name_probability
from histofuse.training.calibrate import Calibrator
from histofuse.training.decision import load_decision
from histofuse.training.thresholds import Thresholds


@dataclass(frozen=True)
class Decision:
    """Logits -> calibrated probabilities and decided classes.

    Attributes:
        classes: In the order of the logits.
        calibrator: Fitted on validation.
        thresholds: Fitted on validation.
    """

    classes: list[str]
    calibrator: Calibrator
    thresholds: Thresholds

    @classmethod
    def load(cls, bundle: Bundle) -> Decision:
        """Read it from a bundle."""
        return cls(bundle.config["classes"], *load_decision(bundle.path))

    def tabulate(self, logits: Float[np.ndarray, "n classes"], index: pd.Index) -> pd.DataFrame:
        """Turn logits into probabilities and decisions."""
        probabilities = self.calibrator.probabilities(logits)
        columns = [name_probability(name) for name in self.classes]
        table = pd.DataFrame(probabilities, columns=columns, index=index)
        decided = np.array(self.classes, dtype=object)[self.thresholds.decide(probabilities)]
        return table.assign(**{PREDICTION: decided})

    def number_classes(self, table: pd.DataFrame) -> Int64[np.ndarray, " n"]:
        """Look up the indices of the decided classes of a table."""
        return pd.Index(self.classes).get_indexer(pd.Index(table[PREDICTION])).astype(np.int64)
