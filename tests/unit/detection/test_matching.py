import itertools

import numpy as np
import pytest

from histofuse.detection.scoring import NONE, match


def test_each_dot_is_found_once():
    found = np.array([[0.0, 0.0], [3.0, 0.0], [100.0, 0.0]])
    assert match(found, np.array([[1.0, 0.0]]), 15.0).tolist() == [0, NONE, NONE]


def test_as_many_pairs_as_possible_come_before_close_ones():
    found, dots = np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[9.0, 0.0], [20.0, 0.0]])
    assert match(found, dots, 12.0).tolist() == [0, 1]


def test_pairs_at_the_radius_count_and_beyond_do_not():
    assert match(np.zeros((1, 2)), np.array([[3.0, 4.0]]), 5.0).tolist() == [0]
    assert match(np.zeros((1, 2)), np.array([[3.0, 4.0]]), 4.99).tolist() == [NONE]
    assert match(np.zeros((0, 2)), np.zeros((3, 2)), 5.0).tolist() == []
    assert match(np.zeros((2, 2)), np.zeros((0, 2)), 5.0).tolist() == [NONE, NONE]


@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_pairs_more(seed):
    rng = np.random.default_rng(seed)
    found, dots = rng.uniform(0, 40, (5, 2)), rng.uniform(0, 40, (6, 2))
    near = np.hypot(*(found[:, None] - dots).transpose(2, 0, 1)) <= 12
    best = max(
        sum(near[n, dot] for n, dot in enumerate(order))
        for order in itertools.permutations(range(6), 5)
    )
    answer = match(found, dots, 12.0)
    assert (answer != NONE).sum() == best
    assert all(near[n, dot] for n, dot in enumerate(answer) if dot != NONE)
