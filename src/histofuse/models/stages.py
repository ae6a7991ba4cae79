"""Stages of a backbone, from shallow to deep: what is unfrozen together, and what is explained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from histofuse.models.backbones import ImageModel

_LEAST_STAGES = 3


@dataclass(frozen=True)
class MapLayer:
    """A layer with square feature maps.

    Attributes:
        name: Dotted name of a module of the `ImageModel`.
        map_px: Side of its maps.
    """

    name: str
    map_px: int


@dataclass(frozen=True)
class Stage:
    """Modules of a backbone that are unfrozen together.

    Attributes:
        name: Dotted name of its last module.
        modules: In the order of computation.
    """

    name: str
    modules: tuple[nn.Module, ...]


def list_stages(backbone: nn.Module) -> list[Stage]:
    """List the stages of a backbone from shallow to deep; together they hold all parameters.

    Children of the backbone are stages, but single layers join up to the next pooling (ResNet's
    stem; VGG's blocks). Where that gives fewer than three, the largest container is opened.
    """
    stages = _group(backbone, "")
    while len(stages) < _LEAST_STAGES:
        openable = [s for s in stages if _is_openable(s)]
        if not openable:
            break
        largest = max(openable, key=lambda s: _count_parameters(s.modules))
        at = stages.index(largest)
        stages[at : at + 1] = _open(largest)
    return stages


def _is_openable(stage: Stage) -> bool:
    return len(stage.modules) == 1 and len(_open(stage)) > 1


def _open(stage: Stage) -> list[Stage]:
    inner = _group(stage.modules[0], f"{stage.name}.")
    # What holds nothing but another container is opened with it.
    if len(inner) == 1 and len(inner[0].modules) == 1:
        return _open(inner[0]) or inner
    return inner


def _group(module: nn.Module, prefix: str) -> list[Stage]:
    stages: list[Stage] = []
    layers: list[tuple[str, nn.Module]] = []

    def close() -> None:
        if _count_parameters(m for _, m in layers):
            stages.append(Stage(prefix + layers[-1][0], tuple(m for _, m in layers)))
            layers.clear()

    for name, child in module.named_children():
        is_container = any(True for _ in child.children())
        if is_container:
            close()
        layers.append((name, child))
        if is_container or "Pool" in type(child).__name__:
            close()
    close()
    return stages


def _count_parameters(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


# --- freezing -----------------------------------------------------------------------------------


def freeze_backbone(model: ImageModel, unfrozen: int) -> None:
    """Train the head and the deepest `unfrozen` stages of the backbone; freeze the others.

    A frozen stage has no gradients, and its batch norms keep their running statistics.
    """
    stages = list_stages(model.backbone)
    first = max(0, len(stages) - unfrozen)
    # What belongs to no stage, such as a class token, is unfrozen last.
    model.backbone.requires_grad_(first == 0)
    model.train()
    for number, stage in enumerate(stages):
        for module in stage.modules:
            module.requires_grad_(number >= first).train(number >= first)


def count_unfrozen(epoch: int, frozen_epochs: int, every_epochs: int) -> int:
    """Count the stages that learn in an epoch (from 0): none, then the deepest, one more at a time.

    Source: paper 3.1 (two epochs of head alone, then from deeper to shallower blocks).
    """
    if epoch < frozen_epochs:
        return 0
    return 1 + (epoch - frozen_epochs) // every_epochs


# --- Grad-CAM -----------------------------------------------------------------------------------


def choose_gradcam_layer(model: ImageModel, minimum_map_px: int) -> MapLayer | None:
    """Choose the deepest stage with a feature map fine enough to locate something.

    At small inputs the last stage is too coarse: ResNet-18 at 64 px ends in 2 x 2.

    Args:
        model: The network; it is in eval mode afterwards.
        minimum_map_px: Minimum side of the map.

    Returns:
        None if no stage gives a map that fine, as in a network without convolutions.
    """
    fine = [layer for layer in measure_maps(model) if layer.map_px >= minimum_map_px]
    return fine[-1] if fine else None


def measure_maps(model: ImageModel) -> list[MapLayer]:
    """Measure the sides of the square feature maps of the stages, from shallow to deep."""
    sides: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            sides[name] = output.shape[3]

    names = [f"backbone.{stage.name}" for stage in list_stages(model.backbone)]
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, n=name: note(n, out))
        for name in names
    ]
    side, device = model.spec.input_px, next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return [MapLayer(name, px) for name, px in sides.items()]
