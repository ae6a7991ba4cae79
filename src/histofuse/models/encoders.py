"""What a section of params names as an encoder, resolved to what a bundle can rebuild offline."""

from dataclasses import dataclass
from typing import Any

from histofuse.core.errors import InputError
from histofuse.features.augment import PixelScale
from histofuse.models.backbones import OWN
from histofuse.models.libraries import InputConfig, describe_input, read_input_config
from histofuse.models.published import PublishedEncoder, find_weights, is_published, read_published
from histofuse.params.image import PINNED, EncoderParams, MeanAndSd


@dataclass(frozen=True)
class Encoder:
    """An encoder without its weights, which are ``none``, ``imagenet`` or the path of a file."""

    backbone: str
    model_kwargs: dict[str, Any]
    input_px: int
    normalisation: PixelScale
    weights: str


def resolve_encoder(params: EncoderParams) -> Encoder:
    """Read the configuration of an encoder, and find its file of weights.

    Raises InputError if there is no such encoder, it is not reachable, or weights or settings do
    not go with it.
    """
    pinned, named = params.weights.startswith(PINNED), is_published(params.backbone)
    if pinned != named and (pinned or params.weights == "imagenet"):
        where, problem = f"params.yaml, backbone {params.backbone}", f"weights: {params.weights}"
        expected = f"none, a file, or {PINNED}<digest> of one of its own files (the hub shows it)"
        if not named:
            expected = "none, imagenet or a file; or the backbone hf-hub:timm/<name>@<commit>"
        raise InputError.of(where, problem, expected)
    published = read_published(params.backbone) if named else None
    config = _read_config(params, published)
    input_px = config.side_px if params.input_px == "encoder" else params.input_px
    return Encoder(
        f"timm/{published.architecture}" if published else params.backbone,
        _merge_kwargs(published, params.model_kwargs, input_px),
        input_px,
        _scale_pixels(params, config),
        str(find_weights(params.backbone, params.weights)) if pinned else params.weights,
    )


def _read_config(params: EncoderParams, published: PublishedEncoder | None) -> InputConfig:
    if "encoder" not in (params.normalisation, params.input_px):
        return InputConfig(0, [], [])
    if published:
        return describe_input(published.config, params.backbone)
    if params.backbone in OWN:
        problem = "has no configuration that input_px and normalisation could be read from"
        where, expected = f"params.yaml, backbone {params.backbone}", "a number; unit or imagenet"
        raise InputError.of(where, problem, expected)
    return read_input_config(params.backbone, tuple(OWN))


def _scale_pixels(params: EncoderParams, config: InputConfig) -> PixelScale:
    given = params.normalisation
    if isinstance(given, MeanAndSd):
        return [given.mean, given.sd]
    return [config.mean, config.std] if given == "encoder" else given


def _merge_kwargs(
    published: PublishedEncoder | None, model_kwargs: dict[str, Any], input_px: int
) -> dict[str, Any]:
    merged = (published.model_kwargs if published else {}) | model_kwargs
    merged.pop("num_classes", None)
    # A network that adapts to each image keeps the side its positions were learnt for.
    if "img_size" in merged and not merged.get("dynamic_img_size"):
        merged["img_size"] = input_px
    return merged
