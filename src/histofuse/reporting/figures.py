"""The figures of a run, each with alternative text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import load_json
from histofuse.core.naming import name_model, show_name
from histofuse.core.privacy import is_aggregate
from histofuse.reporting.blocks import Figure, Gallery
from histofuse.reporting.inputs import Run
from histofuse.reporting.pictures import embed_picture

# What a figure shows, by the stem of its file.
_SHEETS: Final = {"contact_sheet_": "Contact sheet", "examples_": "Examples"}
_SHOWS: Final[Mapping[str, str]] = load_json(Path(__file__).with_name("figures.json"))


def show_figures(run: Run, files: Sequence[Path], subject: str) -> Gallery:
    """Embed figures of one subject; of a restricted source only those of many patients."""
    allowed = [f for f in files if f.is_file() and (run.shows_patients or is_aggregate(f))]
    return Gallery([_show(file, subject) for file in allowed])


def show_model(run: Run, folder: Path, model: str, stems: Sequence[str]) -> Gallery:
    """Embed the figures of one model in the order named."""
    files = [folder / model / f"{stem}.png" for stem in stems]
    return show_figures(run, files, name_model(model))


def describe_figure(file: Path) -> str:
    """Describe what a figure shows, from its file name."""
    stem = file.stem
    for start, text in _SHEETS.items():
        if stem.startswith(start):
            shown = show_name(stem.removeprefix(start))
            return f"{text} of class {shown}: patches, their maps and overlays, hits and misses"
    if stem.startswith("case_card"):
        return (
            "Case card: patch with its map, the patient's waterfall, shares of image and record, "
            "calibrated probability and prediction set"
        )
    return _SHOWS.get(stem, show_name(stem).capitalize())


def _show(file: Path, subject: str) -> Figure:
    text = f"{subject}. {describe_figure(file)}." if subject else f"{describe_figure(file)}."
    photographic = file.name.startswith((*_SHEETS, "case_card", "found_nuclei"))
    return embed_picture(file, text, text, photographic=photographic)
