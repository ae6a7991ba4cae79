from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from histofuse.evaluation.controls.measure import (
    Controls,
    Shuffled,
    compare_arms,
    describe_controls,
    measure_shuffles,
)
from histofuse.evaluation.controls.report import draw_controls, make_control_tables, name_metric
from histofuse.evaluation.controls.verdicts import (
    judge,
    judge_aligned,
    judge_chance,
    judge_gain,
    judge_leakage,
    judge_null,
)
from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval
from histofuse.evaluation.metrics.sides import Rules, answer_gain
from histofuse.evaluation.performance.tables import render_markdown
from histofuse.evaluation.predictions import Predictions
from histofuse.params.intervals import IntervalParams
from histofuse.training.protocols.controls import Answers

CLASSES = ["mitosis", "tumour"]
INTERVALS = IntervalParams(resamples=400, confidence=0.95, method="bca", fewest_groups=10)
BOOTSTRAP = Bootstrap(INTERVALS, seed=1)
RULES = Rules(gain_margin=0.05, chance_margin=0.1, fewest_groups=10)
METRICS = ("auprc/mitosis", "auroc/macro")


def at(value, low=None, high=None):
    return Interval(value, low, high, 12, 1.0, "" if low is not None else "too few")


def make(arms=None, differences=None, shuffled=None, metrics=("auroc/macro",)):
    def each(found):
        return dict(zip(metrics, found if isinstance(found, list) else [found], strict=True))

    return Controls(
        metrics=metrics,
        arms={name: each(found) for name, found in (arms or {}).items()},
        differences={
            pair: {m: replace(i, probability_above=0.5) for m, i in each(found).items()}
            for pair, found in (differences or {}).items()
        },
        shuffled={
            name: {m: Shuffled(i, 12, (0.5,), 0.5) for m, i in each(found).items()}
            for name, found in (shuffled or {}).items()
        },
        sizes={"patches": "n = 10 patches of 2 cases", "admissions": "n = 5"},
    )


UP, DOWN, ZERO, NONE = at(0.1, 0.02, 0.2), at(-0.1, -0.2, -0.02), at(0.01, -0.1, 0.1), at(0.1)
NARROW, FEW = at(0.01, -0.02, 0.04), replace(UP, groups=9)
OVER_IMAGE, OVER_NULL = ("label_blind", "image"), ("label_blind", "permuted")
GAIN, LEAK = ("label_aligned", "image"), ("label_aligned", "label_blind")


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over_image", "over_null", "answer", "says"),
    [
        (UP, UP, "yes", "+0.100 [+0.020, +0.200] over the image"),
        (UP, ZERO, "inconclusive", "Over permuted patients: The interval holds no gain as well as"),
        (UP, NONE, "inconclusive", "Over permuted patients: There is no interval"),
        (UP, DOWN, "no", "Over permuted patients: The whole interval is below 0.05"),
        # It holds gains of up to 0.1: that none was shown does not show that there is none.
        (ZERO, UP, "inconclusive", "Over the image model: The interval holds no gain as well as"),
        (NARROW, UP, "no", "Over the image model: The whole interval is below 0.05"),
        (DOWN, ZERO, "no", "-0.100 [-0.200, -0.020]"),
        (NONE, UP, "inconclusive", "There is no interval"),
        (FEW, FEW, "inconclusive", "It is of 9: an interval of fewer than 10"),
    ],
)
def test_gain_under_label_blind_pairing(over_image, over_null, answer, says):
    found = judge_gain(make(differences={OVER_IMAGE: over_image, OVER_NULL: over_null}), RULES)
    assert found.answer == answer
    assert says in found.sentence


def test_first_metric_decides_alone():
    only_second = {OVER_IMAGE: [ZERO, UP], OVER_NULL: [ZERO, UP]}
    found = judge_gain(make(differences=only_second, metrics=METRICS), RULES)
    assert found.answer == "inconclusive"
    assert "auroc" not in found.sentence
    only_first = {OVER_IMAGE: [UP, DOWN], OVER_NULL: [UP, DOWN]}
    assert judge_gain(make(differences=only_first, metrics=METRICS), RULES).answer == "yes"


