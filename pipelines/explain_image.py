"""Stage ``explain_image``: a network and its test patches -> Grad-CAM gallery."""

from pathlib import Path

from histofuse.core.bundle import open_bundle
from histofuse.core.progress import report, run_stage
from histofuse.core.tables import read_table
from histofuse.explain.gradcam import write_gradcam_gallery
from histofuse.params.base import load_section
from histofuse.params.explain import ExplainParams
from histofuse.training.image import IMAGE_PREDICTIONS, PREDICTIONS

MODELS = Path("models")
PATCHES = Path("data/patches")
OUT = Path("reports/explain/gradcam")


def main(model: str) -> None:
    params = load_section(ExplainParams, "explain")
    bundle = open_bundle(MODELS / model)
    predictions = read_table(bundle.path / PREDICTIONS, IMAGE_PREDICTIONS)
    shown = predictions[predictions["split"] == "test"]
    report(f"read {model} and its predictions of {len(shown):,} test patches")

    write_gradcam_gallery(bundle, PATCHES, shown, OUT, params)
    report(f"wrote {len(list((OUT / model).rglob('*.png')))} figures in {OUT / model}")


if __name__ == "__main__":
    run_stage(main)
