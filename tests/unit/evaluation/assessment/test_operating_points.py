import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_curve

from histofuse.evaluation.assessment.operating_points import (
    choose_threshold,
    measure_operating_points,
)
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import Clusters
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)
PARAMS = AssessmentParams.model_validate(
    {
        "thresholds": {"low": 0.1, "high": 0.5, "step": 0.1},
        "specificities": [0.9, 0.95],
        "sensitivities": [0.8],
        "coverage": 0.9,
        "conformal_score": "lac",
        "age_bands_years": [50],
        "fewest_in_subgroup": 2,
    }
)


def draw(seed, n=300):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(n), 2)
    return p, rng.random(n) < p


def bootstrap(n):
    return ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(n) // 3, n // 3, "cases"))


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.999])
def test_chosen_threshold_is_the_best_that_holds_its_aim(target):
    p, positive = draw(0)
    false_positive, recall, _ = roc_curve(positive, p, drop_intermediate=False)

    flagged = p >= choose_threshold(p, positive, "specificity", target)
    assert flagged[positive].mean() == recall[1 - false_positive >= target].max()
    assert (~flagged[~positive]).mean() >= target

    flagged = p >= choose_threshold(p, positive, "sensitivity", target)
    assert (~flagged[~positive]).mean() == pytest.approx(1 - false_positive[recall >= target].min())
    assert flagged[positive].mean() >= target


def test_rates_are_those_of_the_other_split():
    chosen_by, rows = draw(0), draw(1)
    points = measure_operating_points(chosen_by, rows, PARAMS, bootstrap(300))

    assert [(p.aim, p.target) for p in points] == [
        ("specificity", 0.9),
        ("specificity", 0.95),
        ("sensitivity", 0.8),
    ]
    for point in points:
        (tn, fp), (fn, tp) = confusion_matrix(rows[1], rows[0] >= point.threshold)
        expected = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp)}
        expected |= {"ppv": tp / (tp + fp), "npv": tn / (tn + fn), "flagged": (tp + fp) / 300}
        assert {n: i.value for n, i in point.rates.items()} == pytest.approx(expected)
        assert all(i.low < i.value < i.high for i in point.rates.values())
        assert point.chosen_on[point.aim] >= point.target


def test_without_positives_to_choose_by_there_is_no_point():
    p, positive = draw(0)
    points = measure_operating_points((p, positive & False), (p, positive), PARAMS, bootstrap(300))
    assert all(point.threshold is None for point in points)
    assert "no positives" in points[0].note


def test_ppv_is_not_defined_where_nothing_is_flagged():
    p, positive = draw(0)
    (point, *_) = measure_operating_points(
        (p, positive), (p * 0.1, positive), PARAMS, bootstrap(300)
    )
    assert point.rates["ppv"].value is None
    assert point.rates["sensitivity"].value == 0
