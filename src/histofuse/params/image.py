"""Section ``image.<name>``: one network on patches, fine-tuned or probed.

Source: paper 3.1 and Appendix B.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from histofuse.params.base import Count, Section, SectionOf
from histofuse.params.tune import ClassifierSection

SAFETENSORS = ".safetensors"

Rate = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, lt=1)]
Normalisation = Literal["unit", "imagenet"]


def _check_weights(weights: str) -> str:
    if weights not in ("none", "imagenet") and not weights.endswith(SAFETENSORS):
        raise ValueError(f"none, imagenet, or the path of a {SAFETENSORS} file")
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
    """

    flips: bool
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    scale: Annotated[list[Annotated[float, Field(gt=0, le=4)]], Field(min_length=2, max_length=2)]
    brightness: Strength
    contrast: Strength
    saturation: Strength
    hue: Annotated[float, Field(ge=0, le=0.5)]

    @model_validator(mode="after")
    def _check(self) -> AugmentationParams:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale from the least to the largest, found {self.scale}")
        return self


class EncoderParams(ClassifierSection):
    """What every image network's section holds, whatever its strategy.

    Attributes:
        backbone: ``simple_cnn``; a name of torchvision or, if it has none, of timm; or
            ``torchvision/<name>``, ``timm/<name>``.
        weights: What the backbone starts from: ``none`` (random), ``imagenet`` (downloaded), or the
            path of a safetensors file with the library's key names.
        input_px: Side of what the network takes; patches of another side are resized (bicubic).
        normalisation: ``unit`` is 0 to 1; ``imagenet`` then takes off its mean, divides by its SD.
        minimum_map_px: Minimum side of a feature map that Grad-CAM explains; the deepest layer with
            such maps is chosen. At 64 px the last block of a ResNet has 2 x 2.
    """

    backbone: Annotated[str, Field(min_length=1)]
    weights: Weights
    input_px: Annotated[int, Field(ge=8, le=1024)]
    normalisation: Normalisation
    minimum_map_px: Count


class ProbeParams(EncoderParams):
    """A linear head, solved to its optimum, on pooled features of a frozen backbone.

    Attributes:
        levels: Stages of the backbone whose maps are pooled, their mean and maximum each.
        rotations: Quarter turns over which features are averaged; 1 is the patch as it is.
        c: Inverse strengths of the L2 penalty to choose from.
        folds: Of the cross-validation of the training rows that chooses.
    """

    strategy: Literal["probe"]
    levels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    rotations: Literal[1, 2, 4]
    c: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    folds: Annotated[int, Field(ge=2)]


class FinetuneParams(EncoderParams):
    """Training of a whole network by gradient descent.

    Attributes:
        head_learning_rate: Of the new last layer.
        backbone_learning_rate: Of all else.
        dropout: Before the last layer.
        frozen_epochs: Epochs at the start in which only the last layer learns.
        unfreeze_every_epochs: Epochs from the unfreezing of one stage of the backbone, deepest
            first, to the next.
        epochs: Maximum number of epochs.
        step_epochs: Epochs after which the ``step`` schedule multiplies the rates by `step_factor`.
        weight_averaging: Decay, per step, of the moving average of the weights. Validation chooses
            an epoch of the average, and the model gets it; 0 averages nothing.
        monitor: Validation metric that chooses the epoch. The loss moves least from epoch to epoch;
            macro-F1 of few mitoses jumps.
        imbalance: ``class_weights`` in the loss, or a ``weighted_sampler``; inverse frequency both.
        patience: Epochs without a better `monitor` after which training stops.
        precision: Of the arithmetic in training; ``auto`` is bf16 where the machine computes in it.
    """

    strategy: Literal["finetune"]
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    head_learning_rate: Rate
    backbone_learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Strength
    weight_averaging: Strength
    monitor: Literal["loss", "auroc", "macro_f1"]
    frozen_epochs: Annotated[int, Field(ge=0)]
    unfreeze_every_epochs: Count
    imbalance: Literal["none", "class_weights", "weighted_sampler"]
    schedule: Literal["constant", "step", "cosine"]
    step_epochs: Count
    step_factor: Rate
    patience: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    augmentation: AugmentationParams


AnyImageParams = FinetuneParams | ProbeParams


class ImageParams(SectionOf[Annotated[AnyImageParams, Field(discriminator="strategy")]]):
    """The section of one image network, whatever its strategy."""


class AllImageParams(
    SectionOf[dict[str, Annotated[AnyImageParams, Field(discriminator="strategy")]]]
):
    """Section ``image``: all networks by name."""
