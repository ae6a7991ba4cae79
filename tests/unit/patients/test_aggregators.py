import numpy as np
import pytest

from histofuse.patients.aggregators import aggregate

EMBEDDINGS = np.array([[1, 2], [3, 6], [5, 0]], dtype=np.float32)
# Nearly certain: mitosis, tumour, tumour.
LOGITS = np.array([[50, 0], [0, 50], [0, 50]], dtype=np.float32)
SIZES = np.array([2, 0, 1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [[2, 4], [0, 0], [5, 0]]),
        ("max", [[3, 6], [0, 0], [5, 0]]),
        ("spread", [[1, 2], [0, 0], [0, 0]]),
        # Mean probability, share decided, log(1 + expected number) of each class.
        (
            "distribution",
            [
                [0.5, 0.5, 0.5, 0.5, np.log(2), np.log(2)],
                [0] * 6,
                [0, 1, 0, 1, 0, np.log(2)],
            ],
        ),
    ],
)
def test_bags_become_vectors(name, expected):
    np.testing.assert_allclose(
        aggregate(EMBEDDINGS, LOGITS, SIZES, [name]), expected, rtol=1e-5, atol=1e-6
    )


def test_vectors_are_joined_and_learnt_aggregators_skipped():
    joined = aggregate(EMBEDDINGS, LOGITS, SIZES, ["mean", "attention", "distribution"])

    assert joined.shape == (3, 8)


def test_patients_without_any_nuclei_have_zeros_of_the_same_width():
    none = aggregate(EMBEDDINGS[:0], LOGITS[:0], np.zeros(3, dtype=np.int64), ["distribution"])

    assert none.shape == (3, 6)
    assert not none.any()
