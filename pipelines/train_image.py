"""Stage ``train_image``: patches and their splits -> the bundle of one image network."""

from functools import partial
from pathlib import Path

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.explain.maps.choice import choose_method
from histofuse.params.base import load_section, load_seed
from histofuse.params.explain import MapParams
from histofuse.params.image import ImageParams
from histofuse.params.tune import apply_values
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.tracking.recorder import open_recorder
from histofuse.training.fitting.processes import report_idle_gpus
from histofuse.training.image import load_patch_data, train_image

PATCHES = Path("data/patches")
SPLITS = Path("data/splits/patches.parquet")
STUDIES = Path("studies")
MODELS = Path("models")
EMBEDDINGS = Path("data/image_embeddings")


def main(model: str) -> None:
    params = load_section(ImageParams, f"image.{model}").root
    params = apply_values(params, read_best_params(STUDIES / params.study / BEST_PARAMS))
    maps, seed = load_section(MapParams, "explain.maps"), load_seed()
    data = load_patch_data(PATCHES, SPLITS)
    counts = data.table["split"].value_counts()
    report(f"read {len(data.table):,} patches, {counts['train']:,} of them to train on")

    report_idle_gpus(f"pipelines/train_image.py {model}")
    with open_recorder(run_name=model) as recorder:
        result = train_image(
            data,
            params,
            seed,
            recorder,
            MODELS / model,
            embeddings=EMBEDDINGS / model,
            choose_maps=partial(choose_method, model, folder=PATCHES, params=maps, seed=seed),
        )
    best = result.history[result.best_epoch - 1]
    report(
        f"wrote {MODELS / model}: epoch {result.best_epoch} of {len(result.history)},"
        f" validation macro-F1 {best['validation_macro_f1']:.3f}"
    )


if __name__ == "__main__":
    run_stage(main, shared=True)
