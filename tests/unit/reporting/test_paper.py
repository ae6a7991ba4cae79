from itertools import pairwise, product

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from histofuse.evaluation.metrics.sides import Estimate, Rules
from histofuse.reporting.paper import (
    judge_claims,
    list_claims,
    list_contradictions,
)

GAIN = ("fusion", "auroc/mitosis", "resnet18")
LEVEL = ("xgboost", "accuracy", "")
RULES = Rules(gain_margin=0.05, chance_margin=0.1, fewest_groups=10)
TEXTS = {c.name: c for c in list_contradictions()}
# Counts over BreCaHAD's 162 JSON files; Aksac et al. 2019.
BRECAHAD = {"mitosis": 112, "tumour": 20_117, "non_tumour": 1_917}


def agrees(printed, low, high):
    """Tell whether a printed figure can be the rounding of some value from low to high."""
    half = 0.5 * 10 ** -len(printed.partition(".")[2])
    return low <= float(printed) + half and high >= float(printed) - half


def judge(key, honest=None, protocol=None, simulated=()):
    measured = [{} if e is None else {key: e} for e in (honest, protocol)]
    found = judge_claims(*measured, RULES, simulated)
    return next(j for j in found if (j.claim.model, j.claim.metric, j.claim.over) == key)


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (None, "not measured here"),
        (Estimate(0.90, 0.85, 0.974, 12), "does not hold"),
        (Estimate(0.90, 0.85, 0.976, 12), "inconclusive"),  # a part rounds to the 0.98 printed
        (Estimate(0.98, 0.976, 0.99, 12), "holds"),  # all of it rounds to 0.98 or better
        (Estimate(0.98, 0.976, 0.99, 3), "inconclusive"),
        (Estimate(0.50, 0.40, 0.60, 3), "inconclusive"),
        (Estimate(0.90), "inconclusive"),
    ],
)
def test_level_holds_where_its_whole_interval_reaches_the_printed_figure(estimate, verdict):
    assert judge(LEVEL, estimate).verdict == verdict


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(0.05, 0.01, 0.09, 12), "holds"),
        (Estimate(0.05, 0.01, 0.09, 9), "inconclusive"),
        (Estimate(0.05, -0.01, 0.09, 12), "inconclusive"),
        (Estimate(0.01, -0.01, 0.04, 12), "does not hold"),
        (Estimate(-0.05, -0.09, -0.01, 12), "does not hold"),
        (Estimate(0.05), "inconclusive"),
    ],
)
def test_gain_holds_where_its_whole_interval_lies_above_zero(estimate, verdict):
    assert judge(GAIN, estimate).verdict == verdict


def test_what_only_the_papers_protocol_reaches_does_not_hold():
    found = judge(LEVEL, Estimate(0.9, 0.8, 0.95, 12), Estimate(0.99, 0.98, 0.995, 12))
    assert found.verdict == "does not hold"
    assert "by the paper's protocol alone" in found.reason


def test_a_measurement_cannot_rescue_a_contradicted_claim():
    found = judge(("fusion", "accuracy", ""), Estimate(0.999, 0.998, 1.0, 12))
    assert found.verdict == "contradicts itself"
    assert found.reason.endswith("measured: holds.")


def test_simulated_data_judge_no_claim():
    best = Estimate(1.0, 1.0, 1.0, 50)
    every = {(c.model, c.metric, c.over): best for c in list_claims()}
    models = {c.model for c in list_claims()}
    found = judge_claims(every, {}, RULES, models)
    assert {j.verdict for j in found} == {"not measured here"}
    real = judge_claims(every, {}, RULES, models - {"mlp", "xgboost"})
    assert {j.verdict for j in real if j.claim.model in {"mlp", "xgboost"}} == {"holds"}


def test_refutations_are_findings():
    known = {c.name for c in list_contradictions()}
    assert {name for claim in list_claims() for name in claim.refuted_by} <= known


def read_matrices():
    """Every confusion matrix (mitosis, tumour, non-tumour) that the text on Figure 6 allows.

    It does not say where 5 wrong tumour nuclei and 4 wrong non-tumour nuclei went.
    """
    for tumour, non_tumour in product(range(6), range(5)):
        yield np.array(
            [
                [31, 0, 359],
                [tumour, 23_682, 5 - tumour],
                [non_tumour, 4 - non_tumour, 1_747],
            ]
        )


