"""Gated attention over the nuclei of a patient.

Source: Ilse et al. 2018, Attention-based Deep Multiple Instance Learning (section 2.4).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """Nuclei -> their weighted mean; the weights of a patient's nuclei add up to 1."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.content, self.gate = nn.Linear(dim, units), nn.Linear(dim, units)
        self.score = nn.Linear(units, 1)

    def weigh(
        self, nuclei: Float[Tensor, "batch most dim"], held: Bool[Tensor, "batch most"]
    ) -> Float[Tensor, "batch most"]:
        """Compute the weights; those of an empty bag are 0."""
        hidden = torch.tanh(self.content(nuclei)) * torch.sigmoid(self.gate(nuclei))
        scores = self.score(hidden).squeeze(-1).masked_fill(~held, -torch.inf)
        return torch.softmax(scores, dim=1).nan_to_num(0.0) if not held.all() else scores.softmax(1)

    def forward(
        self, nuclei: Float[Tensor, "batch most dim"], held: Bool[Tensor, "batch most"]
    ) -> Float[Tensor, "batch dim"]:
        """Pool."""
        return torch.einsum("bn,bnd->bd", self.weigh(nuclei, held), nuclei)
