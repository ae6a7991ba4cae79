"""Gated fusion: for each unit a gate decides between image and record.

Source: Arevalo et al. 2017, Gated Multimodal Units for Information Fusion.
"""

from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from histofuse.params.patients import GatedParams
from histofuse.patients.network import FusionNetwork, fit_network, load_network


class GatedNetwork(FusionNetwork):
    """``gate * tanh(image) + (1 - gate) * tanh(record)``, with a gate from both."""

    def __init__(self, dims: dict[str, int], params: GatedParams) -> None:
        super().__init__(dims, params)
        width = params.width
        self.image_content, self.record_content = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, width)
        self.output = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(width, 1))

    def combine(self, image: Tensor, record: Tensor) -> Tensor:
        """Weigh the sides against each other."""
        gate = torch.sigmoid(self.gate(torch.cat((image, record), dim=1)))
        contents = self.image_content(image).tanh(), self.record_content(record).tanh()
        return self.output(gate * contents[0] + (1 - gate) * contents[1])


fit: Final = partial(fit_network, GatedNetwork)
load: Final = partial(load_network, GatedNetwork)
