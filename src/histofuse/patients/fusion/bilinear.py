"""Low-rank bilinear fusion: every product of a unit of the image and a unit of the record.

Source: Liu et al. 2018, Efficient Low-rank Multimodal Fusion with Modality-Specific Factors; the
tensor is that of Zadeh et al. 2017, Tensor Fusion Network, with a constant unit on both sides.
"""

from functools import partial
from typing import Final

from torch import Tensor, nn

from histofuse.params.patients import BilinearParams
from histofuse.patients.network import FusionNetwork, fit_network, load_network


class BilinearNetwork(FusionNetwork):
    """A tensor as the sum of `rank` products; biases are the constant units' factors."""

    def __init__(self, dims: dict[str, int], params: BilinearParams) -> None:
        super().__init__(dims, params)
        self.rank, units = params.rank, params.rank * params.width
        self.image_factors = nn.Linear(params.width, units)
        self.record_factors = nn.Linear(params.width, units)
        self.output = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(params.width, 1))

    def combine(self, image: Tensor, record: Tensor) -> Tensor:
        """Multiply the factors and add up the ranks."""
        products = self.image_factors(image) * self.record_factors(record)
        return self.output(products.unflatten(1, (self.rank, -1)).sum(dim=1))


fit: Final = partial(fit_network, BilinearNetwork)
load: Final = partial(load_network, BilinearNetwork)