@pytest.mark.parametrize(
    ("difference", "answer"),
    [
        (UP, "no"),
        (DOWN, "no"),
        (ZERO, "inconclusive"),
        (NARROW, "yes"),
        (at(-0.002, -0.004, -0.001), "yes"),  # too small to count
        (NONE, "inconclusive"),
        (FEW, "inconclusive"),
    ],
)
def test_label_blind_and_permuted_are_alike_by_a_narrow_paired_difference(difference, answer):
    assert judge_null(make(differences={OVER_NULL: difference}), RULES).answer == answer


def test_intervals_of_the_arms_are_not_compared_with_each_other():
    wide = at(0.7, 0.4, 0.9)
    arms = make({"label_blind": wide, "permuted": wide})
    assert judge_null(arms, RULES).answer == "inconclusive"


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (UP, "yes"),
        (DOWN, "no"),
        (NARROW, "no"),
        (ZERO, "inconclusive"),
        (NONE, "inconclusive"),
        (FEW, "inconclusive"),
    ],
)
def test_label_aligned_above_label_blind(found, answer):
    assert judge_aligned(make(differences={LEAK: found}), RULES).answer == answer


@pytest.mark.parametrize(
    ("gain", "leak", "answer", "says"),
    [
        (at(0.2, 0.1, 0.3), at(0.15, 0.05, 0.2), "yes", "75% of +0.200 [+0.100, +0.300]"),
        (at(0.2, 0.1, 0.3), at(-0.1, -0.2, 0.0), "no", "None of it"),
        (at(0.2, 0.1, 0.3), at(0.05, -0.1, 0.2), "inconclusive", "25%"),
        (ZERO, UP, "inconclusive", "no gain is shown"),
        (NONE, UP, "inconclusive", "no gain is shown"),
        (FEW, FEW, "inconclusive", "no gain is shown"),
    ],
)
def test_share_of_the_aligned_gain_that_is_leakage(gain, leak, answer, says):
    alone = {"shuffled_images[label_aligned]": at(0.8, 0.7, 0.9)}
    found = judge_leakage(make(differences={GAIN: gain, LEAK: leak}, shuffled=alone), RULES)
    assert found.answer == answer
    assert says in found.sentence
    alone_shown = "alone scores 0.800 [0.700, 0.900]" in found.sentence
    assert alone_shown == (says != "no gain is shown")


@pytest.mark.parametrize(
    ("found", "groups", "answer", "says"),
    [
        (at(0.52, 0.45, 0.58), 12, "yes", "within 0.1 of 0.5"),
        (at(0.52, 0.19, 0.83), 12, "inconclusive", "differences of 0.1 and more"),
        (at(0.7, 0.6, 0.8), 12, "no", "above 0.5"),
        (at(0.52, 0.51, 0.53), 12, "no", "above 0.5"),  # narrow, but without chance
        (at(0.3, 0.2, 0.4), 12, "no", "below 0.5"),
        (at(0.5), 12, "inconclusive", "no interval"),
        (at(0.52, 0.45, 0.58), 3, "inconclusive", "It is of 3: an interval of fewer than 10"),
    ],
)
def test_at_chance_is_a_narrow_interval_that_holds_it(found, groups, answer, says):
    verdict = judge_chance("?", {"auroc/macro": Shuffled(found, groups, (0.5,), 0.5)}, RULES)
    assert verdict.answer == answer
    assert says in verdict.sentence


def test_few_shuffles_of_many_cases_can_be_at_chance():
    few_shuffles = replace(at(0.5, 0.45, 0.55), groups=5)
    found = {"auroc/macro": Shuffled(few_shuffles, 12, (0.5,) * 5, 0.5)}
    assert judge_chance("?", found, RULES).answer == "yes"


def test_questions_without_arms_are_not_asked():
    assert [v.answer for v in judge(make(), RULES)] == ["inconclusive"] * 2
    differences = {LEAK: UP, GAIN: UP}
    asked = judge(make(differences=differences, shuffled={"shuffled_labels": NARROW}), RULES)
    assert [v.answer for v in asked] == ["inconclusive", "inconclusive", "yes", "yes", "no"]


