"""Section ``image.<name>``: one network on patches, fine-tuned or probed.

Source: paper 3.1 and Appendix B.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from histofuse.params.base import (
    BelowOne,
    Count,
    NonNegative,
    Positive,
    Rate,
    Section,
    SectionOf,
    Several,
    Text,
    Whole,
)
from histofuse.params.tune import ClassifierSection

SAFETENSORS = ".safetensors"
PINNED = "sha256:"
FOLDER = "local-dir:"

Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class MeanAndSd(Section):
    """By which pixels between 0 and 1 are normalised: of red, green and blue."""

    mean: Channels
    sd: Annotated[list[Positive], Field(min_length=3, max_length=3)]


Normalisation = Literal["unit", "imagenet", "encoder"] | MeanAndSd
Pooling = Literal["encoder", "class_token", "mean", "class_token_and_mean"]


def _check_weights(weights: str) -> str:
    is_pinned = re.fullmatch(rf"{PINNED}[0-9a-f]{{64}}", weights)
    if weights not in ("none", "imagenet") and not weights.endswith(SAFETENSORS) and not is_pinned:
        expected = f"none, imagenet, {PINNED}<64 hexadecimal digits>"
        raise ValueError(f"{expected}, or the path of a {SAFETENSORS} file")
    return weights


Weights = Annotated[str, AfterValidator(_check_weights)]


class AugmentationParams(Section):
    """Random changes to training patches; a zero turns one off."""

    flips: bool  # mirror left-right and top-bottom, each with chance one half
    # Turn by an angle up to this, either way.
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    # Least and largest side of the random crop, in sides of the patch.
    scale: Annotated[list[Annotated[float, Field(gt=0, le=4)]], Field(min_length=2, max_length=2)]
    brightness: BelowOne  # multiply by a factor within 1 ± this
    contrast: BelowOne  # spread about the mean grey by a factor within 1 ± this
    saturation: BelowOne  # spread about each pixel's grey by a factor within 1 ± this
    # Turn the hue by up to this share of the circle, either way.
    hue: Annotated[float, Field(ge=0, le=0.5)]
    stain_scale: BelowOne
    stain_shift: BelowOne

    @model_validator(mode="after")
    def _check(self) -> "AugmentationParams":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale from the least to the largest, found {self.scale}")
        return self


class EncoderParams(ClassifierSection):
    """What every image network's section holds, whatever its strategy."""

    backbone: Text
    model_kwargs: dict[str, Any]
    weights: Weights
    pooling: Pooling
    input_px: Annotated[int, Field(ge=8, le=1024)] | Literal["encoder"]
    normalisation: Normalisation
    minimum_map_px: Several  # a map of one place locates nothing


class SolvedHeadParams(Section):
    """A linear head, solved to its optimum, on pooled features of a frozen backbone."""

    # Stages of the backbone whose maps are pooled, their mean and maximum each.
    levels: list[Text]
    rotations: Literal[1, 2, 4]  # quarter turns over which features are averaged
    c: Annotated[list[Positive], Field(min_length=1)]
    folds: Several


class ProbeParams(EncoderParams, SolvedHeadParams):
    """A solved head; the backbone stays as it is."""

    strategy: Literal["probe"]


class GradientParams(EncoderParams):
    """Training of a whole network by gradient descent."""

    epochs: Count  # maximum number of epochs
    batch_size: Several
    head_learning_rate: Rate  # of the last layer
    backbone_learning_rate: Rate
    weight_decay: NonNegative
    weight_averaging: BelowOne
    monitor: Literal["loss", "auroc", "macro_f1"]
    frozen_epochs: Whole  # at the start, in which only the last layer learns
    # Epochs from the unfreezing of one stage of the backbone, deepest first, to the next.
    unfreeze_every_epochs: Count
    imbalance: Literal["none", "class_weights", "weighted_sampler", "logit_adjustment"]
    focal_gamma: Annotated[float, Field(ge=0, le=10)]
    schedule: Literal["constant", "step", "cosine"]
    step_epochs: Count  # epochs after which the step schedule multiplies the rates by `step_factor`
    step_factor: Rate
    patience: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    augmentation: AugmentationParams


class FinetuneParams(GradientParams):
    """Gradient descent from a new last layer."""

    strategy: Literal["finetune"]
    dropout: BelowOne


class LpFtParams(GradientParams, SolvedHeadParams):
    """Gradient descent from a solved head (linear probing, then fine-tuning).

    Source: Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022.
    """

    strategy: Literal["lp_ft"]


AnyImageParams = FinetuneParams | ProbeParams | LpFtParams


class ImageParams(SectionOf[Annotated[AnyImageParams, Field(discriminator="strategy")]]):
    """The section of one image network, whatever its strategy."""


class AllImageParams(
    SectionOf[dict[str, Annotated[AnyImageParams, Field(discriminator="strategy")]]]
):
    """Section ``image``: all networks by name."""


EncoderParamsT = TypeVar("EncoderParamsT", bound=EncoderParams)


def resolve_paths(params: EncoderParamsT) -> EncoderParamsT:
    """Make the paths in a section absolute, for a process that changes its directory."""
    changes = {}
    if params.weights.endswith(SAFETENSORS):
        changes["weights"] = str(Path(params.weights).resolve())
    if params.backbone.startswith(FOLDER):
        folder = Path(params.backbone.removeprefix(FOLDER)).resolve()
        changes["backbone"] = f"{FOLDER}{folder}"
    return params.model_copy(update=changes)
