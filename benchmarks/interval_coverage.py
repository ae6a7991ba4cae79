"""How often do 95 % intervals hold the true value? On simulated data sets whose truth is known.

Each data set is drawn from a population of cases (or of patients) with effects of their own: on
how many nuclei of a class they hold, and on how the model sees them. The truth is the metric over
the population. Intervals, percentile and BCa, are drawn over cases.

Run: python benchmarks/interval_coverage.py [data sets] [resamples]
"""

import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histofuse.core.seeding import make_rng
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.weighted import name_metrics, prepare_metrics
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalMethod, IntervalParams

DATA_SETS = int(sys.argv[1]) if len(sys.argv) > 1 else 500
RESAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
CONFIDENCE = 0.95
METHODS: tuple[IntervalMethod, ...] = ("percentile", "bca")
POPULATION_ROWS = 1_500_000


@dataclass(frozen=True)
class World:
    """Attributes:
    name: For the table.
    cases: In a data set.
    rows: Of a case, on average.
    share: Of each class.
    case_effect: Standard deviation of what the rows of a case have in common, against 1 within.
    shown: The metrics in the table.
    """

    name: str
    cases: int
    rows: float
    share: tuple[float, ...]
    case_effect: float
    shown: tuple[str, ...]

    def draw(self, rng: np.random.Generator, cases: int) -> Predictions:
        k = len(self.share)
        sizes = np.maximum(1, rng.poisson(self.rows, cases)) if self.rows > 1 else np.ones(cases)
        group = np.repeat(np.arange(cases), sizes.astype(int))
        odds = np.log(self.share) + self.case_effect * rng.normal(size=(cases, k))
        gumbel = rng.gumbel(size=(len(group), k))  # the largest is class c with probability softmax
        labels = (odds[group] + gumbel).argmax(axis=1)
        seen = self.case_effect * rng.normal(size=(cases, k))
        logits = 1.5 * np.eye(k)[labels] + seen[group] + rng.normal(size=(len(group), k))
        logits += np.log(self.share)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return Predictions(
            name=self.name,
            config={
                "kind": "image" if k > 2 else "tabular",
                "classes": [f"c{i}" for i in range(k)],
            },
            history=pd.DataFrame(),
            keys=np.arange(len(group)).astype(object),
            split=np.full(len(group), "test", dtype=object),
            labels=labels,
            probabilities=p,
            predictions=p.argmax(axis=1),
            groups=group,
            subjects=None,
        )


TWO = ("auroc/c1", "auprc/c1", "recall/c1", "precision/c1", "f1/c1", "accuracy", "brier", "ece/c1")
THREE = ("auroc/macro", "auprc/c0", "recall/c0", "f1/macro", "accuracy", "brier", "ece/c0")
WORLDS = [
    World("200 patients, a row each", 200, 1, (0.75, 0.25), 0.0, TWO),
    World("1,000 patients, a row each", 1000, 1, (0.75, 0.25), 0.0, TWO),
    World("100 cases of 30", 100, 30, (0.1, 0.75, 0.15), 0.5, THREE),
    World("40 cases of 60", 40, 60, (0.1, 0.75, 0.15), 0.5, THREE),
    World("17 cases of 60", 17, 60, (0.1, 0.75, 0.15), 0.5, THREE),
    World("3 cases of 300", 3, 300, (0.1, 0.75, 0.15), 0.5, THREE),
]


def find_truth(world: World) -> dict[str, float]:
    rows = world.draw(make_rng(0, world.name, "truth"), int(POPULATION_ROWS / world.rows))
    names = name_metrics(rows.classes)
    everyone = prepare_metrics(rows, names)
    weights = np.ones((1, everyone.clusters.count), dtype=np.int32)
    return dict(zip(names, everyone.measure(weights)[0].tolist(), strict=True))


def cover(world: World, truth: dict[str, float], number: int) -> dict[tuple[str, str], float]:
    """1 where an interval holds the truth, 0 where not, NaN where there is none."""
    rows = world.draw(make_rng(1, world.name, number), world.cases)
    params = IntervalParams(
        resamples=RESAMPLES, confidence=CONFIDENCE, method="bca", fewest_groups=10
    )
    found = Bootstrap(params, number).resample_metrics(rows, world.shown)
    held = {}
    for metric in world.shown:
        for method in METHODS:
            interval = found.interval(metric, method)
            held[metric, method] = contains(interval.low, interval.high, truth[metric])
    return held


def contains(low: float | None, high: float | None, value: float) -> float:
    return np.nan if low is None or high is None else float(low <= value <= high)


def main() -> None:
    print(f"{DATA_SETS} data sets each, {RESAMPLES} resamples; coverage of 95 % intervals in %")
    spread = 1.96 * np.sqrt(0.95 * 0.05 / DATA_SETS)
    print(f"by chance alone 95 % +- {spread:.1%}")
    for world in WORLDS:
        start = time.perf_counter()
        truth = find_truth(world)
        held = pd.DataFrame([cover(world, truth, i) for i in range(DATA_SETS)])
        held.columns = pd.MultiIndex.from_tuples(list(held))
        table = (100 * held.mean()).unstack(0).round(1)
        table = table.reindex(list(METHODS))
        print(f"\n{world.name} ({time.perf_counter() - start:.0f} s)")
        print(table[list(world.shown)].to_string(na_rep="-"))
        if (lost := held.isna().mean()).any():
            print(f"without an interval: {lost.max():.1%} at most")


if __name__ == "__main__":
    main()
