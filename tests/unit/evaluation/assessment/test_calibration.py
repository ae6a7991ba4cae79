import numpy as np
import pytest
from measured import brier_score, calibration_error

from histofuse.evaluation.assessment.calibration import COMPONENTS, measure_quality
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import Clusters
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)


@pytest.fixture
def drawn():
    rng = np.random.default_rng(3)
    after = rng.dirichlet([0.5, 2, 1], 400)
    labels = np.array([rng.choice(3, p=p) for p in after])
    before = after**2 / (after**2).sum(axis=1, keepdims=True)
    return (
        before,
        after,
        labels,
        ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(400) // 10, 40, "c")),
    )


def add_up(found):
    rel, res, unc, variance, covariance = (found[n].value for n in COMPONENTS)
    return rel - res + unc + variance - covariance


def decompose_slowly(p, o):
    bins = np.minimum((p * 10).astype(int), 9)
    rel = res = 0.0
    for b in set(bins):
        here = bins == b
        rel += here.mean() * (p[here].mean() - o[here].mean()) ** 2
        res += here.mean() * (o[here].mean() - o.mean()) ** 2
    return rel, res, o.mean() * (1 - o.mean())


def test_the_parts_add_up_to_the_brier_score_exactly(drawn):
    before, after, labels, bootstrap = drawn
    found = measure_quality(before, after, labels, ["a", "b", "c"], bootstrap)

    assert list(found) == ["a", "b", "c", "all"]
    for c, name in enumerate("abc"):
        for side, p in (("before", before[:, c]), ("after", after[:, c])):
            parts, o = getattr(found[name], side), (labels == c).astype(float)
            assert parts["brier"].value == pytest.approx(((p - o) ** 2).mean(), abs=1e-12)
            assert add_up(parts) == pytest.approx(parts["brier"].value, abs=1e-12)
            expected = decompose_slowly(p, o)
            assert [parts[n].value for n in COMPONENTS[:3]] == pytest.approx(expected, abs=1e-12)
    assert add_up(found["all"].after) == pytest.approx(found["all"].after["brier"].value, abs=1e-12)


def test_all_classes_together_are_measured_as_in_metrics(drawn):
    before, after, labels, bootstrap = drawn
    found = measure_quality(before, after, labels, ["a", "b", "c"], bootstrap)["all"]

    assert found.before["brier"].value == pytest.approx(brier_score(before, labels))
    errors = [
        np.mean([calibration_error(p[:, c], labels == c) for c in range(3)])
        for p in (before, after)
    ]
    assert found.after["ece"].value == pytest.approx(errors[1])
    change = errors[1] - errors[0]
    assert found.change["ece"].value == pytest.approx(change)
    assert found.change["ece"].high < 0  # the truth was drawn from `after`


def test_of_two_classes_it_is_about_the_positive_one(drawn):
    _, after, _, bootstrap = drawn
    p = after[:, 1]
    two, labels = np.column_stack([1 - p, p]), (p > 0.3).astype(int)
    found = measure_quality(two, two, labels, ["no", "yes"], bootstrap)

    assert list(found) == ["yes"]
    assert found["yes"].after["brier"].value == pytest.approx(brier_score(two, labels))
    assert found["yes"].after["ece"].value == pytest.approx(calibration_error(p, labels == 1))
    change = found["yes"].change["brier"]
    # The same numbers are added up twice, on some processors in another order.
    assert (change.low, change.high) == pytest.approx((0, 0), abs=1e-12)