# --- errors of the verdicts, by simulation ------------------------------------------------------


def draw_arms(seed, cases, gain, n=40, mitoses=60):
    """Three heads that differ by chance, per case and patch; most mitoses lie in a few cases."""
    rng = np.random.default_rng(seed)
    rows = predict(0.0, n=n * cases, groups=cases)
    labels = np.ones(n * cases, dtype=np.int64)
    counts = rng.multinomial(mitoses, rng.dirichlet(np.full(cases, 0.7)))
    for case, count in enumerate(np.minimum(counts, n - 2)):
        labels[case * n + rng.choice(n, count, replace=False)] = 0
    mitosis = labels == 0
    seen = 1.5 * mitosis + rng.normal(size=len(labels))

    def head(skill):
        of_case = np.repeat(rng.normal(scale=0.5, size=(2, cases)), n, axis=1)
        logit = seen + of_case[0] * mitosis + of_case[1] + skill * mitosis
        p = 1 / (1 + np.exp(-logit - rng.normal(scale=0.7, size=len(labels))))
        return replace(rows, labels=labels, probabilities=np.column_stack([p, 1 - p]))

    return {"image": head(0.0), "label_blind": head(gain), "permuted": head(0.0)}


def ask(seed, cases, gain):
    """Ask whether the record adds anything, and whether one head is better than another."""
    cheap = Bootstrap(INTERVALS.model_copy(update={"resamples": 200}), seed)
    metrics = ("auprc/mitosis",)
    arms = compare_arms(draw_arms(seed, cases, gain), metrics, cheap)
    difference = arms[1]["label_blind", "image"]["auprc/mitosis"]
    answer = judge_gain(Controls(metrics, *arms, {}, {}), RULES).answer
    return answer, answer_gain(difference, RULES)


def test_with_few_cases_nothing_is_said():
    answers = {answer for seed in range(50) for answer in ask(seed, 3, 0.0)}
    assert answers == {"inconclusive"}


@pytest.mark.parametrize("cases", [12, 20])
def test_without_a_gain_yes_is_as_rare_as_the_confidence_says(cases):
    both, one = zip(*(ask(seed, cases, 0.0) for seed in range(200)), strict=True)
    assert both.count("yes") <= one.count("yes") <= 0.025 * 200  # BCa: 7 of 200


def test_true_gain_is_found_with_enough_cases_and_never_denied():
    both, one = zip(*(ask(seed, 30, 1.5) for seed in range(40)), strict=True)
    assert min(both.count("yes"), one.count("yes")) >= 0.9 * 40
    assert "no" not in {*both, *one}


# --- numbers ------------------------------------------------------------------------------------


def predict(skill, seed=0, n=300, groups=15):
    labels = np.random.default_rng(7).integers(0, 2, n)
    p = np.random.default_rng(seed).random(n) + skill * labels
    p /= p.max()
    return Predictions(
        name="m",
        config={"kind": "fusion", "classes": CLASSES},
        history=pd.DataFrame(),
        keys=np.array([f"p{i}" for i in range(n)], dtype=object),
        split=np.full(n, "test", dtype=object),
        labels=labels,
        probabilities=np.column_stack([1 - p, p]),
        predictions=(p > 0.5).astype(np.int64),
        groups=np.array([f"g{i * groups // n}" for i in range(n)], dtype=object),
        subjects=None,
    )


def answer(seed, skill=0.0):
    rows = predict(skill, seed)
    return Answers(rows.probabilities, rows.predictions)


def test_arms_that_are_not_there_have_no_difference():
    arms = {"image": predict(0.5), "label_blind": predict(0.6), "linked": predict(0.5)}
    intervals, differences = compare_arms(arms, METRICS, BOOTSTRAP)
    assert set(intervals) == set(arms)
    assert set(differences) == {("label_blind", "image")}
    value = differences["label_blind", "image"]["auroc/macro"].value
    expected = (intervals[a]["auroc/macro"].value for a in ("label_blind", "image"))
    assert value == pytest.approx(np.subtract(*expected))


