"""Grad-CAM maps of image networks.

At small inputs the last convolutional block is too coarse to locate anything (ResNet-18 at 64 px
ends in 2 x 2), so the deepest block whose map is still fine enough is explained.

Source: paper 3.1; Selvaraju et al., Grad-CAM, ICCV 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from histofuse.core.errors import Fault, InputError
from histofuse.models.backbones import ImageModel
from histofuse.models.stages import list_stages
from histofuse.training.fitting.cpu.small_maps import multiplying_small_maps

_BATCH = 64


def choose_layer(model: ImageModel, input_px: int, minimum_map_px: int) -> tuple[str, int]:
    """Choose the deepest block of the backbone whose map is fine enough to locate something.

    Args:
        model: The network.
        input_px: Side of its input.
        minimum_map_px: Least side of the map.

    Returns:
        The dotted name of a module of the model, and the side of its map.

    Raises:
        InputError: If no block gives a map that fine, as in a network without convolutions.
    """
    sides = _measure_maps(model, input_px)
    fine = [(name, side) for name, side in sides.items() if side >= minimum_map_px]
    if not fine:
        found = ", ".join(f"{name} {side} px" for name, side in sides.items()) or "no maps"
        fault = Fault(
            f"Grad-CAM of {model.spec.backbone} at {input_px} px",
            f"its blocks give {found}",
            f"one of at least {minimum_map_px} x {minimum_map_px}",
            "Lower explain.minimum_map_px or take a larger input_px.",
        )
        raise InputError([fault])
    return fine[-1]


def _measure_maps(model: ImageModel, input_px: int) -> dict[str, int]:
    """Measure the sides of the square maps that blocks give, from shallow to deep."""
    sides: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            sides[name] = output.shape[3]

    names = [f"backbone.{stage.name}" for stage in list_stages(model.backbone)]
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, n=name: note(n, out))
        for name in names
    ]
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, input_px, input_px, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return sides


def compute_gradcam(
    model: ImageModel,
    images: Float[Tensor, "n 3 side side"],
    target_classes: Int[Tensor, " n"],
    layer: str,
) -> Float32[np.ndarray, "n height width"]:
    """Compute a map for each image: where evidence for the target class lies.

    Args:
        model: The network.
        images: Prepared, as `ImageModel.prepare` gives them.
        target_classes: The class each map explains.
        layer: Dotted name of a module, from `choose_layer`.

    Returns:
        Maps of the layer's own size, each scaled to a maximum of 1; all zero where nothing speaks
        for the class.
    """
    model.eval()
    return compute_maps(model, model.get_submodule(layer), images, target_classes)


def compute_maps(
    network: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "n 3 side side"],
    target_classes: Int[Tensor, " n"],
    beside: tuple[Tensor, ...] = (),
) -> Float32[np.ndarray, "n height width"]:
    """Compute maps of any network that takes images, as `compute_gradcam` does.

    Args:
        network: In eval mode; called with a batch of images, and of what stands beside them.
        layer: A module of it.
        images: As the network takes them.
        target_classes: The class each map explains.
        beside: Further inputs, a row an image.
    """
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(network, layer)
    parts: list[Tensor] = []
    for batch, targets, *others in zip(
        *(part.split(_BATCH) for part in (images, target_classes, *beside)), strict=True
    ):
        with torch.enable_grad(), multiplying_small_maps(network):
            # Maps of frozen weights need a gradient to flow from the image on.
            found = explainer.attribute(
                batch.detach().requires_grad_(),
                target=targets,
                additional_forward_args=tuple(others) or None,
                relu_attributions=True,
            )
        assert isinstance(found, Tensor)
        parts.append(found.detach().float().cpu()[:, 0])
    maps = torch.cat(parts)
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=1e-30), 0.0).numpy()


def share_empty(maps: Float32[np.ndarray, "n height width"]) -> float:
    """Compute the share of maps that are zero everywhere."""
    return float((maps.reshape(len(maps), -1).max(axis=1) == 0).mean()) if len(maps) else 0.0


def enlarge(
    heat: Float32[np.ndarray, "height width"], side_px: int
) -> Float32[np.ndarray, "side side"]:
    """Enlarge a map to the side of its patch, bilinearly."""
    stack = torch.from_numpy(heat)[None, None]
    size = (side_px, side_px)
    enlarged = torch.nn.functional.interpolate(stack, size, mode="bilinear", align_corners=False)
    return enlarged[0, 0].numpy()
