"""Stage ``tune_patients``: linked patients -> the study of one method of fusion."""

from pathlib import Path

from _stage import run_stage
from _study import run_job
from histofuse.params.base import load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.patients import AllPatientParams
from histofuse.params.project import name_section
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.patients.train import load_cohort
from histofuse.studies.objectives.patients import make_job

LINKED = Path("data/linked")


def main(name: str, *words: str) -> None:
    methods = load_section(AllPatientParams, "patients").root
    base = methods[name_section("patients", name).partition(".")[2]]
    params = load_section(StudyParams, f"tune.{name}")
    encoding = load_section(EncodingParams, "encoding")
    job = make_job(name, load_cohort(LINKED), base, params, encoding, load_seed())
    run_job(job, words, load_section(StudyStorage, "study_storage").root)


if __name__ == "__main__":
    run_stage(main)
