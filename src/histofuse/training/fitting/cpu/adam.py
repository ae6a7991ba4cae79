"""Adam that takes weights as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def make_adam(
    parameters: Iterable[Tensor] | list[dict[str, Any]], **settings: Any
) -> torch.optim.Adam:
    """Make the Adam that costs least where training runs, on the GPU if there is one.

    Args:
        parameters: Or groups of them, as of `torch.optim.Adam`.
        settings: Of `torch.optim.Adam`, such as its learning rate.
    """
    kind = torch.optim.Adam if torch.cuda.is_available() else LayoutAdam
    return kind(parameters, fused=True, **settings)


class LayoutAdam(torch.optim.Adam):
    """`torch.optim.Adam`, for CPUs, without a copy of gradients whose channels come last in memory.

    The fused kernel there first copies such a gradient into the order of its axes, longer work than
    Adam's own. Given views whose axes are in the order of memory it copies nothing. Weights and
    state come out the same to the bit, so a checkpoint of either is one of the other.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor], **named: Any) -> bool:
        has_complex = super()._init_group(group, *lists, **named)
        shaped = lists[:4]  # weights, gradients and both moments; what follows is scalars or empty
        for place, tensors in enumerate(zip(*shaped, strict=True)):
            if all(_ends_in_channels(tensor) for tensor in tensors):
                for of_all, tensor in zip(shaped, tensors, strict=True):
                    of_all[place] = tensor.permute(0, 2, 3, 1)
        return has_complex


def _ends_in_channels(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
