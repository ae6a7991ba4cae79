"""What all predictors share: logits become calibrated probabilities and decided classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from histofuse.core.bundle import Bundle
from histofuse.core.errors import HistofuseError
from histofuse.tracking.interface import PREDICTION, name_probability
from histofuse.training.decision import Decision, load_decision


@dataclass(frozen=True)
class Predictor:
    """A model that answers requests."""

    bundle: Bundle

    @cached_property
    def decision(self) -> Decision:
        """Calibrator and thresholds."""
        return load_decision(self.bundle.path)

    def tabulate(self, logits: Float[np.ndarray, "n classes"], index: pd.Index) -> pd.DataFrame:
        """Turn logits into probabilities and decisions.

        Raises:
            HistofuseError: If a logit or a probability is not finite.
        """
        classes = self.bundle.config["classes"]
        probabilities, decided = self.decision.decide(logits)
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise HistofuseError(
                f"{self.bundle.name}: computed a value that is not finite, and gives no answer"
            )
        columns = list(map(name_probability, classes))
        table = pd.DataFrame(probabilities, columns=columns, index=index)
        return table.assign(**{PREDICTION: np.array(classes, dtype=object)[decided]})

    def number_classes(self, table: pd.DataFrame) -> Int64[np.ndarray, " n"]:
        """Look up the indices of the decided classes of a table."""
        classes = pd.Index(self.bundle.config["classes"])
        return classes.get_indexer(pd.Index(table[PREDICTION])).astype(np.int64)
