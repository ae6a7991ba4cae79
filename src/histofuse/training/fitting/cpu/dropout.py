"""Dropout with masks that cost little to draw on a CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from histofuse.training.fitting.cpu.overrides import overriding_forward

# Resolution of the probability of dropping a unit.
_PARTS = 2**16
_UNITS_A_DRAW = 4


def drawing_dropout_by_bits(network: nn.Module) -> AbstractContextManager[None]:
    """Let dropout layers draw 64 bits at once for four units, where PyTorch draws for each.

    The probability is rounded to 1/65536, and what is kept is scaled by the rounded one.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    return overriding_forward(layers, _drop)


def _drop(layer: nn.Dropout, input: Tensor) -> Tensor:
    dropped = round(layer.p * _PARTS)
    if not layer.training or not 0 < dropped < _PARTS:
        return nn.Dropout.forward(layer, input)
    draws = torch.empty(-(-input.numel() // _UNITS_A_DRAW), dtype=torch.int64)
    units = draws.random_(torch.iinfo(torch.int64).min, None).view(torch.int16)[: input.numel()]
    kept = units >= dropped - _PARTS // 2
    factors = kept.to(input.dtype).mul_(_PARTS / (_PARTS - dropped))
    return input * factors.view(input.shape)
