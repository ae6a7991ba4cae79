"""Stage ``tune_tabular``: encoded health records -> the study of one tabular model."""

from pathlib import Path

from _stage import run_stage
from _study import run_job
from histofuse.params.base import load_section, load_seed
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.studies.objectives.folds import make_job
from histofuse.training.tabular import load_table

ENCODED = Path("data/encoded")
COHORT_METADATA = Path("data/cohort/meta.json")


def main(name: str, *words: str) -> None:
    base = load_section(TabularParams, f"tabular.{name}").root
    params = load_section(StudyParams, f"tune.{name}")
    table = load_table(ENCODED, COHORT_METADATA, base.kind)
    job = make_job(name, table, base, params, load_seed())
    run_job(job, words, load_section(StudyStorage, "study_storage").root)


if __name__ == "__main__":
    run_stage(main)
