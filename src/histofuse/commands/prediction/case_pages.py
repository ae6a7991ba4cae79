"""``histofuse predict --report``: one self-contained page a case, of what was found and why."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from PIL import Image

from histofuse.core.artifacts import replacing_file
from histofuse.core.errors import HistofuseError
from histofuse.core.naming import show_count, show_name
from histofuse.core.progress import track
from histofuse.data.images.tiff import read_size
from histofuse.data.patches import crop_margin
from histofuse.evaluation.mitotic_counts import estimate_count
from histofuse.explain.maps.figures import blend
from histofuse.params.base import load_section, load_seed
from histofuse.params.intervals import IntervalParams
from histofuse.reporting.blocks import (
    Block,
    Chapter,
    Figure,
    Gallery,
    Grid,
    Heading,
    Note,
    Prose,
    Terms,
)
from histofuse.reporting.page import SIMULATED_MODEL, render_page
from histofuse.reporting.pictures import embed_array, embed_strip
from histofuse.serving.case_records import CaseRecords
from histofuse.serving.fusion import FusionPredictor, Pairs
from histofuse.serving.image import ImagePredictor, Patches
from histofuse.serving.pictures.frames import FrameModel, FrameSource, cut_patches
from histofuse.serving.pictures.overlay import draw_overlay, render
from histofuse.serving.predictor import Predictor
from histofuse.serving.records import make_unknown
from histofuse.tracking.interface import GRADCAM, MODEL, PREDICTION, SHAP, name_probability
from histofuse.tracking.interface import TRAINED_ON as SOURCE

MOST_SHOWN: Final = 10
MOST_FRAMES: Final = 12
_MOST_VARIABLES: Final = 8
_ENLARGED_PX: Final = 144


@dataclass(frozen=True)
class Case:
    """A case to report on."""

    name: str
    frames: Sequence[str]  # those without nuclei too
    table: pd.DataFrame  # frame_id, x_px, y_px, prediction, probability_<class> of each nucleus
    shown: pd.DataFrame  # those of its nuclei to explain
    stored: UInt8[np.ndarray, "n side side 3"]  # their patches, with margin
    pictures: Sequence[Figure]  # overlays of its frames, or a slide's thumbnail
    results: Sequence[tuple[str, str]]  # what was counted, in words


def choose_shown(table: pd.DataFrame, focus: str) -> pd.DataFrame:
    """Choose the nuclei that are most probably of the class in focus, in the order of frames."""
    chosen = table.nlargest(MOST_SHOWN, name_probability(focus))
    return chosen.sort_values("frame_id", kind="stable")


def write_frame_pages(
    table: pd.DataFrame,
    model: FrameModel,
    records: CaseRecords,
    frames: FrameSource,
    folder: Path,
    *,
    private: bool,
) -> None:
    """Write ``<case>.html`` for each case, its nuclei those of a table of answers."""
    config = model.predictor.bundle.config
    cases = pd.Series(frames.cases)
    for name, held in track(list(cases.groupby(cases, sort=False)), "writing pages"):
        rows, names = table[table["case_id"] == name], list(held.index)
        shown = choose_shown(rows, config["focus_class"])
        by_frame = shown.groupby("frame_id", sort=False)
        parts = [cut_patches(model, part, frames) for _, part in by_frame]
        stored = np.concatenate([model.make_stored(0), *parts])
        pictures = _draw_frames(rows, frames, config["classes"], config["focus_class"])
        results = _describe_count(rows, names, model, frames, config["focus_class"])
        case = Case(str(name), names, rows, shown, stored, pictures, results)
        page = folder / f"{name}.html"
        write_case_page(case, model.predictor, records, page, private=private)


def _draw_frames(
    rows: pd.DataFrame, frames: FrameSource, classes: Sequence[str], focus: str
) -> list[Figure]:
    figures = []
    for frame, part in list(rows.groupby("frame_id", sort=False))[:MOST_FRAMES]:
        drawn = render(draw_overlay(frames.read(frame), part, classes, ringed=focus))
        figures.append(embed_array(drawn, f"{frame} with a dot for each nucleus", str(frame)))
    return figures


def _describe_count(
    rows: pd.DataFrame, names: Sequence[str], model: FrameModel, frames: FrameSource, focus: str
) -> list[tuple[str, str]]:
    """Count the class in focus and, where the resolution is known, by area."""
    count = int((rows[PREDICTION] == focus).sum())
    held = show_count(names, "frames")
    nuclei = f"{show_count(rows, 'nuclei')} in {held}"
    results = [(show_name(focus).capitalize(), f"{count:,} of {nuclei}")]
    ends: list[float] = []
    if frames.errors is not None:
        level = load_section(IntervalParams, "intervals").confidence
        _, *ends = estimate_count(count, frames.errors, level, load_seed())
        shown = " to ".join(f"{end:.0f}" for end in ends)
        interval = f"{shown} ({level:.0%} interval)"
        results.append(("Corrected for the errors on test frames", interval))
    if (mpp := model.image.model.spec.mpp) is not None:
        sizes = {name: read_size(frames.files[name], frames.reading) for name in names}
        area = sum(w * h * (mpp * frames.factors[n]) ** 2 for n, (w, h) in sizes.items()) / 1e6
        density = f"{count / area:.1f} per mm² ({area:.2g} mm² of frames)"
        if ends:
            density += "; corrected " + " to ".join(f"{end / area:.1f}" for end in ends)
        results.append(("By area", density))
    return results


def write_case_page(
    case: Case,
    predictor: ImagePredictor | FusionPredictor,
    records: CaseRecords,
    path: Path,
    *,
    private: bool,
) -> None:
    """Write the page of a case; if `private`, the owner alone may read it, from the start."""
    classes, focus = predictor.bundle.config["classes"], predictor.bundle.config["focus_class"]
    shown, stored = case.shown, case.stored
    explained, why_not = _explain(predictor, stored, records, case.name)
    blocks: list[Block] = [Terms(list(case.results)), _count(case, classes)]
    if case.pictures:
        blocks += [Heading("Where they are"), *case.pictures]
    blocks.append(Heading(f"Most probably {show_name(focus)}"))
    order = np.argsort(-shown[name_probability(focus)].to_numpy(), kind="stable")
    margin = (stored.shape[1] - predictor.image.model.spec.patch_px) // 2
    patches = crop_margin(stored, margin)
    figures = [
        _show_nucleus(shown.iloc[n], patches[n], explained, n, focus) for n in order.tolist()
    ]
    blocks += [Gallery(figures)] if figures else [Prose("No nuclei.")]
    if why_not:
        blocks.append(Note("calm", "Without maps", [why_not]))
    elif figures:
        blocks.append(Prose("Right: where the evidence for the decided class lies (bright: most)."))
    if SHAP in explained and figures and (shares := explained[SHAP].iloc[order[0]]) is not None:
        note = "Added to the logit of the decided class of the first nucleus, the patch as it is."
        blocks += show_record(shares, records.table.loc[case.name], note)
    title = "histofuse: nuclei found and classified"
    write_page(blocks, case.name, title, predictor, path, private=private)


def write_page(
    blocks: Sequence[Block],
    case: str,
    title: str,
    predictor: Predictor,
    path: Path,
    *,
    private: bool,
) -> None:
    """Write a page about a case; if `private`, the owner alone may read it, from the start."""
    identity = predictor.identity
    footer = f"{identity[MODEL]}, trained on {identity[SOURCE]} data. Not for diagnosis."
    page = render_page(
        [Chapter("case", case, blocks)],
        caution=SIMULATED_MODEL if "simulated" in predictor.sources else None,
        footer=footer,
        title=title,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        temporary.touch(mode=0o600 if private else 0o644)
        temporary.write_text(page, encoding="utf-8")


def _explain(
    predictor: ImagePredictor | FusionPredictor, stored: Any, records: CaseRecords, case: str
) -> tuple[pd.DataFrame, str]:
    """Answer patches again, with maps and contributions; or say why there are none."""
    patches = Patches(stored, pd.RangeIndex(len(stored)))
    if not len(stored):
        return pd.DataFrame(), ""
    try:
        if not isinstance(predictor, FusionPredictor):
            return predictor.answer(patches, gradcam=True), ""
        recorded = np.full(len(stored), case in records.embeddings)
        if recorded.any():
            rows = predictor.patient.read(records.table.loc[[case] * len(stored)])
            return predictor.answer(Pairs(patches, recorded, rows), gradcam=True, shap=True), ""
        nothing = make_unknown(predictor.patient.encoder.inputs)[:0]
        return predictor.answer(Pairs(patches, recorded, nothing), gradcam=True), ""
    except HistofuseError as error:
        return pd.DataFrame(), str(error)


def _count(case: Case, classes: Sequence[str]) -> Grid:
    counts = pd.crosstab(case.table["frame_id"], case.table[PREDICTION])
    counts = counts.reindex(index=list(case.frames), columns=list(classes)).fillna(0).astype(int)
    rows = [[str(frame), *map("{:,}".format, row)] for frame, row in counts.iterrows()]
    total = ["all", *map("{:,}".format, counts.sum())]
    headings = ["Picture", *map(show_name, classes)]
    return Grid("Nuclei by class", headings, [*rows, total] if len(rows) != 1 else rows)


def _show_nucleus(
    row: pd.Series, patch: np.ndarray, explained: pd.DataFrame, number: int, focus: str
) -> Figure:
    views = [patch]
    if GRADCAM in explained:
        with Image.open(io.BytesIO(base64.b64decode(explained[GRADCAM].iloc[number]))) as opened:
            views.append(blend(patch, np.asarray(opened, dtype=np.float32) / 255))
    caption = (
        f"{show_name(focus)} {row[name_probability(focus)]:.2f}, decided: "
        f"{show_name(row[PREDICTION])} · {row['frame_id']} at {row['x_px']:.0f}, {row['y_px']:.0f}"
    )
    return show_patches(views, f"Patch and map: {caption}", caption)


def show_patches(views: Sequence[np.ndarray], alt: str, caption: str) -> Figure:
    """Show a patch, and perhaps its map next to it, enlarged."""
    times = max(1, _ENLARGED_PX // len(views[0]))
    large = [np.repeat(np.repeat(view, times, axis=0), times, axis=1) for view in views]
    return embed_strip(large, alt, caption)


def show_record(shares: Mapping[str, float], known: Any, note: str) -> list[Block]:
    """Show which variables of the record add most, and to what."""
    heading = Heading("What the health record adds")
    moving = [item for item in shares.items() if item[1]]
    if not moving:
        return [heading, Prose("Nothing of the record moves this answer.")]
    chosen = sorted(moving, key=lambda item: -abs(item[1]))[:_MOST_VARIABLES]
    rows = [
        [show_name(name), _show_value(known.get(name)), f"{value:+.3f}"] for name, value in chosen
    ]
    return [
        heading,
        Grid("Largest contributions", ["Variable", "Value", "Contribution"], rows, [note]),
    ]


def _show_value(value: Any) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
