"""Section ``image.<name>``: one network on patches, fine-tuned or probed.

Source: paper 3.1 and Appendix B.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from histofuse.params.base import Count, Section, SectionOf
from histofuse.params.tune import ClassifierSection

SAFETENSORS = ".safetensors"
PINNED = "sha256:"
FOLDER = "local-dir:"

Rate = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class MeanAndSd(Section):
    """By which pixels between 0 and 1 are normalised: of red, green and blue."""

    mean: Channels
    sd: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


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
    """Random changes to training patches; a zero turns one off.

    Attributes:
        flips: Mirror left-right and top-bottom, each with chance one half.
        rotation_degrees: Turn by an angle up to this, either way.
        scale: Least and largest side of the random crop, in sides of the patch. A smaller crop is
            moved about within the patch; a larger one takes its context from the margin.
        brightness: Multiply by a factor within 1 ± this.
        contrast: Spread about the mean grey by a factor within 1 ± this.
        saturation: Spread about each pixel's grey by a factor within 1 ± this.
        hue: Turn the hue by up to this share of the circle, either way.
        stain_scale: Multiply the amounts of haematoxylin, eosin and what is neither by factors
            within 1 ± this, each its own.
        stain_shift: Add up to this to each amount, either way, in units of optical density.
    """

    flips: bool
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[list[Annotated[float, Field(gt=0, le=4)]], Field(min_length=2, max_length=2)]
    brightness: Strength
    contrast: Strength
    saturation: Strength
    hue: Annotated[float, Field(ge=0, le=0.5)]
    stain_scale: Strength
    stain_shift: Strength

    @model_validator(mode="after")
    def _check(self) -> AugmentationParams:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale from the least to the largest, found {self.scale}")
        return self


class EncoderParams(ClassifierSection):
    """What every image network's section holds, whatever its strategy.

    Attributes:
        backbone: ``simple_cnn``; a name of torchvision or, if it has none, of timm;
            ``torchvision/<name>``, ``timm/<name>``; ``hf-hub:<org>/<model>@<commit>`` of the
            Hugging Face hub or ``local-dir:<folder>``, both laid out as timm does.
        model_kwargs: What the library's builder of the network is given besides, such as
            ``init_values``; values of keys that end in ``_layer`` are names of layers.
        weights: What the backbone starts from: ``none`` (random), ``imagenet`` (downloaded), the
            path of a safetensors file with the library's key names, or ``sha256:<digest>``, the
            file with this digest in the repository or folder of the backbone.
        pooling: What a vision transformer's embedding is: the library's own (``encoder``), the
            class token, the mean of the other tokens, or both.
        input_px: Side of what the network takes, or ``encoder`` for the one in its own
            configuration; patches of another side are resized (bicubic).
        normalisation: ``unit`` is 0 to 1; ``imagenet`` then takes off its mean, divides by its SD;
            ``encoder`` takes mean and SD from the encoder's own configuration, or they are given.
        minimum_map_px: Minimum side of a feature map that is explained; the deepest layer with such
            maps is chosen, and a network without one is refused. At 64 px the last block of a
            ResNet has 2 x 2.
    """

    backbone: Annotated[str, Field(min_length=1)]
    model_kwargs: dict[str, Any]
    weights: Weights
    pooling: Pooling
    input_px: Annotated[int, Field(ge=8, le=1024)] | Literal["encoder"]
    normalisation: Normalisation
    minimum_map_px: Count


class SolvedHeadParams(Section):
    """A linear head, solved to its optimum, on pooled features of a frozen backbone.

    Attributes:
        levels: Stages of the backbone whose maps are pooled, their mean and maximum each; none: the
            backbone's own embedding, or what `pooling` says.
        rotations: Quarter turns over which features are averaged; 1 is the patch as it is.
        c: Inverse strengths of the L2 penalty to choose from.
        folds: Of the cross-validation of the training rows that chooses.
    """

    levels: list[Annotated[str, Field(min_length=1)]]
    rotations: Literal[1, 2, 4]
    c: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    folds: Annotated[int, Field(ge=2)]


class ProbeParams(EncoderParams, SolvedHeadParams):
    """A solved head; the backbone stays as it is."""

    strategy: Literal["probe"]


class GradientParams(EncoderParams):
    """Training of a whole network by gradient descent.

    Attributes:
        head_learning_rate: Of the last layer.
        backbone_learning_rate: Of all else.
        frozen_epochs: Epochs at the start in which only the last layer learns.
        unfreeze_every_epochs: Epochs from the unfreezing of one stage of the backbone, deepest
            first, to the next.
        epochs: Maximum number of epochs.
        step_epochs: Epochs after which the ``step`` schedule multiplies the rates by `step_factor`.
        weight_averaging: Decay, per step, of the moving average of the weights. Validation chooses
            an epoch of the average, and the model gets it; 0 averages nothing.
        monitor: Validation metric that chooses the epoch. The loss moves least from epoch to epoch;
            macro-F1 of few mitoses jumps.
        imbalance: ``class_weights`` in the loss, or a ``weighted_sampler``, inverse frequency both;
            or ``logit_adjustment``, which adds the log frequencies to the logits in the loss.
        focal_gamma: Exponent by which the loss of rows that are already right is reduced; 0 is the
            cross-entropy.
        patience: Epochs without a better `monitor` after which training stops.
        precision: Of the arithmetic in training; ``auto`` is bf16 where the machine computes in it.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    head_learning_rate: Rate
    backbone_learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    weight_averaging: Strength
    monitor: Literal["loss", "auroc", "macro_f1"]
    frozen_epochs: Annotated[int, Field(ge=0)]
    unfreeze_every_epochs: Count
    imbalance: Literal["none", "class_weights", "weighted_sampler", "logit_adjustment"]
    focal_gamma: Annotated[float, Field(ge=0, le=10)]
    schedule: Literal["constant", "step", "cosine"]
    step_epochs: Count
    step_factor: Rate
    patience: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    augmentation: AugmentationParams


class FinetuneParams(GradientParams):
    """Gradient descent from a new last layer.

    Attributes:
        dropout: Before the last layer.
    """

    strategy: Literal["finetune"]
    dropout: Strength


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
