"""The table of what training kept: which epoch or round, chosen by what, at which loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from histofuse.evaluation.performance.results import Result
from histofuse.evaluation.performance.tables import Cell, Table

_HEADINGS: Final = {
    "model": "Model",
    "kept": "Kept",
    "of": "Of",
    "chosen_by": "Chosen by",
    "train_loss": "Training loss",
    "validation_loss": "Validation loss",
    "lowest_loss": "Lowest validation loss",
    "lowest_at": "At",
}
_MONITORS: Final = {
    "loss": "validation loss",
    "auroc": "validation AUROC",
    "macro_f1": "validation macro-F1",
}
_NOTES: Final = [
    "Probabilities are judged by the loss, ranks by AUROC, decisions by macro-F1: where these two "
    "choose, the loss may be past its lowest, which calibration does not undo.",
    "The loss of networks has the class weights of training. Of XGBoost it is the mean over folds "
    "of the training patients.",
]


def make_training_table(results: Sequence[Result]) -> Table:
    """Make the table; models that are not trained by epochs or rounds are left out."""
    rows = [row for r in results if (row := _make_row(r)) is not None]
    return Table("training", "What training kept", _HEADINGS, rows, _NOTES)


def _make_row(result: Result) -> dict[str, Cell] | None:
    history, choice = result.model.history, find_choice(result.model.config)
    if choice is None or not {"train_loss", "validation_loss"} <= set(history):
        return None
    kept, chosen_by = choice
    unit, steps = history.columns[0], history.iloc[:, 0].to_numpy()
    train, validation = (history[f"{part}_loss"].to_numpy() for part in ("train", "validation"))
    here = np.flatnonzero(steps == kept)
    if not len(here) or np.isnan(validation).all():
        return None
    lowest = int(np.nanargmin(validation))
    return {
        "model": result.title,
        "kept": f"{unit} {kept}",
        "of": len(history),
        "chosen_by": chosen_by,
        "train_loss": float(train[here[0]]),
        "validation_loss": float(validation[here[0]]),
        "lowest_loss": float(validation[lowest]),
        "lowest_at": f"{unit} {steps[lowest]}",
    }


def find_choice(config: Mapping[str, Any]) -> tuple[int, str] | None:
    """Find the epoch or round that was kept, and what chose it."""
    if training := config.get("training"):
        kept = training.get("best_epoch") or training.get("best_round")
        return kept, training.get("note") or _MONITORS[training["monitor"]]
    if folds := config.get("cross_validation"):
        return folds["rounds"], folds["note"] or "AUROC of folds of training"
    return None
