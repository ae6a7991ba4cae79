"""Data of the figures, of the class in focus, for `dvc plots` to compare experiments."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import write_text
from histofuse.core.tables import to_csv
from histofuse.evaluation.metrics.classification import count_confusion, count_cuts, place_in_bins
from histofuse.evaluation.performance.results import Result
from histofuse.evaluation.predictions import Predictions

MOST_POINTS: Final = 200  # of a curve; more are not seen in a figure of this size
_DECIMALS: Final = 5


def write_plot_data(result: Result, split: str, folder: Path) -> None:
    """Write ``<plot>/<model>.csv`` of each plot in dvc.yaml, where it is defined."""
    history = result.model.history
    tables = dict(_tabulate(result.model.of(split)))
    if len(history) > 1:
        losses = history[["train_loss", "validation_loss"]]  # which every model has
        tables["training"] = _thin(losses.assign(step=history[history.columns[0]]))
    for plot, table in tables.items():
        write_text(to_csv(table.round(_DECIMALS)), folder / plot / f"{result.name}.csv")


def _tabulate(rows: Predictions) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "confusion", _count_pairs(rows)
    k = rows.classes.index(rows.focus_class)
    scores, positive = rows.probabilities[:, k], rows.labels == k
    bins = pd.DataFrame({"predicted": scores, "observed": positive}).groupby(place_in_bins(scores))
    yield "calibration", bins.mean()
    if positive.any() and not positive.all():
        cuts = count_cuts(scores, positive)
        x, y = cuts.trace_roc()
        yield "roc", _thin(pd.DataFrame({"false_positive_rate": x, "recall": y}))
        x, y = cuts.trace_precision_recall()
        yield "precision_recall", _thin(pd.DataFrame({"recall": x, "precision": y}))


def _count_pairs(rows: Predictions) -> pd.DataFrame:
    """Tabulate the confusion matrix: one row a pair of classes, also of those without rows."""
    counts = count_confusion(rows.labels, rows.predictions, len(rows.classes))
    pairs = [(rows.classes[i], rows.classes[j], n) for (i, j), n in np.ndenumerate(counts)]
    return pd.DataFrame(pairs, columns=["true", "predicted", "count"])


def _thin(curve: pd.DataFrame) -> pd.DataFrame:
    """Keep the first, the last and evenly many points between."""
    kept = np.linspace(0, len(curve) - 1, min(len(curve), MOST_POINTS)).round().astype(int)
    return curve.iloc[kept]
