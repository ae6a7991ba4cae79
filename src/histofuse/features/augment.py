"""Stored uint8 patches -> what a network takes, with random changes to a whole batch at once.

A stored patch is ``patch_px`` wide and has ``margin_px`` of context on each side. All geometry is
one resampling of the stored window, all colour jitter one matrix product. Where the geometry
reaches beyond the margin, the window is mirrored: there are no black corners.

Source: paper 3.1 (flips, rotations, random-resized crops, colour jitter; pixels between 0 and 1;
bicubic resizing; ImageNet mean and standard deviation).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from histofuse.core.devices import send
from histofuse.features.stain import REFERENCE
from histofuse.params.image import AugmentationParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# How pixels between 0 and 1 are normalised: not, as ImageNet's, or by mean and SD of the channels.
PixelScale = Literal["unit", "imagenet"] | list[list[float]]

# ITU-R 601 luma, and RGB -> YIQ: a turn of the IQ plane turns the hue and keeps greys grey.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = (_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))

Stored = UInt8[Tensor, "batch stored stored 3"]
# Random numbers a patch takes.
DRAWN = 16
Drawn = Float[Tensor, "batch 16"]

Cut = UInt8[Tensor, "batch cut cut 3"]
Images = Float[Tensor, "batch 3 side side"]
AnyImages = Float[Tensor, "batch 3 rows columns"]
Warped = Float[Tensor, "batch 3 patch patch"]


@dataclass(frozen=True)
class PatchGeometry:
    """Sides, in px."""

    patch_px: int  # the part of a stored patch that the network sees
    margin_px: int  # context around it, on each side
    input_px: int  # what the network takes


@dataclass(frozen=True)
class Warp:
    """A geometric change for each patch of a batch."""

    mirror: Tensor  # (batch, 2) True where x, y are mirrored
    angle: Tensor  # (batch,) turn in radians, counter-clockwise as seen
    scale: Tensor  # (batch,) side of the crop in sides of the patch
    shift: Tensor  # (batch, 2) centre of the crop, x and y, in sides of the patch


@dataclass(frozen=True)
class Jitter:
    """A change of colour for each patch of a batch, each (batch,)."""

    brightness: Tensor  # factor
    contrast: Tensor  # factor about the mean grey
    saturation: Tensor  # factor about each pixel's grey
    hue: Tensor  # turn, as a share of the circle


@dataclass(frozen=True)
class Staining:
    """A change of the stains of each patch: haematoxylin, eosin, and what is neither."""

    scale: Tensor  # (batch, 3) factor on each amount
    shift: Tensor  # (batch, 3) what is added to it


def prepare_patches(stored: Stored, geometry: PatchGeometry, normalisation: PixelScale) -> Images:
    """Crop the margin off, resize and normalise; nothing random. Channels are last in memory."""
    centre = resize(crop_centre(stored, geometry), geometry.input_px)
    return normalise(to_float(centre), normalisation)


def augment_patches(
    stored: Stored,
    geometry: PatchGeometry,
    normalisation: PixelScale,
    params: AugmentationParams,
    drawn: Drawn,
) -> Images:
    """Do as `prepare_patches`, with random geometry and colour for each patch.

    `drawn` are numbers between 0 and 1, on the CPU; as many whatever is turned on.
    """
    warp, staining, jitter = choose_changes(drawn, params)
    if params.rotation_degrees == 0 and params.scale == [1.0, 1.0]:
        images = mirror(to_float(crop_centre(stored, geometry)), warp.mirror)
    else:
        images = apply_warp(to_float(stored), geometry, warp)
    if params.stain_scale or params.stain_shift:
        images = apply_staining(images, staining)
    if any((params.brightness, params.contrast, params.saturation, params.hue)):
        images = apply_jitter(images, jitter)
    if geometry.input_px != geometry.patch_px:
        images = to_float(resize(to_stored(images), geometry.input_px))
    return normalise(images, normalisation)


def choose_changes(unit: Drawn, params: AugmentationParams) -> tuple[Warp, Staining, Jitter]:
    """Turn random numbers into geometry, stains and colour for a batch."""
    signed = 2 * unit - 1
    lowest, highest = params.scale
    scale = lowest + (highest - lowest) * unit[:, 3]
    # A crop smaller than the patch stays within it.
    room = (1 - scale).clamp(min=0) / 2
    warp = Warp(
        mirror=(unit[:, :2] < 0.5) & params.flips,
        angle=signed[:, 2] * math.radians(params.rotation_degrees),
        scale=scale,
        shift=signed[:, 4:6] * room[:, None],
    )
    jitter = Jitter(
        brightness=1 + signed[:, 6] * params.brightness,
        contrast=1 + signed[:, 7] * params.contrast,
        saturation=1 + signed[:, 8] * params.saturation,
        hue=signed[:, 9] * params.hue,
    )
    scale, shift = 1 + signed[:, 10:13] * params.stain_scale, signed[:, 13:16] * params.stain_shift
    return warp, Staining(scale, shift), jitter


def crop_centre(stored: Stored, geometry: PatchGeometry) -> Cut:
    """Take the margin off."""
    inside = slice(geometry.margin_px, geometry.margin_px + geometry.patch_px)
    return stored[:, inside, inside]


def to_float(stored: UInt8[Tensor, "batch rows columns 3"]) -> AnyImages:
    """Bring to float32 between 0 and 1 as (batch, 3, rows, columns), channels last in memory."""
    return stored.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def to_stored(images: Images) -> Stored:
    """Round to uint8, rows and columns before channels: the reverse of `to_float`."""
    return (images * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)


def mirror(images: Images, mirrored: Tensor) -> Images:
    """Mirror where told: x is the last axis, y the one before it."""
    mirrored = send(mirrored, images.device)[:, :, None, None, None]
    images = torch.where(mirrored[:, 0], images.flip(3), images)
    return torch.where(mirrored[:, 1], images.flip(2), images)


def apply_warp(windows: Images, geometry: PatchGeometry, warp: Warp) -> Warped:
    """Sample the patch out of its stored window through each warp; beyond, it is mirrored."""
    theta = send(compute_reading(geometry, warp), windows.device)
    size = [len(windows), 3, geometry.patch_px, geometry.patch_px]
    grid = affine_grid(theta, size, align_corners=False)
    return grid_sample(windows, grid, "bilinear", padding_mode="reflection", align_corners=False)


def compute_reading(geometry: PatchGeometry, warp: Warp) -> Float[Tensor, "batch 2 3"]:
    """Compute where each place of a warped patch is read from; both span -1 to 1, x before y."""
    extent = geometry.patch_px / (geometry.patch_px + 2 * geometry.margin_px)
    cos, sin = warp.angle.cos() * warp.scale, warp.angle.sin() * warp.scale
    sign = 1 - 2 * warp.mirror.float()
    # Output pixel -> (mirror) -> (turn and scale) -> (shift).
    across = (cos * sign[:, 0], -sin * sign[:, 1], 2 * warp.shift[:, 0])
    down = (sin * sign[:, 0], cos * sign[:, 1], 2 * warp.shift[:, 1])
    return torch.stack((*across, *down), dim=1).view(-1, 2, 3) * extent


def resize(stored: Stored, side_px: int) -> Cut:
    """Resize with bicubic interpolation; on uint8, on a CPU ten times faster than floats."""
    if stored.shape[1] == side_px:
        return stored
    images = stored.permute(0, 3, 1, 2)
    images = images.float() if stored.is_cuda else images
    resized = interpolate(images, (side_px, side_px), mode="bicubic", antialias=True)
    if stored.is_cuda:
        resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.permute(0, 2, 3, 1)


def apply_staining(images: Images, staining: Staining) -> Images:
    """Change the amounts of the stains, which is linear in optical density; clamp to [0, 1].

    Source: Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a
    reference to train distilled stain-invariant convolutional networks", IEEE TMI 2018.
    """
    stains = torch.from_numpy(REFERENCE.stains)
    rest = torch.linalg.cross(*stains)
    stains = torch.cat((stains, rest[None] / rest.norm()))  # (stain, channel)
    change = torch.linalg.inv(stains) @ (staining.scale.double()[:, :, None] * stains)
    shift = staining.shift.double() @ stains
    change, shift = (send(t.float(), images.device) for t in (change, shift))
    density = -images.clamp(min=1 / 255).log().flatten(2)
    density = torch.baddbmm(shift[:, :, None].expand_as(density), change.mT, density)
    return (-density).exp().clamp_(0, 1).view(images.shape)


def apply_jitter(images: Images, jitter: Jitter) -> Images:
    """Change brightness, contrast, saturation and hue in this order; clamp to [0, 1]."""
    luma = torch.tensor(_LUMA)
    factor = jitter.brightness * jitter.contrast
    saturation = jitter.saturation[:, None, None]
    saturate = saturation * torch.eye(3) + (1 - saturation) * luma
    matrix = factor[:, None, None] * (_turn_hue(jitter.hue) @ saturate)

    luma, matrix, brightness, contrast = (
        send(t, images.device) for t in (luma, matrix, jitter.brightness, jitter.contrast)
    )
    mean = (images.mean(dim=(2, 3)) @ luma) * brightness
    offset = (1 - contrast) * mean
    pixels = images.flatten(2)
    changed = torch.baddbmm(offset[:, None, None].expand(-1, 3, 1), matrix, pixels)
    return changed.clamp_(0, 1).view(images.shape)


def _turn_hue(hue: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
    cos, sin = (2 * math.pi * hue.double()).cos(), (2 * math.pi * hue.double()).sin()
    turn = torch.zeros(len(hue), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2] = cos, -sin
    turn[:, 2, 1], turn[:, 2, 2] = sin, cos
    return (torch.linalg.inv(to_yiq) @ turn @ to_yiq).float()


def normalise(images: AnyImages, normalisation: PixelScale) -> AnyImages:
    """Normalise values between 0 and 1; channels last in memory, as convolutions like it."""
    images = images.contiguous(memory_format=torch.channels_last)
    if normalisation == "unit":
        return images
    scale = (IMAGENET_MEAN, IMAGENET_STD) if normalisation == "imagenet" else normalisation
    mean, std = (send(torch.tensor(values), images.device)[:, None, None] for values in scale)
    return (images - mean).div_(std)
