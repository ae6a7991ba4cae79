"""Backbones of torchvision and timm by name, without their classifier.

Either takes seconds to import, so neither is unless a model needs it.
"""

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from histofuse.core.errors import InputError
from histofuse.models.weights import State
from histofuse.params.image import MeanAndSd

# Where torchvision's models keep their classifier.
_HEADS = ("fc", "classifier", "heads", "head")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# Arguments of the builders that would load weights, beside those that are named and pinned.
_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"}
_LOADING |= {"cache_dir", "weights", "weights_backbone"}


@dataclass(frozen=True)
class Backbone:
    """A network that ends in its embedding.

    `dropped` are prefixes of the full network's keys of weights that belong to its classifier;
    `fetch_imagenet` is None where nobody publishes any; `convert` brings weights with other keys or
    of other sides to this network's.
    """

    network: nn.Module
    dropped: tuple[str, ...]
    fetch_imagenet: Callable[[], State] | None
    convert: Callable[[State], State] | None = None


@dataclass(frozen=True)
class InputConfig:
    """What an encoder was trained on: the side of its input, and mean and SD of each channel."""

    side_px: int
    mean: list[float]
    std: list[float]


def build_library_backbone(
    backbone: str, input_px: int, model_kwargs: Mapping[str, Any], own: tuple[str, ...]
) -> Backbone:
    """Build ``torchvision/<name>``, ``timm/<name>``, or a bare name, torchvision's first.

    Raises InputError if no library has it, naming similar ones, or the builder refuses the
    arguments.
    """
    library, name = find_library(backbone, own)
    where = f"params.yaml, backbone {backbone}"
    if loading := sorted(_LOADING & model_kwargs.keys()):
        problem = f"model_kwargs would load weights ({', '.join(loading)})"
        raise InputError.of(where, problem, "those that the key weights names")
    try:
        if library == "torchvision":
            return _build_torchvision(name, model_kwargs)
        return _build_timm(name, input_px, _read_layers(model_kwargs))
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError, LookupError) as e:
        problem = f"cannot be built ({describe_error(e)})"
        expected = f"arguments {library} takes, not model_kwargs {dict(model_kwargs)}"
        raise InputError.of(where, problem, expected) from None


def describe_error(error: Exception) -> str:
    """Say in a line what went wrong; some errors have no text."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def read_input_config(backbone: str, own: tuple[str, ...]) -> InputConfig:
    """Read what the weights of a library's backbone were trained on.

    Raises InputError if no library has it, or it has no weights.
    """
    library, name = find_library(backbone, own)
    if library == "timm":
        import timm

        settings = timm.models.get_pretrained_cfg(name)
        assert settings is not None
        return describe_input(settings.to_dict(), backbone)
    from torchvision import models

    weights = models.get_model_weights(name).__members__.get("DEFAULT")
    if weights is None:
        where, problem = f"params.yaml, backbone {backbone}", "has no weights to take it from"
        raise InputError.of(where, problem, "a number; unit or imagenet")
    given = weights.transforms()
    return InputConfig(given.crop_size[0], given.mean, given.std)


def describe_input(config: Mapping[str, Any], where: str) -> InputConfig:
    """Read a configuration of timm; what it leaves out is timm's default.

    Raises InputError if it is not of square RGB images.
    """
    from timm.models import PretrainedCfg

    size, mean, std = (
        config.get(key, getattr(PretrainedCfg, key)) for key in ("input_size", "mean", "std")
    )
    try:
        scale = MeanAndSd.model_validate({"mean": list(mean), "sd": list(std)})
        _, height, width = size
        if not isinstance(width, int) or height != width:
            raise ValueError
    except (TypeError, ValueError):
        problem = f"its configuration has input_size {size}, mean {mean}, std {std}"
        expected = "square images of three channels; or input_px and normalisation in params"
        raise InputError.of(where, problem, expected) from None
    return InputConfig(width, scale.mean, scale.sd)


def find_library(backbone: str, own: tuple[str, ...]) -> tuple[str, str]:
    """Find the library of a backbone, ``torchvision`` or ``timm``, and its name there.

    Raises InputError if no library has it; names similar ones.
    """
    library, _, name = backbone.rpartition("/")
    from torchvision import models

    known = models.list_models(module=models)
    if library in ("", "torchvision") and name in known:
        return "torchvision", name
    if library in ("", "timm"):
        import timm

        architecture, _, tag = name.partition(".")
        tagged = timm.list_pretrained(f"{architecture}.*") if tag else []
        if timm.is_model(name) and (not tag or name in tagged):
            return "timm", name
        known = tagged or ([] if library else known) + timm.list_models()
    near = difflib.get_close_matches(name, sorted({*known}), n=5)
    near = near or ["resnet18", "resnet34", "resnet50"]
    expected = f"{', '.join(own)}, or a name of torchvision or timm such as {', '.join(near)}"
    remedy = "Others are named hf-hub:<org>/<model>@<commit> or local-dir:<folder>."
    raise InputError.of("params.yaml, backbone", f"is {backbone!r}", expected, remedy)


def _build_torchvision(name: str, model_kwargs: Mapping[str, Any]) -> Backbone:
    from torchvision import models

    # These two would otherwise draw random numbers for a minute, and return tuples.
    slow = name in ("inception_v3", "googlenet")
    options = {"aux_logits": False, "init_weights": False} if slow else {}
    network = models.get_model(name, weights=None, **{**options, **model_kwargs})

    def fetch_imagenet() -> State:
        weights = models.get_model_weights(name)["DEFAULT"]
        return weights.get_state_dict(progress=False, check_hash=True)

    return Backbone(network, (f"{_cut_head(network)}.", *_AUXILIARY), fetch_imagenet)


def _cut_head(network: nn.Module) -> str:
    """Replace the last layer by nothing and return its path."""
    head = next(name for name in _HEADS if hasattr(network, name))
    modules = list(getattr(network, head).named_modules())
    name, last = [(n, m) for n, m in modules if any(True for _ in m.parameters(recurse=False))][-1]
    path = f"{head}.{name}".rstrip(".")
    if isinstance(last, nn.Conv2d):
        setattr(network, head, nn.AdaptiveAvgPool2d(1))
        return path
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return path


def _build_timm(name: str, input_px: int, model_kwargs: Mapping[str, Any]) -> Backbone:
    import timm

    known = timm.models.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": 0}
    # A size that is fixed when the network is built, unless it adapts to each image.
    if known and known.fixed_input_size and not model_kwargs.get("dynamic_img_size"):
        options["img_size"] = input_px
    options |= model_kwargs

    def fetch_imagenet() -> State:
        return timm.create_model(name, pretrained=True, **options).state_dict()

    network = timm.create_model(name, **options)
    classifier = known.classifier if known else None
    names = [classifier] if isinstance(classifier, str) else classifier or []
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    bring = (lambda state: convert(dict(state), network)) if convert else None
    return Backbone(network, tuple(f"{n}." for n in names), fetch_imagenet, bring)


def _read_layers(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Turn names of layers into those of timm, or else of torch, where they have them."""
    from timm import layers

    return {
        key: getattr(layers, value, getattr(nn, value, value))
        if key.endswith("_layer") and isinstance(value, str)
        else value
        for key, value in model_kwargs.items()
    }