def test_shuffles_are_averaged():
    answers = [answer(seed) for seed in range(6)]
    found = measure_shuffles(predict(0.0), answers, METRICS, BOOTSTRAP)
    labels = predict(0.0).labels

    each = [roc_auc_score(labels, a.probabilities[:, 1]) for a in answers]
    assert found["auroc/macro"].values == pytest.approx(each)
    assert found["auroc/macro"].interval.value == pytest.approx(np.mean(each))
    assert found["auroc/macro"].chance == 0.5
    assert found["auprc/mitosis"].chance == pytest.approx((labels == 0).mean())
    low, high = found["auroc/macro"].interval.low, found["auroc/macro"].interval.high
    assert low < 0.5 < high
    told = measure_shuffles(predict(0), [answer(s, 1.0) for s in range(6)], METRICS, BOOTSTRAP)
    assert told["auroc/macro"].interval.low > 0.7


def test_interval_of_shuffles_holds_chance_nearly_as_often_as_it_claims():
    """Random answers that each shuffle gives a whole case, as a case-level patient would."""
    held, runs = 0, 40
    intervals = INTERVALS.model_copy(update={"resamples": 200})
    test = predict(0.0)
    for run in range(runs):
        rng = np.random.default_rng(run)
        rows = replace(test, labels=rng.integers(0, 2, len(test)))
        answers = []
        for _ in range(5):
            offset = dict(zip(np.unique(rows.groups), rng.normal(size=15), strict=True))
            logit = np.array([offset[g] for g in rows.groups]) + rng.normal(size=len(rows))
            p = 1 / (1 + np.exp(-logit))
            answers.append(Answers(np.column_stack([1 - p, p]), (p > 0.5).astype(np.int64)))
        drawn = Bootstrap(intervals, run)
        interval = measure_shuffles(rows, answers, ("auroc/macro",), drawn)["auroc/macro"]
        held += interval.interval.low <= 0.5 <= interval.interval.high
    assert held >= 0.9 * runs


# --- reports ------------------------------------------------------------------------------------


@pytest.fixture
def controls():
    arms = {"image": predict(0.5), "label_blind": predict(0.6), "label_aligned": predict(2.0)}
    shuffled = {
        "shuffled_images[label_aligned]": measure_shuffles(
            predict(0.0), [answer(s) for s in range(3)], METRICS, BOOTSTRAP
        )
    }
    sizes = {"patches": "n = 300 patches of 15 cases", "admissions": "n = 5"}
    return Controls(METRICS, *compare_arms(arms, METRICS, BOOTSTRAP), shuffled, sizes)


def test_json_has_all_arms_and_verdicts(controls):
    found = describe_controls(controls, judge(controls, RULES))
    assert list(found["arms"]) == ["image", "label_blind", "label_aligned"]
    difference = found["differences"]["label_aligned - label_blind"]["auroc/macro"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert len(found["shuffled"]["shuffled_images[label_aligned]"]["auroc/macro"]["values"]) == 3
    assert {v["answer"] for v in found["verdicts"]} <= {"yes", "no", "inconclusive"}


def test_tables_mark_simulated_data_and_say_what_chance_is(controls):
    for simulated in (True, False):
        tables = make_control_tables(
            controls, judge(controls, RULES), INTERVALS, simulated=simulated
        )
        texts = {t.name: render_markdown(t) for t in tables}
        assert set(texts) == {"arms", "differences", "shuffled", "verdicts"}
        assert all(("Simulated data" in text) == simulated for text in texts.values())
    assert "Macro AUROC 0.500" in texts["shuffled"]
    assert "Fusion, label-aligned (leaky)" in texts["arms"]


def test_figure_has_a_panel_a_metric_and_a_row_an_arm(controls):
    figure = draw_controls(controls)
    assert [axes.get_xlabel() for axes in figure.axes] == [name_metric(m) for m in METRICS]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "Label-aligned (leaky), shuffled images"
    assert len(labels) == 4
