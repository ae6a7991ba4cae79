import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from histofuse.evaluation.assessment.calibration import (
    bound_share,
    count_effective,
    measure_reliability,
)


def test_of_independent_rows_the_interval_is_wilsons():
    happened = np.arange(40) < 13
    expected = binomtest(13, 40).proportion_ci(0.9, method="wilson")
    assert bound_share(happened, np.arange(40), 0.9) == pytest.approx((expected.low, expected.high))


def test_rows_of_a_case_that_agree_count_as_one():
    group = np.repeat(np.arange(8), 50)
    happened = group < 4
    assert count_effective(happened, group) < 8
    low, high = bound_share(happened, group, 0.95)
    assert low < 0.22
    assert high > 0.78


def test_where_all_agree_the_cases_are_counted():
    none = np.zeros(300, dtype=bool)
    expected = binomtest(0, 3).proportion_ci(0.95, method="wilson")
    low, high = bound_share(none, np.arange(300) % 3, 0.95)
    assert (low, high) == pytest.approx((0, expected.high))
    assert count_effective(np.arange(9) < 4, np.zeros(9, dtype=int)) == 1


def test_intervals_of_clustered_rows_hold_the_truth():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        rates = rng.beta(2, 6, 20)  # of cases: on average 0.25
        group = np.repeat(np.arange(20), 15)
        low, high = bound_share(rng.random(300) < rates[group], group, 0.95)
        held += low <= 0.25 <= high
    assert 0.92 <= held / 400 <= 0.985  # rows taken as independent: 0.72


def test_bins_are_those_of_the_metrics_and_small_ones_are_withheld():
    rng = np.random.default_rng(0)
    p, group = rng.random(500) ** 4, np.arange(500)
    o = rng.random(500) < p
    found = measure_reliability(p, o, group, 0.95, restricted=False)
    bins = pd.Series(o).groupby((p * 10).astype(int))
    assert [b.observed for b in found] == pytest.approx(bins.mean().tolist())
    assert [b.rows for b in found] == bins.count().tolist()

    p[:3] = 0.999
    p[3:] *= 0.89
    kept = measure_reliability(p, o, group, 0.95, restricted=True)
    assert min(b.groups for b in kept) >= 10
    assert sum(b.rows for b in kept) < 500
