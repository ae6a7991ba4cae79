"""Cross-attention: each value of the record asks the nuclei what matters to it.

Source: Chen et al. 2021, Multimodal Co-Attention Transformer (genes attend to patches); tokens of
values as in Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data.
"""

from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from histofuse.params.patients import CrossAttentionParams
from histofuse.patients.network import FusionNetwork, fit_network, load_network
from histofuse.training.fitting.recipe import Inputs


class CrossAttentionNetwork(FusionNetwork):
    """Tokens of the record as queries, nuclei as keys and values; then both sides' vectors join.

    Without a record one learnt token asks; without an image one learnt token answers.
    """

    def __init__(self, dims: dict[str, int], params: CrossAttentionParams) -> None:
        super().__init__(dims, params)
        width, values = params.width, max(1, dims["record"])
        self.token_weights = nn.Parameter(torch.randn(values, width) * width**-0.5)
        self.token_biases = nn.Parameter(torch.randn(values, width) * width**-0.5)
        self.keys = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(params.components, width))
        self.attention = nn.MultiheadAttention(width, params.heads, batch_first=True)
        self.output = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(3 * width, 1))

    def forward(
        self, nuclei: Tensor, held: Tensor, fixed: Tensor, record: Tensor, given: Tensor
    ) -> Tensor:
        """Compute logits."""
        has_image, has_record = given[:, :1] > 0, given[:, 1:] > 0
        image = self.describe_image(nuclei, held.bool(), fixed)
        image = torch.where(has_image, image, self.image_token)
        described = torch.where(has_record, self.record_layer(record), self.record_token)
        answered, _ = self._ask(nuclei, held.bool(), record, given)
        return self.output(torch.cat((image, described, answered), dim=1)).squeeze(-1)

    def _ask(
        self, nuclei: Tensor, held: Tensor, record: Tensor, given: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let the record's tokens attend; mean answer, and mean weight of each nucleus."""
        has_image, has_record = given[:, :1] > 0, given[:, 1:] > 0
        asking = record[:, :, None] * self.token_weights + self.token_biases
        asking = torch.where(has_record[:, :, None], asking, self.record_token)
        keys = self.keys(self.components(nuclei))
        keys = torch.where(has_image[:, :, None], keys, self.image_token)
        # Without an image every place holds the same token, so which are attended to is the same.
        padding = ~held & has_image
        answers, weights = self.attention(asking, keys, keys, key_padding_mask=padding)
        return answers.mean(dim=1), weights.mean(dim=1)

    def attend(self, inputs: Inputs) -> Tensor:
        """Compute the mean weight of each nucleus over the record's values."""
        nuclei, held, _, record, given = inputs
        return self._ask(nuclei, held.bool(), record, given)[1]


fit: Final = partial(fit_network, CrossAttentionNetwork)
load: Final = partial(load_network, CrossAttentionNetwork)
