"""Means with intervals over whole cases, and their concerns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histofuse.core.seeding import make_rng
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import Measure, Score, estimate_means, render_estimates
from histofuse.explain.maps import faithfulness as maps
from histofuse.explain.shap_values import faithfulness as shap_values
from histofuse.params.base import load_section
from histofuse.params.explain import MapParams
from histofuse.params.intervals import IntervalParams

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=400, confidence=0.9, method="percentile", fewest_groups=10), seed=1
)
LIMITS = load_section(MapParams, "explain.maps", Path(__file__).parents[3] / "params.yaml")
MAPS = maps.define_measures(LIMITS)
LOOKS = Measure("Mass", "higher", 0.0, "it looks elsewhere")


def test_the_interval_is_that_of_a_loop_over_resampled_cases():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 80)
    values = rng.normal(0.2, 1, 80) + groups / 10
    values[::9] = np.nan
    found = estimate_means({"a": values, "b": -values}, groups, replace(BOOTSTRAP, seed=5))

    drawn, stream = [], make_rng(5, "bootstrap")
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in stream.integers(0, 12, 12)])
        drawn.append(np.nanmean(values[rows]))
    from histofuse.evaluation.metrics.bootstrap import find_tail

    tail = find_tail(0.9, 12)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    assert found["a"].value == pytest.approx(np.nanmean(values))
    assert (found["a"].low, found["a"].high) == pytest.approx((low, high))
    assert (found["b"].low, found["b"].high) == pytest.approx((-high, -low))
    assert (found["a"].n, found["a"].groups) == ((~np.isnan(values)).sum(), 12)


def test_a_score_that_is_undefined_everywhere_has_no_value_but_a_note():
    found = estimate_means({"a": np.full(4, np.nan)}, np.array([0, 0, 1, 1]), BOOTSTRAP)["a"]
    assert (found.value, found.low, found.n) == (None, None, 0)
    assert found.note == "not defined on these rows"
    assert render_estimates({"a": found}, {"a": LOOKS}, 10)["a"]["concern"] == ""


@pytest.mark.parametrize(("value", "outcome"), [(1e-5, "good"), (0.1, "concern")])
def test_a_largest_error_needs_no_interval(value, outcome):
    measure = Measure("Error", "lower", 0.001, "it does not add up", exact=True)
    found = Score(value, None, None, 5, 5, "a maximum has no interval")
    assert measure.find_outcome(found, 10) == outcome


@pytest.mark.parametrize(
    ("ends", "groups", "outcome", "concern"),
    [
        ((0.2, 0.1, 0.3), 12, "good", ""),
        ((0.2, -0.1, 0.3), 12, "inconclusive", ""),
        ((0.2, 0.1, 0.3), 3, "inconclusive", ""),
        ((-0.2, -0.3, -0.1), 12, "concern", "it looks elsewhere"),
        ((-0.2, -0.3, -0.1), 3, "inconclusive", "it looks elsewhere, inconclusive"),
        ((-0.2, -0.3, 0.1), 12, "inconclusive", "it looks elsewhere, inconclusive"),
        ((-0.2, None, None), 12, "inconclusive", "it looks elsewhere, inconclusive"),
    ],
)
def test_a_score_on_the_wrong_side_of_its_limit_is_a_concern(ends, groups, outcome, concern):
    found = {"cam": Score(*ends, groups, 90), "cam/part": Score(*ends, groups, 90)}
    rendered = render_estimates(found, {"cam": LOOKS}, 10)
    assert rendered["cam"]["outcome"] == outcome
    assert rendered["cam"]["concern"] == concern
    assert rendered["cam/part"]["outcome"] == ""
    assert rendered["cam/part"]["concern"] == ""


@pytest.mark.parametrize("measures", [MAPS, shap_values.MEASURES])
def test_every_test_has_a_limit_and_says_what_it_means_to_miss_it(measures):
    assert all(
        bool(m.better) == (m.limit is not None) == bool(m.concern) for m in measures.values()
    )


def test_a_map_worse_than_the_centre_is_a_concern_by_its_interval():
    low = {"deletion_gain_over_centre": Score(-0.069, -0.1, -0.03, 17, 40)}
    wide = {"deletion_gain_over_centre": Score(-0.069, -0.1, 0.02, 17, 40)}
    found = [render_estimates(e, MAPS, 10)["deletion_gain_over_centre"] for e in (low, wide)]
    assert [f["outcome"] for f in found] == ["concern", "inconclusive"]
    assert [f["limit"] for f in found] == [-LIMITS.centre_margin] * 2
    alike = Score(0.8, 0.7, 0.9, 17, 40)
    names = ("randomisation_rank_correlation", "head_randomisation_rank_correlation")
    rendered = render_estimates(dict.fromkeys(names, alike), MAPS, 10)
    assert {rendered[name]["outcome"] for name in names} == {"concern"}
    most = {"empty_share": Score(0.02, 0.011, 0.03, 17, 400)}
    assert render_estimates(most, MAPS, 10)["empty_share"]["outcome"] == "concern"
