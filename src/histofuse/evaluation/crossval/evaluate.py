"""Cross-validation: metrics per fold, and of all out-of-fold predictions pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histofuse.evaluation.crossval.folds import TEST, Folds, pool
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.weighted import Metrics, measure_rows
from histofuse.evaluation.performance.comparison import Comparison, compare_fusion
from histofuse.evaluation.performance.intervals import Intervals, estimate_intervals
from histofuse.evaluation.performance.results import Context, Result, evaluate_model
from histofuse.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Spread:
    """A metric over the folds it is defined in."""

    mean: float | None  # None where no fold defines it
    sd: float | None  # of the sample; None for fewer than two folds
    folds: int  # how many define it


@dataclass(frozen=True)
class CrossValidation:
    """The results of a cross-validation."""

    folds: Folds  # splits and test predictions of each fold
    # all out-of-fold predictions of each model together, and their metrics
    results: Sequence[Result]
    # model to metrics without a split in their names, fold by fold
    per_fold: Mapping[str, Sequence[Metrics]]
    comparison: Comparison | None  # fusion and the image model it is built on; None without fusion
    intervals: Intervals  # of the pooled metrics, and of fusion less image
    context: Context

    def spread(self, model: str, metric: str) -> Spread:
        """Summarise a metric of a model over the folds."""
        return find_spread([metrics[metric] for metrics in self.per_fold[model]])


def cross_validate(folds: Folds, context: Context, bootstrap: Bootstrap) -> CrossValidation:
    """Measure all models, fold by fold and pooled."""
    results = [evaluate_model(pool(tests), context) for tests in folds.tests.values()]
    per_fold = {name: [measure_fold(rows) for rows in tests] for name, tests in folds.tests.items()}
    comparison = compare_fusion(results, context)
    return CrossValidation(
        folds=folds,
        results=results,
        per_fold=per_fold,
        comparison=comparison,
        intervals=estimate_intervals(results, comparison, context, bootstrap),
        context=context,
    )


def measure_fold(rows: Predictions) -> Metrics:
    """Measure a model on rows, under names without a split."""
    return {name.removeprefix(f"{TEST}/"): v for name, v in measure_rows(rows, TEST).items()}


def find_spread(values: Sequence[float | None]) -> Spread:
    """Summarise values, leaving out those not defined."""
    known = np.array([v for v in values if v is not None])
    if not len(known):
        return Spread(None, None, 0)
    sd = float(known.std(ddof=1)) if len(known) > 1 else None
    return Spread(float(known.mean()), sd, len(known))
