"""Dropout drawn by bits drops and scales as dropout does."""

import pytest
import torch
from torch import nn

from histofuse.training.fitting.cpu import drawing_dropout_by_bits

DTYPES = [torch.float32, torch.bfloat16]


def drop(layer, inputs, seed=0):
    torch.manual_seed(seed)
    with drawing_dropout_by_bits(layer):
        return layer(inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_each_unit_is_dropped_by_its_chance_and_the_rest_scaled(p, dtype):
    inputs = torch.ones(400, 1000, dtype=dtype)
    found = drop(nn.Dropout(p), inputs)
    kept = found != 0
    assert found.dtype == dtype
    torch.testing.assert_close(
        found[kept].unique(), torch.tensor([1 / (1 - p)]).to(dtype), rtol=4e-3, atol=0
    )
    # Five standard errors, of all units and of every fourth: a draw serves four.
    spread = (p * (1 - p)) ** 0.5
    for lane in (kept.flatten(), *(kept.flatten()[first::4] for first in range(4))):
        share = float(lane.float().mean())
        assert abs(share - (1 - p)) < 5 * spread / len(lane) ** 0.5


def test_neighbouring_units_are_dropped_independently():
    kept = (drop(nn.Dropout(0.3), torch.ones(1_000_003)) != 0).float()
    for distance in (1, 2, 3, 4, 5):
        pairs = torch.stack((kept[distance:], kept[:-distance]))
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.005


def test_the_gradient_flows_where_the_unit_was_kept():
    inputs = torch.randn(7, 5, requires_grad=True)
    found = drop(nn.Dropout(0.5), inputs)
    found.sum().backward()
    kept = found != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(inputs.grad, torch.where(kept, 2.0, 0.0))
    torch.testing.assert_close(found, inputs * inputs.grad)


def test_the_same_seed_drops_the_same_units_and_another_does_not():
    layer, inputs = nn.Dropout(0.5), torch.ones(64, 9)
    torch.testing.assert_close(drop(layer, inputs), drop(layer, inputs))
    assert not torch.equal(drop(layer, inputs), drop(layer, inputs, seed=1))


def test_nothing_is_drawn_in_evaluation_or_without_a_chance():
    inputs = torch.randn(4, 4)
    for layer in (nn.Dropout(0.5).eval(), nn.Dropout(0.0)):
        torch.testing.assert_close(drop(layer, inputs), inputs, rtol=0, atol=0)
    assert not drop(nn.Dropout(1.0), inputs).any()
