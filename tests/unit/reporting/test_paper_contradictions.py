import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from histofuse.reporting.paper_contradictions import (
    CLASSES,
    agrees,
    count_cnn_parameters,
    count_test_nuclei,
    find_contradictions,
    measure_fusion,
    measure_matrix,
    read_matrices,
)


def test_matrix_is_measured_as_scikit_learn_does():
    for matrix in list(read_matrices())[::7]:
        true = np.repeat(CLASSES, [sum(matrix[c].values()) for c in CLASSES])
        predicted = np.concatenate(
            [np.repeat(list(matrix[c]), list(matrix[c].values())) for c in CLASSES]
        )
        scores = measure_matrix(matrix)
        assert scores["accuracy"] == pytest.approx(accuracy_score(true, predicted))
        assert scores["f1/macro"] == pytest.approx(f1_score(true, predicted, average="macro"))
        assert scores["recall/macro"] == pytest.approx(
            recall_score(true, predicted, average="macro")
        )


def test_papers_own_matrix_gives_other_numbers_than_its_table():
    scores = measure_fusion()
    assert scores["accuracy"].low == scores["accuracy"].high == pytest.approx(25_460 / 25_828)
    assert scores["recall/mitosis"].high == pytest.approx(31 / 390)
    assert scores["f1/macro"].low == pytest.approx((62 / 430 + 3494 / 3857 + 47364 / 47369) / 3)
    assert scores["f1/macro"].high == pytest.approx(
        (62 / 421 + 3494 / 3857 + 47364 / 47373) / 3, abs=5e-4
    )


def test_all_readings_of_the_nine_errors_are_counted():
    assert len(list(read_matrices())) == 30
    assert {sum(map(sum, (row.values() for row in m.values()))) for m in read_matrices()} == {
        25_828
    }
    assert count_test_nuclei() == {"mitosis": 390, "tumour": 23_687, "non_tumour": 1_751}


def test_outcome_of_each_finding():
    outcomes = {f.name: f.outcome for f in find_contradictions()}
    assert {n for n, o in outcomes.items() if o == "consistent"} == {
        "fusion auc",
        "mitosis auc gain",
        "cnn parameters",
    }
    assert outcomes["fusion macro F1"] == outcomes["resnet auc"] == "contradicts itself"
    assert outcomes["test mitoses"] == outcomes["points"] == "contradicts its data"


def test_parameters_of_the_simple_cnn_are_counted_layer_by_layer():
    convolutions = (3 * 9 + 1) * 32, (32 * 9 + 1) * 64, (64 * 9 + 1) * 128
    dense = (128 * 8 * 8 + 1) * 256, (256 + 1) * 3
    assert count_cnn_parameters() == sum(convolutions) + sum(dense) == 2_191_427


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
