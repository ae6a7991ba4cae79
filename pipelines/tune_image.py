"""Stage ``tune_image``: patches -> the study of one image network."""

from pathlib import Path

from _stage import run_stage
from histofuse.params.base import load_section, load_seed
from histofuse.params.image import ImageParams
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.studies.figures import draw_study
from histofuse.studies.objectives.epochs import MEASURED_ON, ImageObjective
from histofuse.studies.run import StudyJob, parse_options, run_study
from histofuse.tracking.studies import open_observer
from histofuse.training.image import load_patch_data

PATCHES = Path("data/patches")
SPLITS = Path("data/splits/patches.parquet")
STUDIES = Path("studies")


def main(name: str, *words: str) -> None:
    params = load_section(StudyParams, f"tune.{name}")
    storage = load_section(StudyStorage, "study_storage").root
    seed, data = load_seed(), load_patch_data(PATCHES, SPLITS)
    job = StudyJob(
        name=name,
        model=f"image.{name}",
        base=load_section(ImageParams, f"image.{name}"),
        params=params,
        seed=seed,
        inputs=dict(data.digests),
        source=data.meta.source,
        measured_on=MEASURED_ON,
        make_objective=lambda: ImageObjective(name, data, seed, params.metric),
    )
    with open_observer() as observer:
        run_study(job, parse_options(words, storage), STUDIES / name, observer, draw_study)


if __name__ == "__main__":
    run_stage(main)
