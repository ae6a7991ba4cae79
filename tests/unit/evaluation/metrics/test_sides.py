import pytest

from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.metrics.sides import find_side


@pytest.mark.parametrize(
    ("low", "high", "groups", "side"),
    [
        (0.01, 0.2, 10, "above"),
        (-0.2, -0.01, 10, "below"),
        (-0.04, 0.04, 10, "equivalent"),
        (-0.04, 0.05, 10, "inconclusive"),  # the margin itself counts as a difference
        (-0.3, 0.04, 10, "inconclusive"),
        (0.0, 0.2, 10, "inconclusive"),
        (0.01, 0.04, 10, "above"),  # small, but not none
        (0.01, 0.2, 9, "inconclusive"),
        (None, None, 10, "inconclusive"),
    ],
)
@pytest.mark.parametrize("reference", [0.0, 0.5])
def test_side_of_a_reference(low, high, groups, side, reference):
    ends = [None if end is None else reference + end for end in (low, high)]
    interval = Interval(reference, *ends, groups, 1.0, "")
    assert find_side(interval, 10, reference, 0.05) == side


def test_without_a_margin_nothing_is_equivalent():
    assert find_side(Interval(0.0, -1e-9, 1e-9, 50, 1.0, ""), 10) == "inconclusive"
