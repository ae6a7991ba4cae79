"""Figures of maps: an overlay by itself, and contact sheets of a class, hits and misses apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle

from histofuse.core.artifacts import replacing_file
from histofuse.core.naming import show_name
from histofuse.evaluation.drawing import BLUE, GREY, VERMILION
from histofuse.explain.maps.gradcam import enlarge

HIT, MISS = BLUE, VERMILION
# Opacity of the map where it is strongest.
_OPACITY = 0.55
_DPI = 110
_TILE: Final = 1.3  # inches
_CAPTION: Final = 0.32
_GAP: Final = 0.06
_HEAD: Final = 0.72
_FOOT: Final = 0.5


@dataclass(frozen=True)
class Explained:
    """One patch with its map.

    Attributes:
        patch_id: Of the patch.
        label: True class.
        prediction: Predicted class, which the map explains.
        probability: Calibrated, of the predicted class.
        patch: (patch_px, patch_px, 3) RGB.
        heat: (height, width) between 0 and 1.
        source: Of the patch, such as ``simulated``.
    """

    patch_id: str
    label: str
    prediction: str
    probability: float
    patch: UInt8[np.ndarray, "side side 3"]
    heat: Float32[np.ndarray, "height width"]
    source: str

    @property
    def is_hit(self) -> bool:
        """Whether the prediction is right."""
        return self.prediction == self.label

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the patch speaks for the class."""
        return bool(self.heat.max() <= 0)


def blend(
    patch: UInt8[np.ndarray, "side side 3"], heat: Float32[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "side side 3"]:
    """Lay a map over its patch, the more opaque the stronger it is."""
    large = enlarge(heat, len(patch))
    colours = np.asarray(colormaps["inferno"](large))[..., :3] * 255
    opacity = (_OPACITY * large)[..., None]
    return np.rint((1 - opacity) * patch + opacity * colours).astype(np.uint8)


def draw_example(example: Explained, nucleus_radius_px: float) -> Figure:
    """Draw patch, map and overlay side by side, with classes and probability above."""
    figure = Figure(figsize=(6.6, 2.75), layout="constrained")
    axes = figure.subplots(1, 3)
    side = len(example.patch)
    show_image(axes[0], example.patch, "patch")
    image = show_map(axes[1], example.heat, side)
    height, width = example.heat.shape
    axes[1].set_title(f"Grad-CAM ({height} × {width})", fontsize=8)
    figure.colorbar(image, ax=axes[1], fraction=0.046, ticks=[0, 0.5, 1])
    show_image(axes[2], blend(example.patch, example.heat), "overlay")
    mark_nucleus(axes[2], side, nucleus_radius_px)
    figure.suptitle(
        f"{example.patch_id}: true {show_name(example.label)}, predicted"
        f" {show_name(example.prediction)} ({example.probability:.2f}),"
        f" {'hit' if example.is_hit else 'miss'}{', empty map' if example.is_empty else ''}"
        f"{' · SIMULATED' if example.source == 'simulated' else ''}",
        fontsize=9,
    )
    return figure


def draw_sheet(
    examples: Sequence[Explained], title: str, footer: str, nucleus_radius_px: float
) -> Figure:
    """Draw the examples of one true class: hits on the left, misses on the right.

    Each is a row of patch, map and overlay, under what was predicted and how surely.
    """
    sides = [[e for e in examples if e.is_hit], [e for e in examples if not e.is_hit]]
    rows = max(len(side) for side in sides)
    triple = 3 * _TILE + 2 * _GAP
    width, height = 2 * triple + 0.8, rows * (_TILE + _CAPTION) + _HEAD + _FOOT
    figure = Figure(figsize=(width, height))
    figure.text(0.2 / width, 1 - 0.1 / height, title, fontsize=11, weight="bold", va="top")
    figure.text(0.2 / width, 0.1 / height, footer, fontsize=7, color=GREY, va="bottom")
    for number, (side, head) in enumerate(zip(sides, ("Hits", "Misses"), strict=True)):
        left = 0.2 + number * (triple + 0.4)
        colour = MISS if number else HIT
        text = f"{head}: {len(side)}, the surest first" if side else f"{head}: none among these"
        place = {"x": left / width, "y": 1 - 0.48 / height, "va": "top"}
        figure.text(s=text, fontsize=10, weight="bold", color=colour, **place)
        for row, example in enumerate(side):
            top = height - _HEAD - row * (_TILE + _CAPTION) - _CAPTION + 0.12
            _draw_triple(figure, example, (left, top), nucleus_radius_px)
    return figure


def _draw_triple(
    figure: Figure, example: Explained, corner: tuple[float, float], radius: float
) -> None:
    left, top = corner
    width, height = figure.get_size_inches()
    place = {"x": left / width, "y": (top + 0.03) / height, "va": "bottom", "fontsize": 8}
    empty = " · empty map" if example.is_empty else ""
    text = f"{show_name(example.prediction)} {example.probability:.2f}{empty}"
    figure.text(s=text, color=HIT if example.is_hit else MISS, weight="bold", **place)
    place |= {"x": (left + 3 * _TILE + 2 * _GAP) / width, "ha": "right", "fontsize": 6.5}
    figure.text(s=example.patch_id, color=GREY, **place)
    side = len(example.patch)
    for column in range(3):
        x = left + column * (_TILE + _GAP)
        box = (x / width, (top - _TILE) / height, _TILE / width, _TILE / height)
        axes = figure.add_axes(box)
        if column == 1:
            show_map(axes, example.heat, side)
        else:
            show_image(axes, blend(example.patch, example.heat) if column else example.patch, "")
        if column == 2:
            mark_nucleus(axes, side, radius)


def show_image(axes: Axes, image: UInt8[np.ndarray, "side side 3"], title: str) -> None:
    """Show an image without ticks."""
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    _bare(axes)


def show_map(axes: Axes, heat: Float32[np.ndarray, "height width"], side_px: int) -> AxesImage:
    """Show a map at the size of its patch, from 0 to 1, without ticks."""
    large = enlarge(heat, side_px)
    image = axes.imshow(large, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    _bare(axes)
    return image


def mark_nucleus(axes: Axes, side_px: int, radius_px: float) -> None:
    """Circle the disc that stands for the annotated nucleus."""
    middle = (side_px - 1) / 2
    style = {"fill": False, "edgecolor": "white", "linewidth": 0.9, "linestyle": (0, (3, 2))}
    axes.add_patch(Circle((middle, middle), radius_px, **style))


def _bare(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, the same bytes for the same figure."""
    FigureCanvasAgg(figure)
    with replacing_file(path) as temporary:
        # The version of the plotting library in the file would change its digest.
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
