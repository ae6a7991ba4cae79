"""A moving average of a network's weights, which changes less from epoch to epoch than they do."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class AveragedNetwork:
    """The exponential moving average of a network's weights and batch norm statistics.

    Source: Polyak and Juditsky 1992; the decay rises from 2/11 as (1 + n) / (10 + n), so that the
    first weights are soon forgotten.
    """

    def __init__(self, trained: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(trained).requires_grad_(False)
        self._decay, self._steps = decay, 0
        both = zip(self.network.state_dict().values(), trained.state_dict().values(), strict=True)
        tensors = list(both)
        self._floats = [pair for pair in tensors if pair[0].is_floating_point()]
        self._counts = [pair for pair in tensors if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step of training."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        averages, weights = map(list, zip(*self._floats, strict=True))
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for count, newest in self._counts:
            count.copy_(newest)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps in it."""
        return {"steps": self._steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._steps = state["steps"]
        self.network.load_state_dict(state["network"])
