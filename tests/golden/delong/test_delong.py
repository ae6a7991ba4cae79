"""DeLong's interval and test against R's pROC, by the frozen values that `regenerate.R` writes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.evaluation.metrics.delong import compare_aurocs, estimate_auroc

HERE = Path(__file__).parent
SCORES = pd.read_csv(HERE / "scores.csv")
EXPECTED = pd.read_csv(HERE / "expected.csv").set_index("case")
close = pytest.approx


@pytest.fixture(params=list(EXPECTED.index))
def case(request):
    rows = SCORES[SCORES["case"] == request.param]
    scores = (rows[c].to_numpy(dtype=np.float64) for c in ("first", "second"))
    return *scores, rows["label"].to_numpy() == 1, EXPECTED.loc[request.param]


def test_area_variance_and_interval_are_those_of_proc(case):
    first, second, positive, expected = case
    one, two = estimate_auroc(first, positive), estimate_auroc(second, positive)

    assert one.value == close(expected["first"], rel=1e-12)
    assert one.variance == close(expected["first_variance"], rel=1e-9)
    assert one.interval(0.95) == close(tuple(expected[["first_low95", "first_high95"]]), rel=1e-9)
    ends = tuple(expected[["first_logit_low95", "first_logit_high95"]])
    assert one.logit_interval(0.95) == close(ends, rel=1e-9)
    assert two.value == close(expected["second"], rel=1e-12)
    assert two.interval(0.99) == close(tuple(expected[["second_low99", "second_high99"]]), rel=1e-9)
    assert (one.positives, one.negatives) == (positive.sum(), (~positive).sum())


def test_paired_test_is_that_of_proc(case):
    first, second, positive, expected = case
    found = compare_aurocs(first, second, positive)

    sum_of_variances = expected["first_variance"] + expected["second_variance"]
    assert found.value == close(expected["first"] - expected["second"], rel=1e-9)
    assert found.variance == close(sum_of_variances - 2 * expected["covariance"], rel=1e-9)
    assert found.z == close(expected["z"], rel=1e-9)
    assert found.p_value == close(expected["p_value"], rel=1e-9)
    ends = tuple(expected[["difference_low95", "difference_high95"]])
    assert found.interval(0.95) == close(ends, rel=1e-9)


def test_frozen_cases_hold_ties_and_few_rows():
    ties = SCORES[SCORES["case"] == "ties"]
    assert ties["first"].nunique() < len(ties) / 5
    assert (SCORES.groupby("case")["label"].sum() == 2).any()


def test_perfect_separation_has_no_variance():
    scores, positive = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])
    found = estimate_auroc(scores, positive)

    assert (found.value, found.variance) == (1.0, 0.0)
    assert found.interval(0.95) == found.logit_interval(0.95) == (1.0, 1.0)
    assert compare_aurocs(scores, scores, positive).p_value == 1.0
    turned = compare_aurocs(scores, -scores, positive)
    assert (turned.value, turned.z, turned.p_value) == (1.0, np.inf, 0.0)


@pytest.mark.parametrize("positives", [0, 1, 3, 4])
def test_one_row_of_a_kind_is_too_few(positives):
    with pytest.raises(ValueError, match="two rows of the class"):
        estimate_auroc(np.linspace(0, 1, 4), np.arange(4) < positives)
