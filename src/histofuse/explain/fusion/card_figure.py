"""The case card: one prediction, image and clinic together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from histofuse.core.naming import show_name
from histofuse.evaluation.drawing import FAINT, GREY, mark_source
from histofuse.explain.maps.figures import HIT, MISS, Explained, show_views
from histofuse.explain.shap_values.figures import INK, Patient, draw_steps

IMAGE_COLOUR, RECORD_COLOUR = "#56B4E9", "#E69F00"
SHOWN: Final = 9  # variables; the others are summed
_SIZE: Final = (12.4, 6.6)
_TILE: Final = 1.5


@dataclass(frozen=True)
class Card:
    """What a card shows; contributions are in log-odds.

    `rival` is the most likely other class, `base` the margin of the mean patch with the typical
    patient; `image_share` is the patch's part of |patch| + |record|; `texts` have units.
    """

    example: Explained
    probabilities: Mapping[str, float]
    prediction_set: Sequence[str]
    coverage: float
    rival: str
    base: float
    image: float
    image_share: float
    record: Float[np.ndarray, " variables"]
    names: Sequence[str]
    texts: Sequence[str]
    model: str
    pairing: str
    source: str


def draw_card(card: Card, nucleus_radius_px: float) -> Figure:
    """Draw a card: patch and map, probabilities and prediction set, shares, and the waterfall."""
    figure = Figure(figsize=_SIZE)
    _write_head(figure, card)
    _draw_patch(figure, card, nucleus_radius_px)
    _draw_probabilities(figure, card)
    _draw_shares(figure, card)
    _draw_waterfall(figure, card)
    return figure


def _place(
    left: float, bottom: float, width: float, height: float
) -> tuple[float, float, float, float]:
    across, up = _SIZE
    return (left / across, bottom / up, width / across, height / up)


def _write_head(figure: Figure, card: Card) -> None:
    example, (across, up) = card.example, _SIZE
    verdict = "hit" if example.is_hit else "miss"
    decided = f"{show_name(example.prediction).capitalize()}, {example.probability:.1%}"
    title = f"{decided}  ·  true class: {show_name(example.label)} ({verdict})"
    colour, left = HIT if example.is_hit else MISS, 0.25 / across
    figure.text(left, 1 - 0.16 / up, title, fontsize=14, weight="bold", color=colour, va="top")
    below = f"{card.model}  ·  patch {example.patch_id}  ·  paired by rule {card.pairing}"
    figure.text(left, 1 - 0.48 / up, below, fontsize=9, color=GREY, va="top")
    own = "" if card.pairing == "linked" else "The record is not that of the patch's patient.  "
    foot = (
        f"{mark_source(card.source)}  ·  test split  ·  {own}"
        "Shares and waterfall: Shapley values of patch and record, in"
        " log-odds before calibration, against the mean training patch\nand the typical patient"
        f" (medians and modes of training). Map: {example.method} through the fusion head;"
        " the dashed circle stands for the annotated nucleus."
    )
    figure.text(left, 0.1 / up, foot, fontsize=7, color=GREY, va="bottom")


def _draw_patch(figure: Figure, card: Card, radius: float) -> None:
    height, width = card.example.heat.shape
    title = "empty map" if card.example.is_empty else f"map ({height} × {width})"
    axes = figure.add_axes(_place(0.25, _SIZE[1] - 1.05 - _TILE, 3.09 * _TILE, _TILE))
    show_views(axes, card.example, radius, title)


def _draw_probabilities(figure: Figure, card: Card) -> None:
    names = list(card.probabilities)[::-1]
    values = [card.probabilities[name] for name in names]
    axes = figure.add_axes(_place(1.35, 2.15, 3.1, 0.32 * len(names) + 0.1))
    colours = [IMAGE_COLOUR if name in card.prediction_set else FAINT for name in names]
    bars = axes.barh(range(len(names)), values, color=colours, height=0.66)
    axes.bar_label(bars, [f"{v:.1%}" for v in values], padding=3, fontsize=8.5, color=INK)
    axes.set_yticks(range(len(names)), [show_name(name) for name in names], fontsize=9)
    axes.set_xlim(0, 1.15)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    classes = ", ".join(show_name(name) for name in card.prediction_set) or "none"
    title = f"Calibrated probability; {card.coverage:.0%} prediction set (blue): {classes}"
    axes.set_title(title, fontsize=8.5, color=INK, loc="left", x=-0.35, pad=5)


def _draw_shares(figure: Figure, card: Card) -> None:
    axes = figure.add_axes(_place(0.25, 0.95, 4.5, 0.42))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    sides = (
        ("patch", card.image, card.image_share, IMAGE_COLOUR),
        ("record", float(card.record.sum()), 1 - card.image_share, RECORD_COLOUR),
    )
    start = 0.0
    for name, value, share, colour in sides:
        axes.barh(0, share, left=start, color=colour, height=1)
        text = f"{name} {share:.0%} ({value:+.2f})".replace("-", "−")
        if share > 0.35:
            axes.text(start + share / 2, 0, text, ha="center", va="center", fontsize=9)
        else:
            edge, side = (0.0, "left") if start == 0 else (1.0, "right")
            axes.text(edge, -0.95, text, ha=side, va="center", fontsize=9, color=INK)
        start += share
    margin = f"{show_name(card.example.prediction)} over {show_name(card.rival)}"
    axes.set_title(f"Shares of the margin of {margin}", fontsize=8.5, color=INK, loc="left", pad=4)


def _draw_waterfall(figure: Figure, card: Card) -> None:
    axes = figure.add_axes(_place(7.75, 1.1, 4.4, 4.4))
    patient = Patient(card.record, card.base + card.image, card.names, card.texts)
    names, steps = patient.list_steps(SHOWN)
    draw_steps(axes, names, steps, patient.base, ("the patch alone", "patch and record"))
    axes.set_title("What the record adds to the patch", fontsize=9.5, color=INK, loc="left", pad=6)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    axes.tick_params(axis="x", labelsize=8, labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    against = f"{show_name(card.example.prediction)} against {show_name(card.rival)}"
    axes.set_xlabel(f"Log-odds of {against}", fontsize=8.5)
