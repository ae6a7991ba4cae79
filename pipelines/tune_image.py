"""Stage ``tune_image``: patches -> the study of one image network."""

from pathlib import Path

from _stage import run_stage
from _study import run_job
from histofuse.params.base import load_section, load_seed
from histofuse.params.image import FinetuneParams
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.studies.objectives.epochs import MEASURED_ON, ImageObjective
from histofuse.studies.run import StudyJob
from histofuse.training.image import load_patch_data

PATCHES = Path("data/patches")
SPLITS = Path("data/splits/patches.parquet")


def main(name: str, *words: str) -> None:
    data = load_patch_data(PATCHES, SPLITS)
    job = StudyJob(
        name=name,
        model=f"image.{name}",
        base=load_section(FinetuneParams, f"image.{name}"),
        params=load_section(StudyParams, f"tune.{name}"),
        seed=load_seed(),
        inputs=dict(data.digests),
        source=data.meta.source,
        measured_on=MEASURED_ON,
        make_objective=lambda seed, metric: ImageObjective(name, data, seed, metric),
    )
    run_job(job, words, load_section(StudyStorage, "study_storage").root)


if __name__ == "__main__":
    run_stage(main)
