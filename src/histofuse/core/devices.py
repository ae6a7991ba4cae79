"""Moving tensors to a GPU without waiting for the copy."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Queue a copy to a device; a tensor that is already there is returned unchanged.

    A copy from memory that is not pinned would wait for all work queued before it.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
