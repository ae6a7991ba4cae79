"""Backbones of torchvision and timm by name, without their classifier.

Both libraries take seconds to import, so neither is unless a model needs it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from histofuse.core.errors import Fault, InputError
from histofuse.models.weights import State

# Where torchvision's models keep their classifier.
_HEADS = ("fc", "classifier", "heads", "head")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True)
class Backbone:
    """A network that ends in its embedding.

    Attributes:
        network: Images -> (batch, width).
        dropped: Prefixes of keys of the full network's weights that belong to its classifier.
        fetch_imagenet: Downloads ImageNet weights; None where nobody publishes any.
    """

    network: nn.Module
    dropped: tuple[str, ...]
    fetch_imagenet: Callable[[], State] | None


def build_library_backbone(backbone: str, input_px: int, own: tuple[str, ...]) -> Backbone:
    """Build ``torchvision/<name>``, ``timm/<name>``, or a bare name, torchvision's first.

    Args:
        backbone: As in params.
        input_px: Side of its input.
        own: Names of the project's own backbones, for the message.

    Raises:
        InputError: If no library has it; names similar ones.
    """
    library, name = find_library(backbone, own)
    return _build_torchvision(name) if library == "torchvision" else _build_timm(name, input_px)


def find_library(backbone: str, own: tuple[str, ...]) -> tuple[str, str]:
    """Find the library of a backbone, ``torchvision`` or ``timm``, and its name there.

    Raises:
        InputError: If no library has it; names similar ones.
    """
    library, _, name = backbone.rpartition("/")
    from torchvision import models

    known = models.list_models(module=models)
    if library in ("", "torchvision") and name in known:
        return "torchvision", name
    if library in ("", "timm"):
        import timm

        if timm.is_model(name):
            return "timm", name
        known = [*known, *timm.list_models()] if not library else timm.list_models()
    near = difflib.get_close_matches(name, known, n=5) or ["resnet18", "resnet34", "resnet50"]
    expected = f"{', '.join(own)}, or a name of torchvision or timm such as {', '.join(near)}"
    raise InputError([Fault("params.yaml, backbone", f"is {backbone!r}", expected)])


def _build_torchvision(name: str) -> Backbone:
    from torchvision import models

    # These two would otherwise draw random numbers for a minute, and return tuples.
    options = {"aux_logits": False, "init_weights": False}
    network = models.get_model(
        name, weights=None, **(options if name in ("inception_v3", "googlenet") else {})
    )

    def fetch_imagenet() -> State:
        weights = models.get_model_weights(name)["DEFAULT"]
        return weights.get_state_dict(progress=False, check_hash=True)

    return Backbone(network, (f"{_cut_head(network)}.", *_AUXILIARY), fetch_imagenet)


def _cut_head(network: nn.Module) -> str:
    """Replace the last layer, so that the network ends in its embedding; return the layer's path.

    Of a head of several layers those before the last stay. SqueezeNet classifies by a convolution
    and then pools: its embedding is the mean over the positions of its last features.
    """
    head = next(name for name in _HEADS if hasattr(network, name))
    layers = [
        (n, m)
        for n, m in getattr(network, head).named_modules()
        if next(m.parameters(recurse=False), None) is not None
    ]
    name, last = layers[-1]
    path = f"{head}.{name}".rstrip(".")
    if isinstance(last, nn.Conv2d):
        setattr(network, head, nn.AdaptiveAvgPool2d(1))
        return path
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return path


def _build_timm(name: str, input_px: int) -> Backbone:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": 0}
    if known and known.fixed_input_size:
        options["img_size"] = input_px

    def fetch_imagenet() -> State:
        return timm.create_model(name, pretrained=True, **options).state_dict()

    return Backbone(timm.create_model(name, **options), (), fetch_imagenet)
