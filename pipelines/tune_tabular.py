"""Stage ``tune_tabular``: encoded health records -> the study of one tabular model."""

from pathlib import Path

from _stage import run_stage
from histofuse.params.base import load_section, load_seed
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.studies.figures import draw_study
from histofuse.studies.objectives.folds import MEASURED_ON, make_objective
from histofuse.studies.run import StudyJob, parse_options, run_study
from histofuse.tracking.studies import open_observer
from histofuse.training.tabular import load_table

ENCODED = Path("data/encoded")
COHORT_FACTS = Path("data/cohort/meta.json")
STUDIES = Path("studies")


def main(name: str, *words: str) -> None:
    base = load_section(TabularParams, f"tabular.{name}").root
    params = load_section(StudyParams, f"tune.{name}")
    storage = load_section(StudyStorage, "study_storage").root
    seed, table = load_seed(), load_table(ENCODED, COHORT_FACTS, base.kind)
    job = StudyJob(
        name=name,
        model=f"tabular.{name}",
        base=base,
        params=params,
        seed=seed,
        inputs=dict(table.digests),
        source=table.source,
        measured_on=MEASURED_ON,
        make_objective=lambda: make_objective(table, base, seed, params.metric),
    )
    with open_observer() as observer:
        run_study(job, parse_options(words, storage), STUDIES / name, observer, draw_study)


if __name__ == "__main__":
    run_stage(main)
