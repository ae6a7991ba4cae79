"""Batches by value."""

import pytest
import torch

from histofuse.training.fitting.batches import Collected, as_columns, order_rows, split_batches
from histofuse.training.fitting.recipe import (
    compute_class_weights,
)


def test_the_weighted_sampler_draws_classes_equally():
    labels = torch.tensor([0] * 20 + [1] * 980)
    weights = compute_class_weights(labels, 2)[labels]
    order = order_rows(1000, weights, torch.Generator().manual_seed(0))
    assert len(order) == 1000
    assert labels[order].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_without_weights_each_row_is_visited_once_in_an_order_of_the_seed():
    orders = [order_rows(50, None, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert sorted(orders[0].tolist()) == list(range(50))
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()


@pytest.mark.parametrize(("n", "sizes"), [(65, [33, 32]), (64, [64]), (3, [3]), (129, [43] * 3)])
def test_batches_are_even_and_none_is_a_single_row(n, sizes):
    assert [len(b) for b in split_batches(torch.arange(n), 64)] == sizes


def test_a_single_logit_becomes_two_columns():
    logits = torch.tensor([-1.0, 2.0])
    expected = torch.sigmoid(logits)
    torch.testing.assert_close(as_columns(logits).softmax(dim=1)[:, 1], expected)
    assert as_columns(logits[:, None]).tolist() == as_columns(logits).tolist()


def test_logits_of_batches_are_collected_in_one_tensor():
    collected, logits = Collected(torch.arange(5)), torch.rand(5, 2, requires_grad=True)
    for part in logits.split(2):
        collected.add(part)
    assert torch.equal(collected.logits, logits) and not collected.logits.requires_grad
