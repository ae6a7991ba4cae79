import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from histofuse.evaluation.external.calibration_line import measure_line
from histofuse.evaluation.external.shift import (
    CLASSIFIER,
    correct_for_number,
    describe_patches,
    measure_distance,
)
from histofuse.evaluation.metrics.bootstrap import Bootstrap, ClusterBootstrap
from histofuse.evaluation.metrics.weighted import Clusters
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.95, method="percentile", fewest_groups=10), 1
)


def draw(seed, n=200, **changes):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "haemoglobin_mean": rng.normal(13, 1.5, n),
            "nodes": rng.poisson(2, n).astype(float),
            "sex": rng.choice(["F", "M"], n),
            "outcome": rng.integers(0, 2, n),
        }
    )
    table.loc[rng.random(n) < 0.1, "nodes"] = np.nan
    return table.assign(**{k: change(table[k]) for k, change in changes.items()})


INPUTS = ["haemoglobin_mean", "nodes", "sex"]


def compare(**changes):
    return measure_distance(draw(1, 500), draw(2, **changes), INPUTS, BOOTSTRAP)


def test_alike_is_alike():
    distance = compare()
    assert distance.alarms == []
    assert distance.auroc.low < 0.5 < distance.auroc.high + 0.05


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("haemoglobin_mean", lambda x: x / 1.6114, "as if in mmol/L"),
        ("nodes", lambda x: x.mask(x > 2), "missing here"),
        ("sex", lambda x: x.where(np.arange(len(x)) % 4 > 0, "M"), "sex: "),
        ("outcome", lambda x: (np.arange(len(x)) % 10 < 8).astype(int), "80.0%"),
    ],
)
def test_what_differs_is_named(name, change, text):
    alarms = {shift.name: str(shift) for shift in compare(**{name: change}).alarms}
    assert text in alarms.pop(name)
    assert set(alarms) <= {CLASSIFIER}


def test_a_joint_change_is_seen_by_the_classifier_alone():
    """Each feature is drawn alike on both sides; their sum is not."""
    rng = np.random.default_rng(0)
    one, noise = rng.normal(size=(2, 400))
    sides = [pd.DataFrame({"a": one, "b": sign * one + 0.3 * noise}) for sign in (1.0, -1.0)]
    sides = [side.assign(product=side["a"] * side["b"]) for side in sides]
    distance = measure_distance(*sides, ["a", "b", "product"], BOOTSTRAP)
    assert {shift.name for shift in distance.alarms} == {CLASSIFIER, "product"}


@pytest.mark.parametrize(("n", "few"), [(9, True), (10, False)])
def test_few_units_are_said_as_no_test_would_tell_them_apart(n, few):
    assert measure_distance(draw(1, 500), draw(2, n), INPUTS, BOOTSTRAP).few_units == few
    assert measure_distance(draw(1, n), draw(2, 500), INPUTS, BOOTSTRAP).few_units == few


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrected_values_are_those_of_holm(p):
    order = np.argsort(p, kind="stable")
    expected, highest = np.empty(len(p)), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, (len(p) - rank) * p[i])
        expected[i] = min(highest, 1.0)
    np.testing.assert_allclose(correct_for_number(p), expected)


def test_patches_are_described_by_colour_and_sharpness():
    flat = np.full((1, 4, 4, 3), (200, 100, 50), np.uint8)
    row = describe_patches(flat).iloc[0]
    assert row["patch: red, mean"] == 200.0
    assert row["patch: blue, spread"] == row["patch: sharpness"] == 0.0
    striped = flat.copy()
    striped[:, :, ::2] = 0
    assert describe_patches(striped)["patch: sharpness"].iloc[0] > 100


def test_the_calibration_line_is_that_of_a_regression():
    rng = np.random.default_rng(3)
    x = rng.normal(-1, 1.5, 800)
    y = rng.random(800) < 1 / (1 + np.exp(-(0.4 + 0.6 * x)))
    drawn = ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(800), 800, "patients"))
    line = measure_line(1 / (1 + np.exp(-x)), y, drawn)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(x[:, None], y)
    assert line["slope"].value == pytest.approx(peer.coef_[0, 0], abs=1e-3)
    assert line["slope"].low < 0.6 < line["slope"].high
    shifted = x + line["in_the_large"].value
    assert (1 / (1 + np.exp(-shifted))).mean() == pytest.approx(y.mean(), abs=1e-6)


def test_separated_rows_have_no_line():
    drawn = ClusterBootstrap(BOOTSTRAP, Clusters(np.arange(20), 20, "patients"))
    p = np.linspace(0.05, 0.95, 20)
    assert measure_line(p, p > 0.5, drawn)["slope"].value is None
