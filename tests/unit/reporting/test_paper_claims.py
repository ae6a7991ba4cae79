import pytest

from histofuse.reporting.paper_claims import CLAIMS, Estimate, judge_claims
from histofuse.reporting.paper_contradictions import find_contradictions

GAIN = ("fusion", "auroc/mitosis", "resnet18")
LEVEL = ("xgboost", "accuracy", "")


def judge(key, honest=None, protocol=None):
    measured = [{} if e is None else {key: e} for e in (honest, protocol)]
    found = judge_claims(*measured)
    return next(j for j in found if (j.claim.model, j.claim.metric, j.claim.over) == key)


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (None, "not measured"),
        (Estimate(0.90, 0.85, 0.974), "does not hold"),
        (Estimate(0.90, 0.85, 0.976), "holds"),  # rounds to the 0.98 that is printed
        (Estimate(0.99, 0.985, 0.995), "holds"),  # better than claimed
        (Estimate(0.90), "does not hold"),
    ],
)
def test_level_holds_where_its_interval_reaches_the_printed_figure(estimate, verdict):
    assert judge(LEVEL, estimate).verdict == verdict


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(0.05, 0.01, 0.09), "holds"),
        (Estimate(0.05, -0.01, 0.09), "does not hold"),
        (Estimate(-0.05, -0.09, -0.01), "does not hold"),
    ],
)
def test_gain_holds_where_its_interval_lies_above_zero(estimate, verdict):
    assert judge(GAIN, estimate).verdict == verdict


def test_what_only_the_papers_protocol_reaches_does_not_hold():
    found = judge(GAIN, Estimate(0.0, -0.1, 0.1), Estimate(0.06, 0.03, 0.08))
    assert found.verdict == "does not hold"
    assert "only the paper's protocol reaches it" in found.reason


def test_measurement_does_not_mend_what_the_paper_contradicts():
    found = judge(("fusion", "accuracy", ""), Estimate(0.999, 0.998, 1.0))
    assert found.verdict == "contradicts itself"
    assert found.reason.endswith("measured: holds")


def test_refutations_are_findings():
    known = {f.name for f in find_contradictions()}
    assert {name for claim in CLAIMS for name in claim.refuted_by} <= known
