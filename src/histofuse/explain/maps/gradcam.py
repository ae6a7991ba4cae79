"""Grad-CAM maps of networks that take images.

Source: paper 3.1; Selvaraju et al., Grad-CAM, ICCV 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from histofuse.models.backbones import list_turns
from histofuse.training.fitting.cpu import multiplying_small_maps

_BATCH = 64


def compute_maps(
    network: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "n 3 side side"],
    target_classes: Int[Tensor, " n"],
    others: tuple[Tensor, ...] = (),
) -> Float32[np.ndarray, "n height width"]:
    """Compute a map for each image: where evidence for the target class lies.

    Args:
        network: In eval mode; called with a batch of images and of the other inputs.
        layer: A module of the network.
        images: As the network takes them, such as from `ImageModel.prepare`.
        target_classes: The class that each map explains.
        others: Further inputs of the network, one row for each image.

    Returns:
        Maps at the layer's own size, each scaled to a maximum of 1; all zero where nothing supports
        the class.
    """
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(network, layer)
    parts: list[Tensor] = []
    for batch, targets, *rest in zip(
        *(part.split(_BATCH) for part in (images, target_classes, *others)), strict=True
    ):
        with torch.enable_grad(), multiplying_small_maps(network):
            # With frozen weights, gradients exist only if the images require them.
            maps = explainer.attribute(
                batch.detach().requires_grad_(),
                target=targets,
                additional_forward_args=tuple(rest) or None,
            )
        assert isinstance(maps, Tensor)
        parts.append(_join_turns(maps.detach().float().cpu()[:, 0], len(batch)).relu_())
    joined = torch.cat(parts)
    highest = joined.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, joined / highest.clamp(min=1e-30), 0.0).numpy()


def _join_turns(
    maps: Float[Tensor, "turns_n height width"], n: int
) -> Float[Tensor, "n height width"]:
    """Turn the maps of a network that looks at rotated images back, and average them."""
    rotations = len(maps) // max(n, 1) or 1
    turned = maps.unflatten(0, (rotations, n))
    return torch.stack(
        [m.rot90(-turn, (1, 2)) for m, turn in zip(turned, list_turns(rotations), strict=True)]
    ).mean(0)


def enlarge(
    maps: Float32[np.ndarray, "*n height width"], side_px: int
) -> Float32[np.ndarray, "*n side side"]:
    """Enlarge one map, or several, to the side of a patch, bilinearly."""
    stack = torch.from_numpy(maps).reshape(-1, 1, *maps.shape[-2:])
    large = interpolate(stack, (side_px, side_px), mode="bilinear", align_corners=False)
    return large.reshape(*maps.shape[:-2], side_px, side_px).numpy()
