"""Maps of what decides: where evidence lies for a class over the most likely other one.

What is explained is the margin, the logit of the class less the highest other logit: evidence that
all classes share decides nothing.

- **Grad-CAM**: activations, each channel weighed by its mean gradient.
- **HiResCAM**: activations times gradients, place by place.
- **LayerCAM**: the same, of positive gradients alone.
- **Score-CAM**: without gradients. The channels that vary most are masks; the patch is shown
  through each, blurred elsewhere. A place counts by the covariance, over the masks, of how much of
  it is shown and the margin: RISE's estimate, centred. (Score-CAM itself blackens the rest and
  weighs by a softmax, which is positive whatever the mask does.)

Sources: Selvaraju et al., Grad-CAM, ICCV 2017 (paper 3.1); Draelos and Carin, HiResCAM,
arXiv:2011.08891; Jiang et al., LayerCAM, IEEE TIP 2021; Wang et al., Score-CAM, CVPR Workshops
2020; Petsiuk et al., RISE, BMVC 2018.
"""

from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import interpolate

from histofuse.models.backbones import list_turns
from histofuse.models.stages import MapLayer, MapMethod, recording_outputs
from histofuse.training.fitting.cpu import multiplying_small_maps

_BATCH: Final = 64
_ROUNDING: Final = 1e-4
Images = Float[Tensor, "n 3 side side"]
Targets = Int[Tensor, " n"]


def compute_maps(
    network: nn.Module,
    images: Images,
    targets: Targets,
    others: tuple[Tensor, ...] = (),
    *,
    layer: MapLayer,
    method: MapMethod,
) -> Float32[np.ndarray, "n height width"]:
    """Compute a map for each image: where evidence lies for its class over the others.

    `network` is in eval mode; `others` are further inputs of it, one row for each image. Returns
    maps at the layer's own size, each scaled to a maximum of 1; all zero where nothing supports the
    class.
    """
    explain = _explain_by_masks if method.name == "scorecam" else _explain_by_gradients
    device, parts = next(network.parameters(), images).device, []
    for batch, classes, *rest in zip(
        *(part.split(_BATCH) for part in (images, targets, *others)), strict=True
    ):
        with multiplying_small_maps(network):
            inputs = (part.to(device) for part in (batch.detach(), classes, *rest))
            maps = explain(network, layer, method, *inputs)
        parts.append(maps.float().cpu().relu_())
    joined = torch.cat(parts)
    highest = joined.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, joined / highest.clamp(min=1e-30), 0.0).numpy()


def measure_margins(logits: Float[Tensor, "n classes"], targets: Targets) -> Float[Tensor, " n"]:
    """Measure by how much the logit of a class exceeds the highest of the others."""
    own = logits.gather(1, targets[:, None])[:, 0]
    return own - logits.scatter(1, targets[:, None], -torch.inf).amax(1)


def _explain_by_gradients(
    network: nn.Module,
    layer: MapLayer,
    method: MapMethod,
    images: Images,
    targets: Targets,
    *others: Tensor,
) -> Float[Tensor, "n height width"]:
    # With frozen weights, gradients exist only if the images require them.
    with torch.enable_grad(), recording_outputs(network, [layer.name]) as outputs:
        margins = measure_margins(network(images.requires_grad_(), *others), targets)
    output = outputs[layer.name]
    (gradient,) = torch.autograd.grad(margins.sum(), output)
    activations, gradients = layer.arrange(output.detach()), layer.arrange(gradient)
    if method.name == "gradcam":
        gradients = gradients.mean((2, 3), keepdim=True)
    elif method.name == "layercam":
        gradients = gradients.relu()
    products = activations * gradients
    maps = products.sum(1)
    # Before a layer norm a channel's products cancel out: what rounding leaves is no evidence.
    maps = maps.where(maps.abs() > _ROUNDING * products.abs().sum(1), 0.0)
    return _join_turns(maps, len(images))


@torch.no_grad()
def _explain_by_masks(
    network: nn.Module,
    layer: MapLayer,
    method: MapMethod,
    images: Images,
    targets: Targets,
    *others: Tensor,
) -> Float[Tensor, "n height width"]:
    with recording_outputs(network, [layer.name]) as outputs:
        network(images, *others)
    masks = _make_masks(_join_turns(layer.arrange(outputs[layer.name]), len(images)), method.masks)
    blurred = blur(images, method.blur_px)
    margins = [
        measure_margins(network(blurred + mask * (images - blurred), *others), targets)
        for mask in interpolate(masks, images.shape[2:], mode="bilinear").split(1, dim=1)
    ]
    weights = torch.stack(margins, 1)
    weights = weights - weights.mean(1, keepdim=True)
    return (masks * weights[:, :, None, None]).mean(1)


def _make_masks(
    activations: Float[Tensor, "n channels height width"], most: int
) -> Float[Tensor, "n masks height width"]:
    """Scale the channels that vary most to between 0 and 1; a constant one is 0."""
    chosen = activations.var((2, 3)).topk(min(most, activations.shape[1]), dim=1).indices
    masks = activations.gather(1, chosen[:, :, None, None].expand(-1, -1, *activations.shape[2:]))
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    return torch.where(high > low, (masks - low) / (high - low).clamp(min=1e-30), 0.0)


def blur(images: Images, sigma_px: float) -> Images:
    """Blur with a Gaussian, mirrored at the edges."""
    pixels = images.detach().cpu().numpy()
    blurred = gaussian_filter(pixels, sigma_px, mode="mirror", truncate=3.0, axes=(2, 3))
    return torch.from_numpy(blurred).to(images.device)


def _join_turns(
    maps: Float[Tensor, "turns_n *channels height width"], n: int
) -> Float[Tensor, "n *channels height width"]:
    """Turn the maps of a network that looks at rotated images back, and average them."""
    rotations = len(maps) // max(n, 1) or 1
    turned = maps.unflatten(0, (rotations, n))
    turns = zip(turned, list_turns(rotations), strict=True)
    return torch.stack([m.rot90(-turn, (-2, -1)) for m, turn in turns]).mean(0)


def enlarge(
    maps: Float32[np.ndarray, "*n height width"], side_px: int
) -> Float32[np.ndarray, "*n side side"]:
    """Enlarge one map, or several, to the side of a patch, bilinearly."""
    stack = torch.from_numpy(maps).reshape(-1, 1, *maps.shape[-2:])
    large = interpolate(stack, (side_px, side_px), mode="bilinear", align_corners=False)
    return large.reshape(*maps.shape[:-2], side_px, side_px).numpy()
