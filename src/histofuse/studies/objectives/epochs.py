"""Objectives of networks that learn in epochs: the best epoch on the validation split.

Folds of the training cases would mislead: the image encoder has seen those patches, and its
embeddings of them are better than those of any new case. So validation chooses, as it does for
calibration and thresholds; its scores flatter, and the test split stays out of it.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from histofuse.models.mlp import one_thread
from histofuse.params.fusion import FusionParams
from histofuse.params.image import FinetuneParams, LpFtParams
from histofuse.studies.trials import Report, TrialResult
from histofuse.training.fitting.fit import fit
from histofuse.training.fitting.history import FitResult
from histofuse.training.fusion import PairedEmbeddings, fit_head, gather
from histofuse.training.image import PatchData, create_model, make_recipe
from histofuse.training.recorder import Recorder

MEASURED_ON: Final = "the validation split, at the best epoch"
_COLUMNS: Final = {"macro_f1": "validation_macro_f1", "auroc": "validation_auroc"}
_NAMES: Final = {"macro_f1": "validation/f1/macro", "auroc": "validation/auroc/macro"}


class EpochReporter(Recorder):
    """A recorder that hands the best score so far to the pruner after each epoch."""

    def __init__(self, metric: str, report: Report) -> None:
        self._name, self._report = _NAMES[metric], report
        self._best = -math.inf

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Report the best score up to an epoch, from 1."""
        self._best = max(self._best, metrics.get(self._name, -math.inf))
        if math.isfinite(self._best):
            self._report(step - 1, self._best)


class FusionObjective:
    """Best validation score of the fusion head on given pairs."""

    def __init__(self, data: PairedEmbeddings, seed: int, metric: str) -> None:
        self.metric, self.seed = metric, seed
        self._data, self._tensors = data, gather(data)

    def __call__(self, params: FusionParams, report: Report) -> TrialResult:
        """Train one head."""
        recorder = EpochReporter(self.metric, report)
        inputs = self._data, self._tensors, params, self.seed
        with one_thread():
            head = fit_head(*inputs, recorder=recorder, show_progress=False)
        return to_result(head.result, self.metric)


class ImageObjective:
    """Best validation score of an image network."""

    def __init__(self, name: str, data: PatchData, seed: int, metric: str) -> None:
        self.name, self.metric, self.seed, self._data = name, metric, seed, data
        self._train, self._validation = data.load_rows("train"), data.load_rows("validation")

    def __call__(self, params: FinetuneParams | LpFtParams, report: Report) -> TrialResult:
        """Train one network."""
        model = create_model(self.name, self._data.meta, params, self.seed)
        recipe = make_recipe(self.name, model, self._train, params, self.seed)
        recipe = replace(recipe, show_progress=False)
        recorder = EpochReporter(self.metric, report)
        result = fit(model, self._train, self._validation, recipe, None, recorder)
        return to_result(result, self.metric)


def to_result(result: FitResult, metric: str) -> TrialResult:
    """Read the best epoch by a metric out of the history."""
    curves = {key: [row[column] for row in result.history] for key, column in _COLUMNS.items()}
    known = [value for value in curves[metric] if not math.isnan(value)]
    best = curves[metric].index(max(known)) if known else 0
    finite = {k: [v for v in curve if not math.isnan(v)] for k, curve in curves.items()}
    scores = {_NAMES[k]: curves[k][best] for k in curves if not math.isnan(curves[k][best])}
    return TrialResult(
        value=curves[metric][best],
        scores={"best_epoch": float(best + 1), **scores},
        steps={f"{_NAMES[k]}/epoch": values for k, values in finite.items()},
    )
