"""Losses of rows, from logits with one column a class."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from histofuse.core.devices import send

Loss = Callable[[Tensor, Tensor], Tensor]


def compute_cross_entropy(
    logits: Float[Tensor, "batch k"], targets: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Compute the cross-entropy of each row."""
    return cross_entropy(logits, targets, reduction="none")


def make_focal_loss(gamma: float) -> Loss:
    """Make (1 - p)^gamma * cross-entropy, p of the true class; with 0 it is the cross-entropy.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017.
    """
    if not gamma:
        return compute_cross_entropy

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        losses = compute_cross_entropy(logits, targets)
        # 1 - p, whose gradient stays finite where p is 1.
        return (-torch.expm1(-losses)).clamp(min=1e-6) ** gamma * losses

    return compute


def adjust_logits(loss: Loss, shares: Float[Tensor, " k"]) -> Loss:
    """Let a loss see logits + log(share of the class), so that the logits ignore the shares.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021. A class without
    rows is left as it is.
    """
    offsets = torch.where(shares > 0, shares, 1.0).log()
    return lambda logits, targets: loss(logits + send(offsets, logits.device), targets)
