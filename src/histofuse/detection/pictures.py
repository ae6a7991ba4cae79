"""A frame with what was found on it, against its dots."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_REACH_PX: Final = 11
_LINE_PX: Final = 3
_FOOT_PX: Final = 44
_TEXT_PX: Final = 24
# Colours of Okabe and Ito, which are told apart without red and green; shapes differ as well.
_HIT, _MISSED, _FALSE = (0, 158, 115), (240, 228, 66), (213, 94, 0)


def choose_frame(matched: pd.DataFrame, focus_class: str) -> str:
    """Choose the frame with most dots of a class, of those the one with most dots."""
    dots = matched[matched["label"].notna()]
    counts = dots.assign(focus=dots["label"] == focus_class).groupby("frame_id")["focus"]
    ranked = counts.agg(["sum", "size"]).sort_values(["sum", "size"], kind="stable")
    return str(ranked.index[-1])


def draw_matched(
    pixels: UInt8[np.ndarray, "height width 3"], matched: pd.DataFrame, path: Path
) -> None:
    """Draw hits as circles, missed dots as squares and false answers as crosses."""
    height, width, _ = pixels.shape
    picture = Image.new("RGB", (width, height + _FOOT_PX), "white")
    picture.paste(Image.fromarray(pixels))
    draw = ImageDraw.Draw(picture)
    outcomes = matched.apply(_name_outcome, axis=1)
    for (x, y), outcome in zip(matched[["x_px", "y_px"]].to_numpy(), outcomes, strict=True):
        _draw_mark(draw, x, y, outcome)
    x = _FOOT_PX / 2
    font = ImageFont.load_default(_TEXT_PX)
    for outcome, count in outcomes.value_counts().items():
        y = height + _FOOT_PX / 2
        _draw_mark(draw, x, y, str(outcome))
        text = f"{outcome}: {count}"
        draw.text((x + 2 * _REACH_PX, y), text, fill="black", font=font, anchor="lm")
        x += 6 * _REACH_PX + draw.textlength(text, font)
    picture.save(path, optimize=True)


def _name_outcome(row: object) -> str:
    if pd.isna(row.score):  # pyright: ignore[reportAttributeAccessIssue]
        return "missed"
    found = not pd.isna(row.label)  # pyright: ignore[reportAttributeAccessIssue]
    return "found" if found else "found without a dot"


def _draw_mark(draw: ImageDraw.ImageDraw, x: float, y: float, outcome: str) -> None:
    box = (x - _REACH_PX, y - _REACH_PX, x + _REACH_PX, y + _REACH_PX)
    if outcome == "found":
        draw.ellipse(box, outline=_HIT, width=_LINE_PX)
    elif outcome == "missed":
        draw.rectangle(box, outline=_MISSED, width=_LINE_PX)
    else:
        draw.line(box, fill=_FALSE, width=_LINE_PX)
        draw.line((box[0], box[3], box[2], box[1]), fill=_FALSE, width=_LINE_PX)
