"""Section ``detector``: the network that finds nuclei in whole frames."""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import BelowOne, Count, NonNegative, Rate, Section, Share, Text
from histofuse.params.image import AugmentationParams, Weights

Length = Annotated[float, Field(gt=0, le=1000)]
Reduction = Annotated[int, Field(ge=1, le=16)]


class DetectorParams(Section):
    """How the detector is built, trained and scored."""

    backbone: Text
    weights: Weights
    normalisation: Literal["unit", "imagenet"]
    width: Annotated[int, Field(ge=8, le=1024)]
    reductions: Annotated[list[Reduction], Field(min_length=1)]
    crop_px: Annotated[int, Field(ge=64, le=2048, multiple_of=32)]
    steps: Count
    batch_size: Count
    head_learning_rate: Rate  # of the pyramid, at its highest
    backbone_learning_rate: Share
    weight_decay: NonNegative
    weight_averaging: BelowOne
    class_weight: NonNegative
    sigma_px: Length
    smoothing_px: Annotated[float, Field(ge=0, le=1000)]
    spacing_px: Length
    border_px: Annotated[float, Field(ge=0, le=100)]
    views: Literal[1, 4, 8]
    radius_px: Length
    radius_um: Length
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    augmentation: AugmentationParams  # of crops, as of patches


def find_radius(radius_px: float, radius_um: float, mpp: float | None) -> float:
    """Find the radius of matching in pixels of frames, whose mpp is None if unknown."""
    return radius_px if mpp is None else radius_um / mpp
