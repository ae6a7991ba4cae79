"""Section ``detector``: the network that finds nuclei in whole frames."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Count, Section
from histofuse.params.image import AugmentationParams, Rate, Strength, Weights

Length = Annotated[float, Field(gt=0, le=1000)]


class DetectorParams(Section):
    """How the detector is built, trained and scored.

    Attributes:
        backbone: A convolutional network of torchvision or timm, or ``simple_cnn``.
        weights: What it starts from, as of image models.
        normalisation: Of pixels, as of image models.
        width: Channels of the feature pyramid.
        reduction: Pixels of a frame, along a side, that become one of the network's.
        crop_px: Side of a training crop, in the network's pixels; a multiple of 32.
        steps: Of training, each a batch of crops.
        head_learning_rate: Of the pyramid, at its highest.
        backbone_learning_rate: Of the backbone; 0 keeps it as it is.
        weight_averaging: Decay per step of the average of weights that is kept; 0 averages nothing.
        class_weight: Of the classes of nuclei in the loss, against finding them.
        sigma_px: SD of the Gaussian around each dot that the network learns.
        smoothing_px: SD of the Gaussian that smooths its map; 0 smooths nothing.
        spacing_px: Least distance of two nuclei.
        views: Turned, and at 8 mirrored, images whose maps are averaged.
        radius_px: Greatest distance of a found nucleus from its dot where the resolution of frames
            is unknown.
        radius_um: The same where it is known.
        precision: Of the arithmetic in training, as of image models.
        augmentation: Of crops, as of patches.
    """

    backbone: Annotated[str, Field(min_length=1)]
    weights: Weights
    normalisation: Literal["unit", "imagenet"]
    width: Annotated[int, Field(ge=8, le=1024)]
    reduction: Annotated[int, Field(ge=1, le=16)]
    crop_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)]
    steps: Count
    batch_size: Count
    head_learning_rate: Rate
    backbone_learning_rate: Annotated[float, Field(ge=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    weight_averaging: Strength
    class_weight: Annotated[float, Field(ge=0)]
    sigma_px: Length
    smoothing_px: Annotated[float, Field(ge=0, le=1000)]
    spacing_px: Length
    views: Literal[1, 4, 8]
    radius_px: Length
    radius_um: Length
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    augmentation: AugmentationParams

    def find_radius(self, mpp: float | None) -> float:
        """Find the radius of matching in pixels of frames, whose mpp is None if unknown."""
        return self.radius_px if mpp is None else self.radius_um / mpp
