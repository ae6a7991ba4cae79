"""Losses by value."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from histofuse.training.fitting.losses import (
    adjust_logits,
    compute_cross_entropy,
    make_focal_loss,
)

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 0.0, 60.0]])
TARGETS = torch.tensor([0, 1, 2])


def test_the_focal_loss_is_the_cross_entropy_times_the_error_to_gamma():
    p = log_softmax(LOGITS, 1).exp()[torch.arange(3), TARGETS]
    expected = (1 - p) ** 2 * -p.log()
    torch.testing.assert_close(make_focal_loss(2.0)(LOGITS, TARGETS), expected)


def test_its_gradient_is_finite_where_the_row_is_certain():
    logits = LOGITS.clone().requires_grad_(True)
    make_focal_loss(0.5)(logits, TARGETS).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_adjusted_logits_are_those_of_the_classes_shares():
    shares = torch.tensor([0.1, 0.7, 0.2])
    loss = adjust_logits(compute_cross_entropy, shares)
    expected = cross_entropy(LOGITS + shares.log(), TARGETS, reduction="none")
    torch.testing.assert_close(loss(LOGITS, TARGETS), expected)
    # Equal logits are then the shares themselves, so nothing is left to learn.
    even = loss(torch.zeros(3, 3), TARGETS)
    assert even.tolist() == pytest.approx([-math.log(s) for s in (0.1, 0.7, 0.2)])


def test_a_class_without_rows_leaves_the_loss_finite():
    loss = adjust_logits(make_focal_loss(1.0), torch.tensor([0.4, 0.6, 0.0]))
    assert loss(LOGITS, TARGETS).isfinite().all()
