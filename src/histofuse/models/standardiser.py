"""Standardises embeddings, or reduces them to principal components, learnt from training rows."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Below this spread a dimension is constant, such as a unit that never fires.
SMALLEST_SPREAD = 1e-6


class Standardiser(nn.Module):
    """Shifts, scales and clips each dimension to the whole numbers around the fitted values."""

    mean: Tensor
    scale: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("lowest", torch.full((dim,), -torch.inf))
        self.register_buffer("highest", torch.full((dim,), torch.inf))

    @torch.no_grad()
    def fit(self, values: Float[Tensor, "n dim"]) -> None:
        """Learn mean, spread and extremes; a constant dimension is not scaled."""
        spread, mean = torch.std_mean(values.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(spread > SMALLEST_SPREAD, spread, 1.0))
        standardised = (values - self.mean) / self.scale
        self.lowest.copy_(standardised.amin(dim=0).floor())
        self.highest.copy_(standardised.amax(dim=0).ceil())

    def forward(self, values: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Standardise, and clip to what the fitted values span."""
        return ((values - self.mean) / self.scale).clamp(self.lowest, self.highest)


class Components(nn.Module):
    """Embeddings -> their first principal components, each with variance 1 on training nuclei.

    A few hundred patients do not tell which of 512 dimensions matter; the spread of many nuclei
    does, without looking at any outcome.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("directions", torch.zeros(dim, components))

    @torch.no_grad()
    def fit(self, nuclei: Float[Tensor, "n dim"]) -> None:
        """Learn the directions; those that have no spread stay at 0."""
        centred = nuclei.double() - nuclei.double().mean(dim=0)
        variances, vectors = torch.linalg.eigh(centred.T @ centred / len(nuclei))
        kept = min(self.directions.shape[1], int((variances > SMALLEST_SPREAD).sum()))
        vectors, variances = vectors.flip(1)[:, :kept], variances.flip(0)[:kept]
        # The sign of a direction is arbitrary: its largest part is made positive.
        largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
        self.mean.copy_(nuclei.double().mean(dim=0))
        self.directions[:, :kept] = vectors * largest.sign() / variances.sqrt()

    def forward(self, nuclei: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n components"]:
        """Compute the components."""
        return (nuclei - self.mean) @ self.directions
