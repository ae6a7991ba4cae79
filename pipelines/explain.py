"""Stage ``explain``: models and their data -> Grad-CAM galleries and SHAP reports."""

import shutil
from pathlib import Path

import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.progress import report, run_stage
from histofuse.core.tables import read_table
from histofuse.explain.attributions import TableName, write_shap_report
from histofuse.explain.gradcam import write_gradcam_gallery
from histofuse.features.encoding import ENCODED
from histofuse.features.specs import load_specs
from histofuse.params.base import load_keys, load_section
from histofuse.params.explain import ExplainParams
from histofuse.training.image import IMAGE_PREDICTIONS, PREDICTIONS

MODELS = Path("models")
PATCHES = Path("data/patches")
ENCODED_FOLDER = Path("data/encoded")
SPECS = Path("data/ehr/features.json")
COHORT_FACTS = Path("data/cohort/meta.json")
OUT = Path("reports/explain")

# The tabular models of the paper; the others are baselines.
SHAP_KINDS = ("xgboost", "mlp")


def main() -> None:
    params = load_section(ExplainParams, "explain")
    images, tabular = load_keys("image"), load_keys("tabular")
    report(f"read {len(images)} image models and {len(tabular)} models on health records")
    # What earlier params explained must not stay behind.
    shutil.rmtree(OUT, ignore_errors=True)
    for name in images:
        explain_image_model(name, params)
    for name in tabular:
        explain_tabular_model(name, params)
    report(f"wrote {len(list(OUT.rglob('*.png')))} figures in {OUT}")


def explain_image_model(name: str, params: ExplainParams) -> None:
    """Overlay what a network looked at on test patches of each class."""
    bundle = open_bundle(MODELS / name)
    predictions = read_table(bundle.path / PREDICTIONS, IMAGE_PREDICTIONS)
    shown = predictions[predictions["split"] == "test"]
    write_gradcam_gallery(bundle, PATCHES, shown, OUT / "gradcam", params)


def explain_tabular_model(name: str, params: ExplainParams) -> None:
    """Attribute a model's predictions to features; single patients only where they may be shown."""
    bundle = open_bundle(MODELS / name)
    if bundle.config["architecture"]["kind"] not in SHAP_KINDS:
        return
    encoded: dict[TableName, pd.DataFrame] = {
        "imputed": read_table(ENCODED_FOLDER / "imputed.parquet", ENCODED),
        "with_missing": read_table(ENCODED_FOLDER / "with_missing.parquet", ENCODED),
    }
    row_level = load_json(COHORT_FACTS)["source"] != "restricted"
    out = OUT / "shap" / name
    write_shap_report(bundle, encoded, load_specs(SPECS), out, params, row_level=row_level)


if __name__ == "__main__":
    run_stage(main)
