"""What the stages of studies share: their options, MLflow and the figures."""

from collections.abc import Sequence
from pathlib import Path

from histofuse.studies.figures import draw_study
from histofuse.studies.run import StudyJob, parse_options, run_study
from histofuse.tracking.studies import open_observer

STUDIES = Path("studies")


def run_job(job: StudyJob, words: Sequence[str], storage: str) -> None:
    """Run a study, or as its worker, and record it in MLflow.

    Args:
        job: The study.
        words: The options on the command line of its stage.
        storage: Where it is stored, unless the options say otherwise.
    """
    options = parse_options(words, storage)
    with open_observer() as recorder:
        run_study(job, options, STUDIES / job.name, recorder.observe, draw_study)
