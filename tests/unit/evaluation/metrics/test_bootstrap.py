from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from histofuse.core.errors import InputError
from histofuse.evaluation.metrics import bootstrap
from histofuse.evaluation.metrics.bootstrap import (
    Bootstrap,
    Resampled,
    align_rows,
    find_tail,
)
from histofuse.evaluation.metrics.weighted import measure_rows, name_metrics
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalParams

CLASSES = ["mitosis", "tumour", "non_tumour"]
PARAMS = IntervalParams(resamples=400, confidence=0.95, method="percentile", fewest_groups=10)


def draw(seed=0, n=300, groups=20, classes=CLASSES, skill=0.3) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).permutation(np.arange(n) % len(classes))
    raw = rng.random((n, len(classes))) + skill * np.eye(len(classes))[labels]
    p = raw / raw.sum(axis=1, keepdims=True)
    return Predictions(
        name=f"model{seed}",
        config={"kind": "image" if len(classes) > 2 else "tabular", "classes": classes},
        history=pd.DataFrame(),
        keys=np.array([f"p{i}" for i in range(n)], dtype=object),
        split=np.full(n, "test", dtype=object),
        labels=labels,
        probabilities=p,
        predictions=p.argmax(axis=1),
        groups=np.array([f"g{i}" for i in np.arange(n) * groups // n], dtype=object),
        subjects=None,
    )


def make_bootstrap(resamples=400, seed=1, method="percentile") -> Bootstrap:
    return Bootstrap(
        IntervalParams(resamples=resamples, confidence=0.95, method=method, fewest_groups=10), seed
    )


def measure(rows, method="percentile", resamples=400, metrics=None, seed=1):
    return make_bootstrap(resamples, seed, method).estimate_metrics(rows, metrics)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_every_metric_has_its_value_and_an_interval_about_it(method):
    rows = draw()
    found = measure(rows, method)
    known = measure_rows(rows, "test")

    assert {f"test/{n}": i.value for n, i in found.items()} == pytest.approx(known)
    for name, i in found.items():
        assert i.low is not None and i.high is not None and i.low < i.high, name
        assert (i.low < i.value < i.high) or name.startswith("ece/")
        assert (i.groups, i.defined, i.note) == (20, 1.0, "")


def test_a_resample_draws_as_many_groups_as_there_are_and_again_the_same_by_its_seed():
    first, again, other = (
        np.concatenate(list(make_bootstrap(600, seed).draw_weights(7))) for seed in (1, 1, 2)
    )

    assert first.shape == (600, 7)
    assert (first.sum(axis=1) == 7).all()
    assert 0.32 < (first == 0).mean() < 0.37  # (6/7)^7
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_cases_are_drawn_and_not_rows():
    """Rows seen four times over in their own case say nothing new."""
    rows = draw()
    fourfold = rows.take(np.tile(np.arange(len(rows)), 4))
    alone = replace(fourfold, groups=np.arange(len(fourfold)))

    once, four, freed = (
        measure(r, metrics=["auroc/macro", "f1/mitosis"]) for r in (rows, fourfold, alone)
    )

    for name in once:
        assert (four[name].low, four[name].high) == pytest.approx((once[name].low, once[name].high))
        assert freed[name].high - freed[name].low < 0.7 * (once[name].high - once[name].low)


def test_bca_is_scipys_on_the_same_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "find_tail", lambda confidence, groups: (1 - confidence) / 2)
    x = np.random.default_rng(0).exponential(size=30)
    peer = stats.bootstrap((x,), np.var, method="BCa", n_resamples=2000, rng=1)
    found = Resampled(
        metrics=("brier",),
        values=np.array([np.var(x)]),
        draws=peer.bootstrap_distribution[:, None],
        left_out=np.array([[np.var(np.delete(x, i))] for i in range(len(x))]),
        groups=len(x),
        group_unit="patients",
        paired=False,
        params=PARAMS,
    )

    bca = found.interval("brier", "bca")
    plain = found.interval("brier", "percentile")

    assert (bca.low, bca.high) == pytest.approx(tuple(peer.confidence_interval), rel=1e-9)
    assert (plain.low, plain.high) == pytest.approx(
        tuple(np.percentile(peer.bootstrap_distribution, [2.5, 97.5])), rel=1e-9
    )
    assert bca.low > plain.low  # skewed to the right


def test_two_groups_have_a_bca_interval_with_an_upper_end():
    """Of two groups the ends lie so far out that one minus the lower is one."""
    for seed in range(4):
        for found in measure(draw(seed, groups=2), "bca").values():
            if found.low is not None:
                assert found.low <= found.high


def test_few_groups_widen_the_interval_as_students_t():
    assert find_tail(0.95, 10**6) == pytest.approx(0.025, abs=1e-6)
    expected = stats.norm.cdf(-stats.t.ppf(0.975, 16) * np.sqrt(17 / 16))
    assert find_tail(0.95, 17) == pytest.approx(expected)
    assert find_tail(0.95, 3) < find_tail(0.95, 17) < 0.025


def test_calibration_error_is_mirrored_for_it_is_biased_upwards():
    rows = draw(n=60, groups=30, classes=["no", "yes"])
    happened = np.random.default_rng(0).random(60) < rows.probabilities[:, 1]  # well calibrated
    rows = replace(rows, labels=happened.astype(np.int64))
    found = make_bootstrap(500).resample_metrics(rows, ["ece/yes"])
    tail = find_tail(0.95, 30)
    low, high = np.quantile(found.draws[:, 0], [tail, 1 - tail])

    ece = found.interval("ece/yes", "bca")

    assert found.draws.mean() > found.values[0]
    assert ece.low == pytest.approx(max(0.0, 2 * found.values[0] - high))
    assert ece.high == pytest.approx(2 * found.values[0] - low)


def test_difference_of_calibration_errors_may_be_negative():
    good = draw(n=600, classes=["no", "yes"])
    over = good.probabilities[:, 1] > 0.5
    bad = replace(good, probabilities=np.column_stack([~over, over]).astype(float))
    found = compare(good, bad, ["ece/yes"])["ece/yes"]

    assert found.high < 0
    assert found.low < found.value < found.high


# --- where there is no interval -----------------------------------------------------------------


def test_one_case_has_no_interval_and_says_why():
    found = measure(draw(groups=1))["auroc/macro"]

    assert found.value is not None
    assert (found.low, found.high, found.groups) == (None, None, 1)
    assert "one of the cases" in found.note


def test_class_of_one_case_of_three_is_too_often_missing():
    rows = draw(groups=3)
    labels = np.where(rows.groups == "g0", rows.labels, np.maximum(rows.labels, 1))
    rows = replace(rows, labels=labels)
    found = measure(rows, resamples=3000)

    assert found["recall/mitosis"].defined == pytest.approx(1 - (2 / 3) ** 3, abs=0.03)
    assert found["recall/mitosis"].value is not None
    assert found["recall/mitosis"].low is None
    assert "fewer than 90%" in found["recall/mitosis"].note
    assert found["recall/tumour"].low is not None
    assert found["accuracy"].defined == 1.0


def test_undefined_resamples_stay_out_of_the_interval():
    rows = draw(groups=20)
    few = np.isin(rows.groups, ["g0", "g1", "g2"])
    rows = replace(rows, labels=np.where(few, rows.labels, np.maximum(rows.labels, 1)))
    found = make_bootstrap(3000).resample_metrics(rows, ["recall/mitosis"])
    interval = found.interval("recall/mitosis", "percentile")

    tail = find_tail(0.95, 20)
    assert interval.defined == pytest.approx(1 - (17 / 20) ** 20, abs=0.02)
    assert (interval.low, interval.high) == pytest.approx(
        tuple(np.nanquantile(found.draws, [tail, 1 - tail]))
    )


def test_no_bca_where_leaving_one_out_leaves_the_metric_undefined():
    found = Resampled(
        metrics=("brier",),
        values=np.array([0.2]),
        draws=np.linspace(0.1, 0.3, 100)[:, None],
        left_out=np.array([[0.2], [np.nan], [0.3]]),
        groups=3,
        group_unit="cases",
        paired=False,
        params=PARAMS,
    )

    assert found.interval("brier", "bca").low is None
    assert "without some of the cases" in found.interval("brier", "bca").note
    assert found.interval("brier", "percentile").low is not None


def test_no_rows_have_no_metrics():
    found = measure(draw().take(np.array([], dtype=np.int64)))

    assert {(i.value, i.low, i.note) for i in found.values()} == {
        (None, None, "not defined on these rows")
    }


def test_perfect_model_has_an_interval_of_no_width():
    rows = draw()
    rows = replace(rows, probabilities=np.eye(3)[rows.labels], predictions=rows.labels)
    for method in ("percentile", "bca"):
        found = measure(rows, method)
        assert (found["auroc/macro"].low, found["f1/mitosis"].high) == (1.0, 1.0)


# --- left out -----------------------------------------------------------------------------------


def test_groups_are_left_out_one_by_one():
    rows = draw(groups=6)
    found = make_bootstrap(100).resample_metrics(rows, ["accuracy"])
    right = rows.labels == rows.predictions
    slow = {round(float(right[rows.groups != g].mean()), 12) for g in set(rows.groups)}

    assert {round(v, 12) for v in found.left_out[:, 0].tolist()} == slow


def test_many_groups_are_left_out_in_equal_blocks():
    weights = np.concatenate(list(bootstrap.leave_out(1300, 1)))
    assert weights.shape == (500, 1300)
    assert (weights == 0).sum(axis=0).tolist() == [1] * 1300
    assert set((weights == 0).sum(axis=1).tolist()) == {2, 3}


def test_blocks_give_the_same_bca_interval(monkeypatch):
    rows = draw(n=1500, groups=1500, classes=["no", "yes"])
    name = ["auprc/yes", "f1/yes"]
    blocks = measure(rows, "bca", metrics=name, resamples=1000)
    monkeypatch.setattr(bootstrap, "MOST_LEFT_OUT", 1500)
    exact = measure(rows, "bca", metrics=name, resamples=1000)

    for n in name:
        assert (blocks[n].low, blocks[n].high) == pytest.approx(
            (exact[n].low, exact[n].high), abs=0.002
        )


# --- two models ---------------------------------------------------------------------------------


def compare(new, old, metrics=None):
    return make_bootstrap().estimate_differences(new, old, metrics)


def test_both_models_are_measured_on_the_same_resamples():
    new, old = draw(1), draw(2)
    names = name_metrics(new.classes)
    drawn = make_bootstrap(100, seed=3)
    found = drawn.resample_differences(new, old, names)
    alone = [drawn.resample_metrics(m, names) for m in (new, old)]

    np.testing.assert_allclose(found.draws, alone[0].draws - alone[1].draws)
    np.testing.assert_allclose(found.values, alone[0].values - alone[1].values)
    np.testing.assert_allclose(found.left_out, alone[0].left_out - alone[1].left_out)
    assert found.paired


def test_a_model_against_itself_is_neither_above_nor_below():
    found = compare(draw(1), draw(1))
    for name, difference in found.items():
        i = difference
        assert (i.value, i.low, i.high) == (0.0, 0.0, 0.0), name
        assert difference.probability_above == 0.5


def test_the_better_model_is_above():
    good, bad = draw(1, skill=0.8), draw(2, skill=0.0)
    found = compare(good, bad, ["auroc/macro", "brier"])

    assert found["auroc/macro"].low > 0
    assert found["auroc/macro"].probability_above == 1.0
    assert found["brier"].high < 0
    assert found["brier"].probability_above == 0.0


def test_rows_are_joined_by_key():
    new, old = draw(1), draw(2)
    shuffled = old.take(np.random.default_rng(0).permutation(len(old)))

    assert compare(new, shuffled) == compare(new, old)
    assert align_rows(shuffled, new).keys.tolist() == new.keys.tolist()


def test_other_rows_are_refused():
    new, old = draw(1), draw(2)
    with pytest.raises(InputError, match="10 of its patches are missing, 0 are unknown"):
        compare(new, old.take(np.arange(10, len(old))))

    with pytest.raises(InputError, match="0 of its patches are missing, 10 are unknown"):
        compare(new.take(np.arange(10, len(new))), old)

    renamed = old.keys.copy()
    renamed[:2] = ["x", "y"]
    with pytest.raises(InputError, match="2 of its patches are missing, 2 are unknown"):
        compare(new, replace(old, keys=renamed))


def test_other_labels_and_groups_are_refused_together():
    new, old = draw(1), draw(2)
    labels, groups = old.labels.copy(), old.groups.copy()
    labels[:3] = (labels[:3] + 1) % 3
    groups[:5] = "elsewhere"
    with pytest.raises(InputError) as refused:
        compare(new, replace(old, labels=labels, groups=groups))

    assert "3 of 300 patches have another label" in str(refused.value)
    assert "5 of 300 patches have another group" in str(refused.value)


def test_other_classes_are_refused():
    new = draw(1)
    with pytest.raises(InputError, match="classes"):
        compare(new, replace(draw(2), config={"kind": "image", "classes": CLASSES[::-1]}))
