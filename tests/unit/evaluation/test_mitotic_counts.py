"""Hot spot, interval and Nottingham's score."""

import math

import numpy as np
import pytest

from histofuse.evaluation.mitotic_counts import (
    MitosisErrors,
    count_in_fields,
    describe_hot_spot,
    estimate_count,
    find_hot_spot,
    score_mitoses,
)

MPP = 10.0


def test_the_hot_spot_is_where_most_mitoses_are():
    rng = np.random.default_rng(0)
    tissue = np.zeros((600, 800), dtype=bool)  # 6 x 8 mm
    tissue[50:550, 50:750] = True
    spread = rng.uniform(600, 5400, (30, 2)) * (1.2, 1)
    cluster = rng.normal((4000, 2500), 150, (25, 2))
    spot = find_hot_spot(np.concatenate([spread, cluster]), tissue, MPP, 2.0)
    assert math.hypot(spot.x_um - 4000, spot.y_um - 2500) < 700
    assert spot.radius_um == pytest.approx(math.sqrt(2e6 / math.pi))
    assert spot.mitoses >= 25
    assert spot.tissue_mm2 == pytest.approx(2.0, rel=0.01)
    assert spot.per_mm2 == spot.mitoses / spot.tissue_mm2
    slow = max(
        (np.hypot(*(np.concatenate([spread, cluster]) - (x, y)).T) <= spot.radius_um).sum()
        for x in range(525, 8000, 50)
        for y in range(525, 6000, 50)
    )
    assert slow == spot.mitoses


@pytest.mark.parametrize("place", [(5.0, 5.0), (7999.0, 5999.0), (4012.0, 3.0), (3977.0, 2519.0)])
def test_the_hot_spot_of_one_mitosis_holds_it(place):
    spot = find_hot_spot(np.array([place]), np.ones((600, 800), dtype=bool), MPP, 2.0)
    assert spot.mitoses == 1
    assert math.hypot(spot.x_um - place[0], spot.y_um - place[1]) <= spot.radius_um


def test_a_spot_larger_than_the_tissue_counts_the_tissue():
    tissue = np.zeros((100, 100), dtype=bool)
    tissue[40:60, 40:60] = True  # 0.04 mm²
    spot = find_hot_spot(np.array([[500.0, 500.0]]), tissue, MPP, 2.0)
    assert spot.tissue_mm2 == pytest.approx(0.04)
    assert spot.per_mm2 == pytest.approx(25)
    assert find_hot_spot(np.empty((0, 2)), tissue, MPP, 2.0).mitoses == 0
    assert find_hot_spot(np.empty((0, 2)), np.zeros((9, 9), dtype=bool), MPP, 2.0) is None


# Source: protocol of the College of American Pathologists for invasive carcinoma of the breast: the
# largest count of score 1 and the smallest of score 3 for fields of 0.40 to 0.69 mm.
LARGEST_LOW = [4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 9]
LARGEST_LOW += [10, 10, 11, 11, 11, 12, 12, 12, 13, 13]
SMALLEST_HIGH = [10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 17, 17, 18, 18, 19, 20, 20]
SMALLEST_HIGH += [21, 22, 23, 23, 24, 25, 25, 26, 27, 28]


@pytest.mark.parametrize(
    ("diameter", "low", "high"),
    list(zip(np.arange(40, 70) / 100, LARGEST_LOW, SMALLEST_HIGH, strict=True)),
)
def test_scores_follow_the_published_table(diameter, low, high):
    area = 10 * math.pi * diameter**2 / 4
    scores = [score_mitoses(count / area, diameter) for count in range(high + 5)]
    assert scores == [1] * (low + 1) + [2] * (high - low - 1) + [3] * 5
    assert count_in_fields(high / area, diameter) == high


def test_the_interval_widens_with_the_errors():
    perfect = MitosisErrors(100_000, 0, 0)
    assert estimate_count(10, perfect, 0.95, seed=0) == (10, 10, 10)
    middle, low, high = estimate_count(10, MitosisErrors(500, 500, 0), 0.95, seed=0)
    assert low < middle < high
    assert middle == pytest.approx(20, abs=2)
    few = estimate_count(10, MitosisErrors(5, 5, 0), 0.95, seed=0)
    assert few[2] > high
    half_false = estimate_count(10, MitosisErrors(500, 0, 500), 0.95, seed=0)
    assert half_false[0] == pytest.approx(5, abs=1)
    none = estimate_count(0, MitosisErrors(40, 20, 10), 0.95, seed=0)
    assert none[0] == none[1] == 0
    assert none[2] >= 1  # some may have been missed


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(150):
        found = rng.binomial(60, 0.7)
        errors = MitosisErrors(found, 60 - found, rng.poisson(0.25 * found))
        truth = rng.poisson(15)
        answered = rng.binomial(truth, 0.7) + rng.poisson(0.25 * 0.7 * truth)
        _, low, high = estimate_count(int(answered), errors, 0.95, seed=trial)
        held += low <= truth <= high
    assert held / 150 > 0.9


def test_a_spot_without_measured_errors_has_no_interval():
    tissue = np.ones((200, 200), dtype=bool)
    spot = find_hot_spot(np.array([[1000.0, 1000.0]]), tissue, MPP, 0.99)
    how = {"confidence": 0.95, "seed": 0}
    assert describe_hot_spot(spot, None, 0.5, **how)["interval"] is None
    described = describe_hot_spot(spot, MitosisErrors(9, 3, 2), 0.5, **how)
    assert described["mitoses_per_mm2"] == pytest.approx(1.01, rel=0.02)
    assert score_mitoses(400.0, 0.5, 0.1) is None  # a shred of tissue with one mitosis
    assert score_mitoses(400.0, 0.5, 1.0) == 3
    low, high = described["interval"]["mitotic_score"]
    assert low <= described["mitotic_score"] <= high
