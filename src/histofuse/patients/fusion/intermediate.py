"""Intermediate fusion, as in the paper: both vectors joined, then layers.

Source: paper 3.3.
"""

import itertools
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from histofuse.params.patients import IntermediateParams
from histofuse.patients.network import FusionNetwork, fit_network, load_network


class IntermediateNetwork(FusionNetwork):
    """Joins, then a linear layer, ReLU and dropout for each of `hidden`."""

    def __init__(self, dims: dict[str, int], params: IntermediateParams) -> None:
        super().__init__(dims, params)
        widths = itertools.pairwise([2 * params.width, *params.hidden])
        blocks = [
            nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Dropout(params.dropout)) for i, o in widths
        ]
        self.layers = nn.Sequential(*blocks, nn.Linear(params.hidden[-1], 1))

    def combine(self, image: Tensor, record: Tensor) -> Tensor:
        """Join the vectors."""
        return self.layers(torch.cat((image, record), dim=1))


fit: Final = partial(fit_network, IntermediateNetwork)
load: Final = partial(load_network, IntermediateNetwork)
