"""``histofuse predict --report`` of a model at patient level: one self-contained page a patient."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float32

from histofuse.commands.prediction.case_pages import (
    MOST_FRAMES,
    show_patches,
    show_record,
    write_page,
)
from histofuse.core.naming import show_count, show_name
from histofuse.data.patches import crop_margin
from histofuse.patients.rows import VIEWS, View
from histofuse.reporting.blocks import (
    Block,
    Cell,
    Figure,
    Gallery,
    Grid,
    Heading,
    Note,
    Prose,
    Terms,
)
from histofuse.reporting.pictures import embed_array
from histofuse.serving.patient import PatientPredictor
from histofuse.serving.pictures.frames import FrameModel, FrameSource, cut_patches
from histofuse.serving.pictures.overlay import CHANGE, RANK, draw_changes, render
from histofuse.tracking.interface import (
    ANSWERED_BY,
    ATTENTION,
    NUCLEUS_CHANGES,
    PREDICTION,
    SHAP,
    name_probability,
)

_MOST_NUCLEI: Final = 12
_SIDES: Final[Mapping[View, str]] = {
    "both": "image and record",
    "image": "image alone",
    "record": "record alone",
}


@dataclass(frozen=True)
class PatientCase:
    """A patient to report on."""

    name: str
    nuclei: pd.DataFrame  # frame_id, x_px, y_px
    embeddings: Float32[np.ndarray, "n width"]  # of the nuclei
    record: pd.DataFrame  # one row, as `read_records` returns it
    warnings: str  # what is not used of the record, or beyond training


def write_patient_page(
    case: PatientCase,
    predictor: PatientPredictor,
    frames: FrameSource | None,
    path: Path,
    *,
    private: bool,
) -> None:
    """Write the page of a patient; if `private`, the owner alone may read it, from the start."""
    known = case.embeddings, np.array([len(case.nuclei)]), case.record
    asked = dict.fromkeys((ATTENTION, NUCLEUS_CHANGES, SHAP), True)
    answer = predictor.answer_embedded(*known, **asked).iloc[0]
    sides = predictor.compare_sides(*known)
    target = show_name(predictor.bundle.config["focus_class"])
    blocks: list[Block] = [
        Terms(_describe_answer(case, answer, predictor)),
        _compare_sides(sides, answer, predictor),
    ]
    if case.warnings:
        blocks.append(Note("warn", "The record, as the model reads it", case.warnings.split("; ")))
    if frames is not None and len(case.nuclei):
        blocks += _show_nuclei(case, answer, predictor, frames)
    if (shares := answer[SHAP]) is not None:
        note = (
            f"Added to the log-odds of {target}, not calibrated, next to a typical patient "
            "(medians and modes of training); the nuclei stay as they are."
        )
        blocks += show_record(shares, case.record.iloc[0], note)
    title = "histofuse: the answer for a patient, and what carried it"
    write_page(blocks, case.name, title, predictor, path, private=private)


def _describe_answer(
    case: PatientCase, answer: pd.Series, predictor: PatientPredictor
) -> list[tuple[str, str]]:
    view, focus = _find_view(answer), predictor.bundle.config["focus_class"]
    threshold = _get_threshold(predictor, view)
    probability = answer[name_probability(focus)]
    side = "at or above" if probability >= threshold else "below"
    count = case.nuclei["frame_id"].nunique()
    frames = show_count(count, "frames")
    return [
        (f"Probability of {show_name(focus)}", f"{probability:.3f}, calibrated"),
        ("Decision", f"{show_name(answer[PREDICTION])}: {side} the threshold of {threshold:.3f}"),
        ("Answered from", _SIDES[view]),
        ("Nuclei", f"{len(case.nuclei):,} in {frames}" if count else "none"),
    ]


def _find_view(answer: pd.Series) -> View:
    by = answer[ANSWERED_BY]
    return "both" if by == "fusion" else by


def _get_threshold(predictor: PatientPredictor, view: View) -> float:
    return predictor.decisions[view].thresholds.values[1]


def _compare_sides(
    sides: Mapping[View, pd.DataFrame], answer: pd.Series, predictor: PatientPredictor
) -> Block:
    """Table what the model answers from the sides that are known, together and alone."""
    config = predictor.bundle.config
    focus = name_probability(config["focus_class"])
    rows: list[list[Cell]] = []
    for view in VIEWS:
        name = _SIDES[view] + (", the answer" if view == _find_view(answer) else "")
        shown: list[Cell] = ["–", "–", "not known"]
        if view in sides:
            numbers = sides[view][focus].iloc[0], _get_threshold(predictor, view)
            shown = [*map("{:.3f}".format, numbers), show_name(sides[view][PREDICTION].iloc[0])]
        rows.append([name.capitalize(), *shown])
    notes = ["Each set of sides has a calibration and a threshold of its own."]
    if config["architecture"]["kind"] == "side":
        side = config["params"]["side"]
        notes.append(f"The model reads the {side} alone; without it, it knows the outcome's share.")
    headings = ["Sides", "Probability", "Threshold", "Decision"]
    return Grid("The answer from both sides and from each alone", headings, rows, notes)


def _show_nuclei(
    case: PatientCase, answer: pd.Series, predictor: PatientPredictor, frames: FrameSource
) -> list[Block]:
    """Show which nuclei move the answer, on the frames and as patches."""
    heading = Heading("Which nuclei moved the answer")
    nuclei = case.nuclei.reset_index(drop=True)
    nuclei = nuclei.assign(**{CHANGE: np.array(answer[NUCLEUS_CHANGES], dtype=float)})
    if answer[ATTENTION] is not None:
        nuclei[ATTENTION] = answer[ATTENTION]
    size = nuclei[CHANGE].abs()
    moving = size[size > 0].nlargest(_MOST_NUCLEI).index
    if moving.empty:
        return [heading, Prose("No nucleus moves this answer.")]
    nuclei[RANK] = pd.Series(range(1, len(moving) + 1), moving)
    text = [
        "A nucleus adds what the log-odds, not calibrated, lose without it. "
        "Numbered: those that move the answer most."
    ]
    if read := int(size.isna().sum()):
        text.append(
            f"The model reads an even sample of {len(nuclei) - read:,} of the {len(nuclei):,} "
            "nuclei, and changes are within it."
        )
    if ATTENTION in nuclei:
        text.append(f"Attention adds up to 100 %; {1 / len(nuclei):.2%} each would be even.")
    pictures = _draw_frames(nuclei, size, frames)
    patches = Gallery(_show_patches(nuclei.loc[moving], predictor, frames), small=True)
    return [heading, Prose(" ".join(text)), patches, *pictures]


def _draw_frames(nuclei: pd.DataFrame, size: pd.Series, frames: FrameSource) -> list[Figure]:
    """Draw the frames whose nuclei move the answer most, in their order."""
    most = size.groupby(nuclei["frame_id"]).max().nlargest(MOST_FRAMES).index
    figures = []
    for frame, rows in nuclei[nuclei["frame_id"].isin(most)].groupby("frame_id", sort=False):
        drawn = render(draw_changes(frames.read(frame), rows, float(size.max())))
        alt = f"{frame} with a dot for each nucleus, larger where it moves the answer more"
        figures.append(embed_array(drawn, alt, str(frame)))
    return figures


def _show_patches(
    shown: pd.DataFrame, predictor: PatientPredictor, frames: FrameSource
) -> list[Figure]:
    model = FrameModel(predictor.image, {})
    figures: dict[int, Figure] = {}
    for _, rows in shown.groupby("frame_id", sort=False):
        stored = cut_patches(model, rows, frames)
        patches = crop_margin(stored, predictor.image.model.spec.margin_px)
        for (_, row), patch in zip(rows.iterrows(), patches, strict=True):
            caption = f"{row[RANK]:.0f}: {row[CHANGE]:+.3f}"
            if ATTENTION in row:
                caption += f", attention {row[ATTENTION]:.2%}"
            caption += f" · {row['frame_id']} at {row['x_px']:.0f}, {row['y_px']:.0f}"
            figures[int(row[RANK])] = show_patches([patch], f"Nucleus {caption}", caption)
    return [figures[rank] for rank in sorted(figures)]
