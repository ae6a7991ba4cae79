"""What all predictors share: logits become calibrated probabilities and decided classes."""

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from histofuse.core.bundle import Bundle
from histofuse.core.errors import HistofuseError
from histofuse.tracking.interface import (
    MODEL,
    PREDICTION,
    PREDICTION_SET,
    TRAINED_ON,
    name_probability,
)
from histofuse.tracking.names import SHOWN_DIGITS, VERSION_FILE, Version
from histofuse.training.decision import Decision, load_decision


@dataclass(frozen=True)
class Predictor:
    """A model that answers requests."""

    bundle: Bundle

    @cached_property
    def decision(self) -> Decision:
        """Calibrator and thresholds."""
        return load_decision(self.bundle.path)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Which version of which model this is, and the data that it was trained on."""
        return {MODEL: _name_version(self.bundle), TRAINED_ON: " + ".join(sorted(self.sources))}

    @property
    def sources(self) -> set[str]:
        """The data that it was trained on, such as ``simulated``."""
        return {self.bundle.config.get("source", "not stated")}

    def predict(self: Any, inputs: Any, **explanations: bool) -> pd.DataFrame:
        """Answer an input; `InputError` lists all that is wrong with it."""
        return self.answer(self.read(inputs), **explanations)

    def tabulate(
        self,
        logits: Float[np.ndarray, "n classes"],
        index: pd.Index,
        decision: Decision | None = None,
    ) -> pd.DataFrame:
        """Turn logits into probabilities and decisions, by the model's own unless one is given.

        Raises HistofuseError if a logit or a probability is not finite.
        """
        classes = self.bundle.config["classes"]
        decision = decision or self.decision
        probabilities, decided = decision.decide(logits)
        if not (np.isfinite(logits).all() and np.isfinite(probabilities).all()):
            raise HistofuseError(
                f"{self.bundle.name}: computed a value that is not finite, and gives no answer"
            )
        columns = list(map(name_probability, classes))
        table = pd.DataFrame(probabilities, columns=columns, index=index)
        answers: dict[str, Any] = {
            PREDICTION: np.array(classes, dtype=object)[decided],
            PREDICTION_SET: [None] * len(table),  # a bundle of before sets were kept
        }
        if decision.thresholds.sets:
            sets = decision.thresholds.predict_sets(probabilities)
            answers[PREDICTION_SET] = [", ".join(compress(classes, held)) for held in sets]
        return table.assign(**answers, **self.identity)

    def number_classes(self, table: pd.DataFrame) -> Int64[np.ndarray, " n"]:
        """Look up the indices of the decided classes of a table."""
        classes = pd.Index(self.bundle.config["classes"])
        return classes.get_indexer(pd.Index(table[PREDICTION])).astype(np.int64)


def _name_version(bundle: Bundle) -> str:
    """Name the registered version that a bundle is a copy of, or the bundle itself."""
    from ruamel.yaml import YAML

    file = bundle.path.absolute().parent.parent / VERSION_FILE
    if not file.is_file():
        return f"{bundle.name} ({bundle.digest[:SHOWN_DIGITS]})"
    read = YAML(typ="safe").load(file)
    number = int(read["model_version"])
    return str(
        Version(read["model_name"], number, bundle.digest, run_id="", source="", content=None)
    )
