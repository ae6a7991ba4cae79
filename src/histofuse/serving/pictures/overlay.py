"""What was predicted, drawn on the frames: a dot for each nucleus, coloured by class."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from histofuse.core.naming import show_name
from histofuse.core.progress import track
from histofuse.data.images.tissue import Overview
from histofuse.evaluation.drawing import BLUE, CLASS_COLOURS, GREY, VERMILION, write_figure
from histofuse.evaluation.mitotic_counts import HotSpot
from histofuse.serving.pictures.frames import FrameSource
from histofuse.tracking.interface import PREDICTION

_LONGEST_PX: Final = 2400  # side of a drawing; larger frames are shrunk
_BELOW_PX: Final = 64  # for legend and footer
DPI: Final = 100
_NARROWEST_PX: Final = 700  # of a thumbnail's drawing
_MARGINS_PX: Final = (72, 96, 16, 112)  # around the thumbnail: left, right, top, below
CHANGE: Final = "change"  # of the log-odds, by a nucleus
RANK: Final = "rank"
_EDGE: Final = {"edgecolors": "white", "linewidths": 0.8}
_HEAT_UM: Final = 100.0  # SD of what smooths the density


def draw_overlays(
    answered: pd.DataFrame,
    frames: FrameSource,
    *,
    classes: Sequence[str],
    footer: str,
    folder: Path,
) -> None:
    """Write ``<frame>.png`` for each frame of a table ``frame_id, x_px, y_px, prediction``.

    The order of the model's classes decides their colours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = list(answered.groupby("frame_id", sort=False))
    for frame, rows in track(groups, "drawing", total=len(groups)):
        figure = draw_overlay(frames.read(frame), rows, classes)
        figure.text(0.01, 0.004, f"{frame}  ·  {footer}", fontsize=8, color=GREY, va="bottom")
        write_figure(figure, folder / f"{frame}.png", DPI)


def draw_overview(
    overview: Overview, mitoses_um: Float[np.ndarray, "n 2"], spot: HotSpot | None, title: str
) -> Figure:
    """Draw a slide's thumbnail with the density of mitoses, each of them, and the hot spot."""
    from scipy.ndimage import gaussian_filter

    height, width, _ = overview.thumbnail.shape
    extent = (0, width * overview.mpp / 1e3, height * overview.mpp / 1e3, 0)
    left, right, top, below = _MARGINS_PX
    size = max(width + left + right, _NARROWEST_PX), height + top + below
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI))

    def add_axes(x: int, y: int, wide: int, high: int) -> Axes:
        return figure.add_axes((x / size[0], y / size[1], wide / size[0], high / size[1]))

    axes = add_axes(left, below, width, height)
    axes.imshow(overview.thumbnail, extent=extent)
    bins = [np.arange(height + 1), np.arange(width + 1)]
    places = mitoses_um / overview.mpp
    density, *_ = np.histogram2d(places[:, 1], places[:, 0], bins)
    density = gaussian_filter(density, _HEAT_UM / overview.mpp) / (overview.mpp / 1e3) ** 2
    if len(places):
        shown = np.ma.masked_less(density, 0.1 * density.max())
        heat = axes.imshow(shown, extent=extent, cmap="inferno", alpha=0.45, vmin=0)
        scale = add_axes(left + width + 12, below + height // 4, 14, height // 2)
        figure.colorbar(heat, cax=scale, label="mitoses per mm²")
        style = {"s": 26, "color": CLASS_COLOURS[0], "edgecolors": "white", "linewidths": 0.7}
        axes.scatter(*(mitoses_um / 1e3).T, **style)
    if spot is not None and spot.mitoses:
        centre = spot.x_um / 1e3, spot.y_um / 1e3
        circle = Circle(centre, spot.radius_um / 1e3, fill=False, color="black", linewidth=1.5)
        axes.add_patch(circle)
    axes.set(xlim=extent[:2], ylim=extent[2:], xlabel="mm", ylabel="mm")
    text = "\n".join(textwrap.fill(line, size[0] // 6) for line in title.splitlines())
    figure.text(0.01, 0.004, text, fontsize=8, color=GREY, va="bottom")
    return figure


def render(figure: Figure) -> UInt8[np.ndarray, "height width 3"]:
    """Turn a figure into pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_overlay(
    frame: UInt8[np.ndarray, "height width 3"],
    rows: pd.DataFrame,
    classes: Sequence[str],
    *,
    ringed: str = "",
) -> Figure:
    """Draw a frame with a dot for each nucleus, and a ring around those of one class."""
    figure, axes = _lay_out(frame)
    for number, name in enumerate(classes):
        chosen = rows[rows[PREDICTION] == name]
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        label = f"{show_name(name)} ({len(chosen):,})"
        axes.scatter(chosen["x_px"], chosen["y_px"], s=60, label=label, color=colour, **_EDGE)
        if name == ringed:
            ring = {"s": 1500, "facecolors": "none", "edgecolors": colour, "linewidths": 4}
            axes.scatter(chosen["x_px"], chosen["y_px"], **ring)
    _add_legend(figure)
    return figure


def draw_changes(
    frame: UInt8[np.ndarray, "height width 3"], rows: pd.DataFrame, largest: float
) -> Figure:
    """Draw a frame with a dot for each nucleus, by how it moves an answer.

    Column `CHANGE` holds what it adds, of at most the size `largest`; `RANK` its number, or NaN.
    """
    figure, axes = _lay_out(frame)
    signs = np.sign(rows[CHANGE].fillna(0))
    for sign, said, colour in (
        (1, "raises the log-odds", VERMILION),
        (-1, "lowers the log-odds", BLUE),
        (0, "no change", GREY),
    ):
        chosen = rows[signs == sign]
        if len(chosen):
            area = 40 + 360 * chosen[CHANGE].abs().fillna(0) / largest
            style = {"s": area, "color": colour, "label": f"{said} ({len(chosen):,})"}
            axes.scatter(chosen["x_px"], chosen["y_px"], **style, **_EDGE)
    for _, row in rows[rows[RANK].notna()].iterrows():
        _number(axes, row["x_px"], row["y_px"], f"{row[RANK]:.0f}")
    _add_legend(figure)
    return figure


def _number(axes: Axes, x_px: float, y_px: float, text: str) -> None:
    """Write a number next to a nucleus, on the side that is further from the border."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    left, above = x_px > width / 2, y_px > height / 2
    place = {"ha": "right" if left else "left", "va": "bottom" if above else "top"}
    offset = (-10 if left else 10, 6 if above else -6)
    style = {"fontsize": 20, "weight": "bold", "textcoords": "offset points"}
    drawn = axes.annotate(text, (x_px, y_px), offset, **place, **style)
    drawn.set_path_effects([withStroke(linewidth=4, foreground="white")])


def _lay_out(frame: UInt8[np.ndarray, "height width 3"]) -> tuple[Figure, Axes]:
    """Show a frame, with room for a legend below; axes are its pixels."""
    height, width, _ = frame.shape
    shown = min(1.0, _LONGEST_PX / max(height, width))
    total = height * shown + _BELOW_PX
    figure = Figure(figsize=(width * shown / DPI, total / DPI))
    axes = figure.add_axes((0, _BELOW_PX / total, 1, 1 - _BELOW_PX / total))
    axes.imshow(frame, extent=(0, width, height, 0), aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _add_legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    place = (0, 18 / (figure.get_figheight() * DPI))
    style = {"loc": "lower left", "bbox_to_anchor": place, "frameon": False}
    figure.legend(handles, labels, ncols=len(labels), **style)
