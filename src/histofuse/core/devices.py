"""Moving tensors to a GPU without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, behind what is queued there; on that device already, it stays as it is.

    From memory that is not pinned the copy would wait until all before it is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
