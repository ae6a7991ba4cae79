import numpy as np
import pytest

from histofuse.evaluation.assessment.decision_curves import list_thresholds, measure_decision_curve
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import Clusters
from histofuse.params.evaluation import ThresholdRange
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=300, confidence=0.9, method="bca", fewest_groups=10), seed=1
)
SPAN = ThresholdRange(low=0.05, high=0.6, step=0.05)


def measure(p, positive):
    n = len(p)
    bootstrap = ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(n), n, "patients"))
    return measure_decision_curve(p, positive, SPAN, bootstrap)


def test_thresholds_hold_both_ends():
    assert list_thresholds(SPAN).tolist() == pytest.approx(np.linspace(0.05, 0.6, 12).tolist())


def test_net_benefit_is_hits_less_weighed_alarms():
    rng = np.random.default_rng(0)
    p = np.round(rng.random(300), 2)  # some at a threshold exactly: these are acted on
    positive = rng.random(300) < p
    curve = measure(p, positive)

    for t, found, everyone in zip(curve.thresholds, curve.model, curve.treat_all, strict=True):
        hits, alarms = (p >= t) & positive, (p >= t) & ~positive
        assert found == pytest.approx(hits.mean() - alarms.mean() * t / (1 - t))
        assert everyone == pytest.approx(positive.mean() - (~positive).mean() * t / (1 - t))
    assert (curve.low <= curve.model).all()
    assert (curve.model <= curve.high).all()


def test_a_good_model_is_useful_and_one_of_chance_is_not():
    rng = np.random.default_rng(1)
    p = rng.random(600)
    positive = rng.random(600) < p
    good, chance = measure(p, positive), measure(rng.permutation(p), positive)
    (place,) = np.flatnonzero(good.thresholds == 0.4)
    better = np.maximum(good.treat_all, 0)
    assert good.low[place] > better[place]
    assert (chance.low <= better).all()
