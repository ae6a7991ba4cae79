"""Which files show single patients or few of them, and whether MLflow and the report may."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

RESTRICTED: Final = "restricted"
SIMULATED_MARKER: Final = "SIMULATED.json"  # in a folder of simulated data
# Sources whose rows are public: simulated or openly published.
OPEN_SOURCES: Final = frozenset({"simulated", "brecahad", "published", "mimic-iv-demo"})
FEWEST_PATIENTS: Final = 10  # a number of a restricted source is of at least as many
# What may be shown of a restricted source. A list of what may not would miss the next figure.
# Not among them: a confusion matrix and a plain reliability diagram count single patients, a
# beeswarm has a dot for each, and a gallery is of their tissue.
_AGGREGATES: Final = frozenset(
    {
        "roc", "precision_recall", "training", "decision_curve", "conformal", "subgroups",
        "mean_abs_shap", "fusion_vs_resnet", "controls", "protocol", "crossval", "faithfulness",
        "shap", "summary", "modalities", "positive_control",
    }
)  # fmt: skip
_HIDING_FOLDER: Final = "assessment"  # its figures leave out bins of few patients


def may_show_patients(sources: Iterable[str]) -> bool:
    """Tell whether single patients of all these sources may be shown; an unknown source may not."""
    return OPEN_SOURCES.issuperset(sources)


def merge_sources(image: str, patient: str) -> str:
    """Name the source of pairs: restricted if either side is, else simulated if either is.

    A row of a fusion model names a patient and a patch.
    """
    if RESTRICTED in (image, patient):
        return RESTRICTED
    return "simulated" if "simulated" in (image, patient) else patient


def is_aggregate(file: PurePath) -> bool:
    """Tell whether a figure or table may be shown of a restricted source, by its path."""
    hides_few = file.stem == "reliability" and _HIDING_FOLDER in file.parts[:-1]
    return file.stem in _AGGREGATES or hides_few
