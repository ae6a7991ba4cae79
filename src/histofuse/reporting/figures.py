"""The figures of a run, each with words for those who do not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from histofuse.core.naming import name_model, show_name
from histofuse.reporting.blocks import Figure, Gallery
from histofuse.reporting.inputs import Run
from histofuse.reporting.pictures import embed_picture
from histofuse.tracking.row_level import shows_patients

_SHOWS: Final[Mapping[str, str]] = {
    "precision_recall": "Precision against recall, a curve a class",
    "roc": "ROC curves, true against false positive rate, a curve a class",
    "confusion": "Confusion matrix, true class by row, predicted class by column",
    "reliability": "Reliability diagram, observed frequency against predicted probability",
    "training": "Training curves, loss and scores by epoch or round",
    "decision_curve": "Decision curve, net benefit against the threshold probability, beside "
    "treating all and none",
    "conformal": "Prediction sets, measured coverage and size by class",
    "subgroups": "Subgroups of patients, scores with intervals",
    "mean_abs_shap": "Mean absolute SHAP value of the leading features, as bars",
    "beeswarm": "SHAP values by feature, a dot an admission, coloured by the feature's value",
    "waterfall_high_risk": "SHAP waterfall of one admission of high risk",
    "waterfall_low_risk": "SHAP waterfall of one admission of low risk",
    "fusion_vs_resnet": "Image model against fusion under each pairing, a bar a metric, with "
    "intervals",
    "controls": "Control arms beside the image model, with intervals",
    "protocol": "The paper's scores, ours by its protocol and ours by an honest split",
}


def show_figures(run: Run, files: Sequence[Path], subject: str) -> Gallery:
    """Embed figures of one subject; those of single patients only where these may be shown."""
    allowed = [f for f in files if f.is_file() and (run.shows_patients or not shows_patients(f))]
    return Gallery([_show(file, subject) for file in allowed])


def show_model(run: Run, folder: Path, model: str, stems: Sequence[str]) -> Gallery:
    """Embed the figures of one model that a folder holds, in the order named."""
    files = [folder / model / f"{stem}.png" for stem in stems]
    return show_figures(run, files, name_model(model))


def describe_figure(file: Path) -> str:
    """Say what a figure shows, by its file's name."""
    stem = file.stem
    if stem.startswith("contact_sheet_"):
        shown = show_name(stem.removeprefix("contact_sheet_"))
        return f"Contact sheet of class {shown}: patches, their maps and overlays, hits and misses"
    if stem.startswith("case_card"):
        return (
            "Case card: patch with its map, the patient's waterfall, shares of image and record, "
            "calibrated probability and prediction set"
        )
    return _SHOWS.get(stem, show_name(stem).capitalize())


def _show(file: Path, subject: str) -> Figure:
    text = f"{subject}. {describe_figure(file)}." if subject else f"{describe_figure(file)}."
    photographic = file.name.startswith(("contact_sheet", "case_card"))
    return embed_picture(file, text, text, photographic=photographic)
