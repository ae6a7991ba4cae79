"""Batches of rows, and the logits of a network on them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from histofuse.training.fitting.recipe import Sources
from histofuse.training.fitting.stored import iterate_rows


def split_batches(rows: Int[Tensor, " n"], batch_size: int) -> Sequence[Int[Tensor, " batch"]]:
    """Split rows into batches of nearly equal size, none larger than `batch_size`."""
    return torch.tensor_split(rows, max(1, math.ceil(len(rows) / batch_size)))


class Collected:
    """Rows, and their logits, which stay on their device.

    In one tensor: one of each batch would scatter the heap.
    """

    def __init__(self, rows: Int[Tensor, " n"]) -> None:
        self.rows = rows
        self.logits = torch.empty(0)
        self._filled = 0

    def add(self, logits: Float[Tensor, "batch k"]) -> None:
        """Keep the logits of the next rows."""
        if not self._filled:
            self.logits = logits.new_empty(len(self.rows), logits.shape[1])
        end = self._filled + len(logits)
        self.logits[self._filled : end] = logits.detach()
        self._filled = end


def order_rows(
    n: int, row_weights: Float[Tensor, " n"] | None, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """Draw the order of an epoch: a permutation, or n draws with replacement by weight."""
    if row_weights is None:
        return torch.randperm(n, generator=generator)
    return torch.multinomial(row_weights.double(), n, replacement=True, generator=generator)


def keep_resident(inputs: Sources, device: torch.device) -> Sources:
    """Move inputs to a GPU if they take at most half of its free memory."""
    if device.type != "cuda":
        return inputs
    free, _ = torch.cuda.mem_get_info(device)
    if 2 * sum(t.nbytes for t in inputs) > free:
        return inputs
    return tuple(t.to(device) for t in inputs)


def as_columns(logits: Tensor) -> Float[Tensor, "batch k"]:
    """Bring logits to float32 with one column per class; a single logit l becomes (0, l)."""
    logits = logits.float()
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    single = logits.reshape(-1)
    return torch.stack((torch.zeros_like(single), single), dim=1)


@torch.inference_mode()
def compute_logits(
    network: nn.Module, inputs: Sources, *, batch_size: int = 256
) -> Float[np.ndarray, "n k"]:
    """Compute logits in eval mode and fp32, on the network's device, one column per class."""
    device = next(network.eval().parameters()).device
    batches = split_batches(torch.arange(len(inputs[0])), batch_size)
    selected = iterate_rows(inputs, batches, device)
    return torch.cat([as_columns(network(*batch)).cpu() for batch in selected]).numpy()
