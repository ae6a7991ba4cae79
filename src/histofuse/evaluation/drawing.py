"""Palette, style, margins and footer of figures, and how figures are saved."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.core.artifacts import replacing_file
from histofuse.core.naming import show_name
from histofuse.evaluation.metrics.bootstrap import Interval
from histofuse.evaluation.performance.results import Result
from histofuse.evaluation.predictions import Predictions

# Source: Okabe and Ito 2008, palette for all kinds of colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
CLASS_COLOURS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#6b6b6b"
FAINT = "#d9d9d9"
DPI = 120
# Inches: figures of one square, and the margin under them that holds labels, legend and footer.
SQUARE = (4.6, 5.6)
BELOW = 1.75
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.8,
}
# Names of frames and categories come from data: a dollar sign in one begins no formula.
rcParams["text.parse_math"] = False


def colour_classes(classes: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Give each class its colour, as 8-bit RGB."""
    chosen = (CLASS_COLOURS[n % len(CLASS_COLOURS)] for n in range(len(classes)))
    return {
        name: (int(hexed[1:3], 16), int(hexed[3:5], 16), int(hexed[5:], 16))
        for name, hexed in zip(classes, chosen, strict=True)
    }


def save_drawing(draw: Callable[..., Figure], arguments: tuple, footer: str, path: Path) -> None:
    """Draw in the house style, put the footer under it, and save a PNG of reproducible bytes."""
    with rc_context(STYLE):
        figure = draw(*arguments)
        figure.text(0.012, 0.012, footer, fontsize=7, color=GREY, ha="left", va="bottom")
        write_figure(figure, path, DPI)


def write_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a PNG, the same bytes for the same figure."""
    with replacing_file(path) as temporary:
        # Without the library's version in it, a file changes only when the picture does.
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def mark_source(source: str) -> str:
    """Say under a figure where its data come from; simulated data are marked in capitals."""
    return "SIMULATED DATA" if "simulated" in source else f"data: {source}"


def describe_footer(result: Result, split: str, rows: Predictions | None = None) -> str:
    """Say under a figure what it is drawn from: data, split, size, leaks."""
    parts = [mark_source(result.data), f"{split} split"]
    if rows is not None:
        parts.append(rows.describe_size())
    text = "  ·  ".join(parts)
    return f"{text}\nLEAKY: {result.leaky}" if result.leaky else text


def make_axes(
    title: str, size: tuple[float, float], *, left: float = 0.75, bottom: float = 0.9
) -> tuple[Figure, Axes]:
    """Make a figure of a size, with margins left and below, all in inches."""
    figure, (axes,) = make_row(title, size, 1, left=left, bottom=bottom)
    return figure, axes


def make_row(
    title: str, size: tuple[float, float], columns: int, *, left: float, bottom: float
) -> tuple[Figure, list[Axes]]:
    """Make a figure of axes side by side under one title; size and margins are in inches."""
    width, height = size
    figure = Figure(figsize=size)
    lines = textwrap.wrap(title, int(width * 11))
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.25 / width,
        bottom=bottom / height,
        top=1 - (0.28 + 0.18 * len(lines)) / height,
        wspace=0.28,
    )
    style = {"fontsize": 10, "weight": "bold", "va": "top"}
    figure.text(0.012, 1 - 0.1 / height, "\n".join(lines), **style)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def choose_classes(rows: Predictions) -> list[tuple[int, str, str]]:
    """Choose the classes to draw: all, or of two the positive one."""
    numbers = [1] if len(rows.classes) == 2 else range(len(rows.classes))
    colours = [CLASS_COLOURS[n % len(CLASS_COLOURS)] for n in range(len(rows.classes))]
    return [(k, show_name(rows.classes[k]), colours[k]) for k in numbers]


def draw_interval(
    axes: Axes,
    interval: Interval,
    place: int | float,
    colour: str,
    width: float = 1.4,
    **point: Any,
) -> None:
    """Draw a value as a point on a line that is its interval; nothing where not defined."""
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=width)
    if interval.value is not None:
        axes.plot([interval.value], [place], color=colour, **point)


def frame_unit_square(axes: Axes) -> None:
    """Set limits and put the legend under the axes, where no curve can run into it."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), borderaxespad=0)