def score(metric, **options):
    """The metric over all readings, as the lowest and the highest value."""
    values = []
    for matrix in read_matrices():
        true, predicted = (np.repeat(index.ravel(), matrix.ravel()) for index in np.indices((3, 3)))
        values.append(metric(true, predicted, **options))
    return min(values), max(values)


def test_confusion_matrix_gives_the_figures_in_the_text():
    accuracy = score(accuracy_score)
    assert [f"{v:.3f}" for v in accuracy] == ["0.986"] * 2
    assert TEXTS["fusion accuracy"].follows.endswith("gives 0.986")
    assert not agrees("0.997", *accuracy)

    f1 = score(f1_score, average="macro")
    assert "{:.3f} to {:.3f}".format(*f1) in TEXTS["fusion macro F1"].follows
    assert not agrees("0.996", *f1)

    recall = score(recall_score, labels=[0], average="macro")
    assert recall[0] == recall[1]
    assert f"31 of 390, {recall[0]:.3f} (Figure 6)" in TEXTS["rare class recall"].follows
    # A mean of three recalls that rounds to 1.000 leaves little room for one of them.
    assert f"{3 * 0.9995 - 2:.4f} of the mitoses or more" in TEXTS["rare class recall"].follows


def test_fifteen_mistaken_mitoses_give_the_figures_in_the_text():
    matrix = np.array([[375, 15, 0], [0, 23_687, 0], [0, 0, 1_751]])  # no other error at all
    true, predicted = (np.repeat(index.ravel(), matrix.ravel()) for index in np.indices((3, 3)))
    recall, f1 = (m(true, predicted, average="macro") for m in (recall_score, f1_score))
    assert f"{recall:.3f} and {f1:.3f} at most" in TEXTS["resnet recall"].follows
    assert not agrees("1.000", recall, recall) and not agrees("1.000", f1, f1)


def test_counts_give_the_figures_in_the_text():
    counts = next(read_matrices()).sum(axis=1)
    assert counts.tolist() == [390, 23_687, 1_751]
    total, nuclei = counts.sum(), sum(BRECAHAD.values())
    assert f"{total:,}" in TEXTS["test nuclei"].says
    assert f"{nuclei:,}" in TEXTS["test nuclei"].follows
    assert "390" in TEXTS["test mitoses"].says
    assert str(BRECAHAD["mitosis"]) in TEXTS["test mitoses"].follows
    assert f"{nuclei:,} labelled nuclei, {6_700_000 / nuclei:.0f} times" in TEXTS["points"].follows
    assert f"{1 - 15 / total:.4f} at most" in TEXTS["resnet accuracy"].follows


def test_areas_give_the_figures_in_the_text():
    assert f"{(0.9275 + 1 + 1) / 3:.3f} at most" in TEXTS["resnet auc"].follows
    low, high = (sum(min(1.0, v + d) for v in (0.994, 0.999, 1.0)) / 3 for d in (-5e-4, 5e-4))
    assert f"between {low:.4f} and {high:.4f}" in TEXTS["fusion auc"].follows
    assert agrees("0.997", low, high)
    assert f"{0.994 - 0.927:.3f}" in TEXTS["mitosis auc gain"].follows


def test_parameters_of_the_simple_cnn_give_the_figure_in_the_text():
    convolutions = sum((9 * a + 1) * b for a, b in pairwise((3, 32, 64, 128)))
    count = convolutions + (128 * 8 * 8 + 1) * 256 + (256 + 1) * 3
    assert f"{count:,}" in TEXTS["cnn parameters"].follows
    assert agrees("2.2", count / 1e6, count / 1e6)


def test_outcomes():
    consistent = {name for name, c in TEXTS.items() if c.outcome == "consistent"}
    assert consistent == {"fusion auc", "mitosis auc gain", "cnn parameters"}
    data = {name for name, c in TEXTS.items() if c.outcome == "contradicts its data"}
    assert data == {"test nuclei", "test mitoses", "points", "whole slides", "icu patients"}


@pytest.mark.parametrize(
    ("printed", "low", "high", "expected"),
    [
        ("0.997", 0.9972, 0.998, True),
        ("0.997", 0.9976, 0.998, False),
        ("1.000", 0.0, 0.9995, True),
        ("1.000", 0.0, 0.9994, False),
        ("0.98", 0.975, 0.975, True),
    ],
)
def test_printed_figure_agrees_with_what_rounds_to_it(printed, low, high, expected):
    assert agrees(printed, low, high) is expected
