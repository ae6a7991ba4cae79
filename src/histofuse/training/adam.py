"""Adam that takes weights as they lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LayoutAdam(torch.optim.Adam):
    """`torch.optim.Adam`, for CPUs, without a copy of gradients whose channels come last in memory.

    The fused kernel there first copies such a gradient into the order of its axes, longer work than
    Adam's own. Given views whose axes are in the order of memory it copies nothing. Weights and
    state come out the same to the bit, so a checkpoint of either is one of the other.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor], **named: Any) -> bool:
        has_complex = super()._init_group(group, *lists, **named)
        # Parameters, gradients, first and second moments; steps are scalars.
        for place, tensors in enumerate(zip(*lists[:4], strict=True)):
            if all(_ends_in_channels(tensor) for tensor in tensors):
                for tensor, of_all in zip(tensors, lists, strict=False):
                    of_all[place] = tensor.permute(0, 2, 3, 1)
        return has_complex


def _ends_in_channels(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
