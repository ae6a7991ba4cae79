"""A decision: logits -> calibrated probabilities -> classes, both steps fitted on validation."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.privacy import may_show_patients
from histofuse.core.progress import report
from histofuse.params.decision import CalibrationMethod, ThresholdRule
from histofuse.training.calibrate import Calibrator, fit_calibrator
from histofuse.training.thresholds import Thresholds, fit_thresholds

CALIBRATOR = "calibrator.json"
THRESHOLD = "threshold.json"


class Decision(NamedTuple):
    """Calibrator and thresholds of one model."""

    calibrator: Calibrator
    thresholds: Thresholds

    def decide(
        self, logits: Float[np.ndarray, "n k"]
    ) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
        """Compute calibrated probabilities, and the class decided on for each row."""
        probabilities = self.calibrator.probabilities(logits)
        return probabilities, self.thresholds.decide(probabilities)

    def tabulate(
        self, keys: pd.DataFrame, classes: Sequence[str], logits: Float[np.ndarray, "n k"]
    ) -> pd.DataFrame:
        """Add logits, calibrated probabilities and the class decided on to the keys of rows."""
        probabilities, decided = self.decide(logits)
        return keys.assign(
            **{f"logit_{c}": logits[:, k] for k, c in enumerate(classes)},
            **{f"probability_{c}": probabilities[:, k] for k, c in enumerate(classes)},
            prediction=pd.array(np.array(classes, dtype=object)[decided], dtype="str"),
        )


def fit_decision(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    method: CalibrationMethod,
    rule: ThresholdRule,
) -> Decision:
    """Fit calibrator and thresholds on validation rows; warn where the rows were too few."""
    calibrator = fit_calibrator(logits, labels, groups, method)
    thresholds = fit_thresholds(calibrator.probabilities(logits), labels, rule)
    for name, fitted_on in (
        ("calibrator", calibrator.fitted_on),
        ("threshold", thresholds.fitted_on),
    ):
        for note in fitted_on.notes:
            report(f"warning: {name}, {sum(fitted_on.per_class)} rows: {note}")
    return Decision(calibrator, thresholds)


def write_decision(decision: Decision, folder: Path, source: str) -> None:
    """Write ``calibrator.json`` and ``threshold.json`` into a bundle's folder.

    Where patients may not be shown, a class of fewer than ten rows leaves only the sum of the rows.
    """
    shown = may_show_patients([source])
    for part, name in ((decision.calibrator, CALIBRATOR), (decision.thresholds, THRESHOLD)):
        rows = part.fitted_on if shown else part.fitted_on.hide_few()
        write_json(replace(part, fitted_on=rows).to_dict(), folder / name)


def load_decision(folder: Path) -> Decision:
    """Read what `write_decision` wrote."""
    calibrator = Calibrator.from_dict(load_json(folder / CALIBRATOR))
    return Decision(calibrator, Thresholds.from_dict(load_json(folder / THRESHOLD)))


def list_decision_splits(strategy: str | None) -> tuple[str, ...]:
    """List the splits whose rows decide calibration and thresholds of a model.

    The head of a ``probe`` learns from both; their logits are of folds held out.
    """
    return ("train", "validation") if strategy == "probe" else ("validation",)


def name_decision_rows(strategy: str | None) -> str:
    """Name those rows: "validation", or "training and validation"."""
    return " and ".join(list_decision_splits(strategy)).replace("train", "training")


MITOSIS: Final = "mitosis"


def choose_focus_class(
    classes: Sequence[str], labels: Iterable[str] = (), *, target: str | None = None
) -> str:
    """Choose the class whose scores lead tables, and on which promotion is decided.

    Returns the target of a model of the health record; else mitosis; else the rarest class of the
    training rows, whose classes are `labels`.
    """
    if target is not None:
        return target
    if MITOSIS in classes:
        return MITOSIS
    counts = Counter(labels)
    return min((name for name in classes if counts[name]), key=counts.__getitem__)
