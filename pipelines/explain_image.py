"""Stage ``explain_image``: a network and its test patches -> gallery of maps, and its tests."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder
from histofuse.core.bundle import PREDICTIONS, open_bundle
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import list_concerns
from histofuse.explain.maps.gallery import write_gallery
from histofuse.explain.maps.mappers import map_image_network
from histofuse.explain.maps.patches import Patches
from histofuse.models.backbones import MAPS, load_image_model
from histofuse.params.base import load_section, load_seed
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.decision import load_decision
from histofuse.training.image import IMAGE_PREDICTIONS

MODELS = Path("models")
PATCHES = Path("data/patches")
OUT = Path("reports/explain/gradcam")


def main(model: str) -> None:
    params = load_section(ExplainParams, "explain")
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    bundle = open_bundle(MODELS / model)
    predictions = read_table(bundle.path / PREDICTIONS, IMAGE_PREDICTIONS)
    test = predictions[predictions["split"] == "test"]
    report(f"read {model} and its predictions of {len(test):,} test patches")

    mapper = map_image_network(model, load_image_model(bundle))
    calibrator, _ = load_decision(bundle.path)
    patches = Patches(mapper, bundle.digest, PATCHES, test, calibrator.probabilities)
    with replacing_folder(OUT / model) as folder:
        tests = write_gallery(patches, folder, params, bootstrap, bundle.config.get(MAPS))
    for concern in list_concerns(tests):
        report(f"concern: {concern}")
    report(
        f"wrote {show_count(len(list((OUT / model).rglob('*.png'))), 'figures')} in {OUT / model}"
    )


if __name__ == "__main__":
    run_stage(main)
