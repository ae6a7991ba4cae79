"""Grad-CAM maps of many patches: ours in batches, against captum's LayerGradCam patch by patch.

captum explains the margin as well: it is given a network that returns it.

The limit is the forward pass over the same batches, without any gradient.
Run: python benchmarks/gradcam.py [--short]
"""

import copy

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor

from claims import Claim, best_seconds, main
from histofuse.explain.maps.methods import compute_maps, measure_margins
from histofuse.models.backbones import ImageModel, ImageSpec, build_model
from histofuse.models.stages import MapLayer, MapMethod, choose_gradcam_layer

CLASSES = ["mitosis", "tumour", "non_tumour"]
PATCH_PX, MINIMUM_MAP_PX, BATCH, CHECKED = 64, 7, 64, 100
METHOD = MapMethod("gradcam", blur_px=0.0, masks=0)
LEAST_TIMES, TOLERANCE = 5, 1e-5


def make_model() -> ImageModel:
    torch.manual_seed(0)
    spec = ImageSpec("resnet18", CLASSES, PATCH_PX, PATCH_PX, 0, "imagenet", 0.0)
    return build_model(spec, "none").eval()


def explain(model: ImageModel, images: Tensor, targets: Tensor, layer: MapLayer) -> np.ndarray:
    return compute_maps(model, images, targets, layer=layer, method=METHOD)


def explain_singly(
    model: ImageModel, images: Tensor, targets: Tensor, layer: MapLayer
) -> np.ndarray:
    """Do what captum's guide shows, on one patch after the other."""

    def measure_margin(image: Tensor, target: Tensor) -> Tensor:
        return measure_margins(model(image), target)

    explainer = LayerGradCam(measure_margin, model.get_submodule(layer.name))
    maps = []
    for image, target in zip(images, targets, strict=True):
        found = explainer.attribute(
            image[None], additional_forward_args=target[None], relu_attributions=True
        )
        heat = found.detach()[0, 0]
        maps.append((heat / heat.max() if heat.max() > 0 else heat).numpy())
    return np.stack(maps)


@torch.inference_mode()
def pass_through(model: ImageModel, images: Tensor) -> None:
    for batch in images.split(BATCH):
        model(batch)


def check_same_answer(model: ImageModel, images: Tensor, targets: Tensor, layer: MapLayer) -> float:
    """In float64, for a map of next to nothing is scaled to 1, and its rounding errors with it."""
    precise, images = copy.deepcopy(model).double(), images[:CHECKED].double()
    ours = explain(precise, images, targets[:CHECKED], layer)
    theirs = explain_singly(precise, images, targets[:CHECKED], layer)
    difference = float(np.abs(ours - theirs).max())
    assert difference <= TOLERANCE, f"the maps differ by {difference:.2g}"
    return difference


def measure(short: bool) -> list[Claim]:
    """Explain the same patches in all three ways."""
    count = 200 if short else 1000
    model = make_model()
    layer = choose_gradcam_layer(model, MINIMUM_MAP_PX)
    side, generator = layer.map_px, torch.Generator().manual_seed(1)
    shape = (count, PATCH_PX, PATCH_PX, 3)
    stored = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images, targets = model.prepare(stored), torch.arange(count) % len(CLASSES)
    difference = check_same_answer(model, images, targets, layer)
    ours = best_seconds(lambda: explain(model, images, targets, layer), 2)
    peer = best_seconds(lambda: explain_singly(model, images, targets, layer), 2)
    limit = best_seconds(lambda: pass_through(model, images), 2)
    return [
        Claim(
            number=7,
            work=f"Grad-CAM of {count:,} patches, ResNet-18 at {PATCH_PX} px, {side} px maps",
            ours=f"{count / ours:,.0f} patches/s",
            peer=f"captum, one patch at a time: {count / peer:,.0f} patches/s",
            limit=f"the forward pass alone: {count / limit:,.0f} patches/s",
            ratio=peer / ours,
            bar=f"≥ {LEAST_TIMES} × the peer",
            holds=peer / ours >= LEAST_TIMES,
            note=f"in float64 the maps of {CHECKED} differ by {difference:.1g} at most",
        )
    ]


if __name__ == "__main__":
    main(measure)
