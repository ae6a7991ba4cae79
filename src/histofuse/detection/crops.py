"""Crops of training frames, changed at random, and what the network shall answer for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from histofuse.features.augment import (
    DRAWN,
    PatchGeometry,
    PixelScale,
    apply_jitter,
    apply_staining,
    apply_warp,
    choose_changes,
    compute_reading,
    normalise,
    to_float,
)
from histofuse.params.image import AugmentationParams

UNLABELLED = -1
# How close to a dot a place must be, as the height of its Gaussian, to learn the dot's class.
_OF_THE_DOT = 0.6
_BLANK = 255


@dataclass(frozen=True)
class DottedFrame:
    """A reduced frame and its dots."""

    pixels: UInt8[np.ndarray, "height width 3"]  # (height, width, 3) RGB
    dots: Float32[np.ndarray, "n 2"]  # (n, 2) x and y in its pixels; pixel i spans [i, i + 1)
    labels: Int64[np.ndarray, " n"]  # (n,) numbers of classes

    def mirror_borders(self, margin_px: int) -> "DottedFrame":
        """Widen by a mirror image of what lies within the borders, dots included."""
        height, width, _ = self.pixels.shape
        pad = [(margin_px, margin_px)] * 2 + [(0, 0)]
        pixels = np.pad(self.pixels, pad, mode="symmetric")
        dots, labels = self.dots, self.labels
        for axis, side in enumerate((width, height)):
            images = [dots.copy(), dots.copy()]
            images[0][:, axis] *= -1
            images[1][:, axis] = 2 * side - images[1][:, axis]
            dots, labels = np.concatenate([dots, *images]), np.tile(labels, 3)
        near = ((dots > -margin_px) & (dots < np.array([width, height]) + margin_px)).all(1)
        return DottedFrame(pixels, (dots[near] + margin_px).astype(np.float32), labels[near])

    def fill_up(self, side_px: int) -> "DottedFrame":
        """Add blank pixels at the right and below, up to a side."""
        height, width, _ = self.pixels.shape
        pad = [(0, max(0, side_px - height)), (0, max(0, side_px - width)), (0, 0)]
        return replace(self, pixels=np.pad(self.pixels, pad, constant_values=_BLANK))


class Batch(NamedTuple):
    """Crops as the network takes them, and its targets."""

    images: Float[Tensor, "batch 3 crop crop"]
    heat: Float[Tensor, "batch rows rows"]  # 1 at a dot, falling off around it as a Gaussian
    # number of the class near a dot, `UNLABELLED` elsewhere
    labels: Int64[Tensor, "batch rows rows"]


@dataclass(frozen=True)
class Cropper:
    """Draws batches of crops."""

    # with mirrored borders, each at least a crop with its margins wide and high
    frames: Sequence[DottedFrame]
    # of a crop: its side, and the margins that turning and shrinking may reach into
    geometry: PatchGeometry
    normalisation: PixelScale
    augmentation: AugmentationParams
    stride: int  # pixels that a place of the heat map spans
    sigma: float  # SD of a dot's Gaussian, in places of the heat map

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Draw a batch; all random numbers come from the generator, on the CPU."""
        side = self.geometry.patch_px + 2 * self.geometry.margin_px
        unit = torch.rand(size, 3, generator=generator).numpy()
        chosen = [self.frames[int(u * len(self.frames))] for u in unit[:, 0]]
        windows = np.empty((size, side, side, 3), np.uint8)
        dots = []
        for n, frame in enumerate(chosen):
            height, width, _ = frame.pixels.shape
            top = int(unit[n, 1] * (height - side + 1))
            left = int(unit[n, 2] * (width - side + 1))
            windows[n] = frame.pixels[top : top + side, left : left + side]
            dots.append(frame.dots - np.array([left, top], np.float32))
        drawn = torch.rand(size, DRAWN, generator=generator)
        warp, staining, jitter = choose_changes(drawn, self.augmentation)
        images = apply_warp(to_float(torch.from_numpy(windows)), self.geometry, warp)
        images = apply_jitter(apply_staining(images, staining), jitter)
        reading = compute_reading(self.geometry, warp).numpy()
        targets = [
            self._draw_targets(_follow(points, side, *parts), frame.labels)
            for points, frame, *parts in zip(
                dots, chosen, reading[..., :2], reading[..., 2], strict=True
            )
        ]
        heat, labels = (torch.from_numpy(np.stack(part)) for part in zip(*targets, strict=True))
        return Batch(normalise(images, self.normalisation), heat, labels)

    def _draw_targets(
        self, places: Float32[np.ndarray, "n 2"], labels: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[np.ndarray, "rows rows"], Int64[np.ndarray, "rows rows"]]:
        """Draw the dots, whose places span -1 to 1 over the crop, on the maps."""
        rows = self.geometry.patch_px // self.stride
        heat, numbers = np.zeros((rows, rows), np.float32), np.full((rows, rows), UNLABELLED)
        near = (np.abs(places) < 1 + 6 * self.sigma / rows).all(1)
        if not near.any():
            return heat, numbers
        centres = (places[near] + 1) / 2 * rows - 0.5
        offsets = np.arange(rows, dtype=np.float32) - centres[..., None]
        x, y = np.moveaxis(np.exp(-0.5 * (offsets / self.sigma) ** 2), 1, 0)
        bells = y[:, :, None] * x[:, None, :]
        nearest = bells.argmax(0)
        heat = np.take_along_axis(bells, nearest[None], 0)[0]
        return heat, np.where(heat > _OF_THE_DOT, labels[near][nearest], numbers)


def _follow(
    dots: Float32[np.ndarray, "n 2"],
    side: int,
    matrix: Float32[np.ndarray, "2 2"],
    shift: Float32[np.ndarray, " 2"],
) -> Float32[np.ndarray, "n 2"]:
    """Follow dots of a window, in pixels, to where its warped crop shows them."""
    return (dots * (2 / side) - 1 - shift) @ np.linalg.inv(matrix).T
