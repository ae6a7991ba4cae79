import numpy as np
import pytest

from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap, find_tail
from histofuse.evaluation.metrics.weighted import Clusters, number_groups
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=300, confidence=0.9, method="bca", fewest_groups=10), seed=1
)


def test_intervals_are_those_of_the_bootstrap_of_metrics(models):
    rows = models[0].of("test")
    bootstrap = ClusterBootstrap(BOOTSTRAP, number_groups(rows))
    squared = ((rows.probabilities - np.eye(3)[rows.labels]) ** 2).sum(axis=1)
    sums = bootstrap.clusters.add_up(np.column_stack([squared, np.ones(len(rows))]))
    found = bootstrap.estimate(sums, lambda s: {"brier": s[:, 0] / s[:, 1]})

    expected = BOOTSTRAP.estimate_metrics(rows, ["brier"])["brier"]
    assert found["brier"].value == pytest.approx(expected.value)
    assert found["brier"].low == pytest.approx(expected.low)
    assert found["brier"].high == pytest.approx(expected.high)


def test_sums_are_by_group_and_cell():
    clusters = Clusters(np.array([0, 1, 0, 1]), 2, "cases")
    assert clusters.add_up(np.array([[1, 10], [2, 20], [3, 30], [4, 40]])).tolist() == [
        [4, 40],
        [6, 60],
    ]
    cells = clusters.count_cells(np.array([2, 0, 2, 1]), 3, np.array([1.0, 2, 3, 4]))
    assert cells.tolist() == [[0, 0, 4], [2, 4, 0]]


def test_what_few_rows_put_too_high_is_mirrored_and_not_below_zero():
    rng = np.random.default_rng(0)
    clusters = Clusters(np.arange(30), 30, "patients")
    bootstrap = ClusterBootstrap(BOOTSTRAP, clusters)
    sums = np.column_stack([rng.normal(size=30), np.ones(30)])

    def measure(totals):
        return dict.fromkeys(("x/reliability", "plain"), (totals[:, 0] / totals[:, 1]) ** 2)

    found = bootstrap.estimate(sums, measure, method="percentile")
    mirrored, plain = found["x/reliability"], found["plain"]
    assert mirrored.high == pytest.approx(2 * plain.value - plain.low)
    assert mirrored.low == max(0.0, 2 * plain.value - plain.high)
    assert find_tail(0.9, 30) < 0.05


def test_no_group_gives_no_number():
    bootstrap = ClusterBootstrap(BOOTSTRAP, Clusters(np.empty(0, dtype=np.int64), 0, "cases"))
    found = bootstrap.estimate(np.empty((0, 1)), lambda s: {"share": s[:, 0] / s[:, 0]})
    assert found["share"].value is found["share"].low is None
