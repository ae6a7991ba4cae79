"""Figures of maps: single overlays, and a contact sheet of each class with hits and misses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from histofuse.core.naming import show_name
from histofuse.evaluation.drawing import BLUE, GREY, VERMILION
from histofuse.explain.maps.methods import enlarge

HIT, MISS = BLUE, VERMILION
_COLOURS = colormaps["inferno"]
# Opacity of the map where it is strongest.
_OPACITY, DPI = 0.55, 110
# Inches.
_TILE, _CAPTION, _GAP, _HEAD, _FOOT = 1.3, 0.32, 0.06, 0.72, 0.5


@dataclass(frozen=True)
class Explained:
    """One patch with the map, between 0 and 1, of its predicted class.

    `probability` is calibrated; `source` is the patch's, such as ``simulated``; `method` as it is
    shown.
    """

    patch_id: str
    label: str
    prediction: str
    probability: float
    patch: UInt8[np.ndarray, "side side 3"]
    heat: Float32[np.ndarray, "height width"]
    source: str
    method: str

    @property
    def is_hit(self) -> bool:
        """Whether the prediction is right."""
        return self.prediction == self.label

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the patch supports the class."""
        return bool(self.heat.max() <= 0)


def colour(heat: Float32[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colour a map with values from 0 to 1."""
    return np.rint(np.asarray(_COLOURS(heat))[..., :3] * 255).astype(np.uint8)


def blend(
    patch: UInt8[np.ndarray, "side side 3"], heat: Float32[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "side side 3"]:
    """Lay a map over its patch; the stronger the map, the more opaque."""
    large = enlarge(heat, len(patch))
    opacity = (_OPACITY * large)[..., None]
    return np.rint((1 - opacity) * patch + opacity * colour(large)).astype(np.uint8)


def draw_example(example: Explained, nucleus_radius_px: float) -> Figure:
    """Draw patch, map and overlay side by side, with classes and probability above."""
    # Fixed places: a layout engine would draw each figure twice.
    figure = Figure(figsize=(6.9, 2.75))
    axes = figure.add_axes((0.012, 0.03, 0.92, 0.79))
    height, width = example.heat.shape
    show_views(axes, example, nucleus_radius_px, f"{example.method} ({height} × {width})")
    scale = ScalarMappable(Normalize(0, 1), _COLOURS)
    bar = figure.colorbar(scale, cax=figure.add_axes((0.94, 0.1, 0.013, 0.65)), ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=8)
    verdict = f"{'hit' if example.is_hit else 'miss'}{', empty map' if example.is_empty else ''}"
    title = (
        f"{example.patch_id}: true {show_name(example.label)}, predicted"
        f" {show_name(example.prediction)} ({example.probability:.2f}), {verdict}"
        f"{' · SIMULATED' if example.source == 'simulated' else ''}"
    )
    figure.suptitle(title, fontsize=9)
    return figure


def draw_sheet(
    examples: Sequence[Explained], title: str, footer: str, nucleus_radius_px: float
) -> Figure:
    """Draw the examples of one true class: hits on the left, misses on the right."""
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
        text = f"{head}: {len(side)}, most confident first" if side else f"{head}: none among these"
        place = {"x": left / width, "y": 1 - 0.48 / height, "va": "top"}
        figure.text(s=text, fontsize=10, weight="bold", color=colour, **place)
        for row, example in enumerate(side):
            top = height - _HEAD - row * (_TILE + _CAPTION) - _CAPTION + 0.12
            _draw_row(figure, example, (left, top), nucleus_radius_px)
    return figure


def _draw_row(
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
    size = ((3 * _TILE + 2 * _GAP) / width, _TILE / height)
    axes = figure.add_axes((left / width, (top - _TILE) / height, *size))
    show_views(axes, example, radius)


def show_views(axes: Axes, example: Explained, radius_px: float, map_title: str = "") -> None:
    """Show patch, map and overlay in one image; titles above them if the map has one.

    A dashed circle in the overlay marks the disc that stands for the annotated nucleus.
    """
    patch, side = example.patch, len(example.patch)
    heat = colour(enlarge(example.heat, side))
    gap = np.full((side, round(side * _GAP / _TILE), 3), 255, np.uint8)
    views = np.hstack([patch, gap, heat, gap, blend(patch, example.heat)])
    axes.imshow(views, interpolation="nearest")
    axes.set_axis_off()
    step = side + gap.shape[1]
    centre = (2 * step + (side - 1) / 2, (side - 1) / 2)
    style = {"fill": False, "edgecolor": "white", "linewidth": 0.9, "linestyle": (0, (3, 2))}
    axes.add_patch(Circle(centre, radius_px, **style))
    if map_title:
        for column, title in enumerate(("patch", map_title, "overlay")):
            middle = column * step + side / 2
            axes.text(middle, -0.03 * side, title, fontsize=8, ha="center", va="bottom")
