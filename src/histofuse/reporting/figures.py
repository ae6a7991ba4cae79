"""The figures of a run, each with alternative text."""

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
    "precision_recall": "Precision against recall, one curve per class",
    "roc": "ROC curves, true against false positive rate, one curve per class",
    "confusion": "Confusion matrix, true class by row, predicted class by column",
    "reliability": "Reliability diagram, observed frequency against predicted probability",
    "training": "Training curves, loss and scores by epoch or boosting round",
    "decision_curve": "Decision curve, net benefit against the threshold probability, compared "
    "with treating all and none",
    "conformal": "Prediction sets, measured coverage and size by class",
    "subgroups": "Subgroups of patients, scores with intervals",
    "mean_abs_shap": "Mean absolute SHAP value of the leading features, as bars",
    "beeswarm": "SHAP values by feature, one dot per admission, coloured by the feature's value",
    "waterfall_high_risk": "SHAP waterfall of one admission with high risk",
    "waterfall_low_risk": "SHAP waterfall of one admission with low risk",
    "fusion_vs_resnet": "Image model against fusion under each pairing, one bar per metric, "
    "with intervals",
    "controls": "Controls compared with the image model, with intervals",
    "protocol": "The paper's scores, ours under its protocol, and ours under an honest split",
}


def show_figures(run: Run, files: Sequence[Path], subject: str) -> Gallery:
    """Embed figures of one subject; figures of single patients only if these may be shown."""
    allowed = [f for f in files if f.is_file() and (run.shows_patients or not shows_patients(f))]
    return Gallery([_show(file, subject) for file in allowed])


def show_model(run: Run, folder: Path, model: str, stems: Sequence[str]) -> Gallery:
    """Embed the figures of one model in the order named."""
    files = [folder / model / f"{stem}.png" for stem in stems]
    return show_figures(run, files, name_model(model))


def describe_figure(file: Path) -> str:
    """Describe what a figure shows, from its file name."""
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
