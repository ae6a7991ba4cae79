"""Objective of any method of fusion at patient level: cross-validation over train patients.

The validation patients stay out of it: they are kept for calibration and thresholds.
"""

from typing import Final

from histofuse.core.errors import InputError
from histofuse.params.ehr import EncodingParams
from histofuse.params.patients import AnyPatientParams
from histofuse.params.project import name_section
from histofuse.params.tune import StudyParams
from histofuse.patients.bags import PatientBags
from histofuse.patients.fusion.methods import fit_method
from histofuse.patients.learners import split_patients
from histofuse.patients.rows import PatientRows, fit_record_encoder, make_rows, select_split
from histofuse.patients.train import PatientCohort
from histofuse.studies.objectives.folds import score_folds
from histofuse.studies.run import StudyJob
from histofuse.studies.trials import Report, TrialResult
from histofuse.training.recorder import Recorder
from histofuse.training.rows import score_logits

FOLDS: Final = 5


class PatientObjective:
    """Mean score over held-out folds, both sides given.

    A fold's own held-out patients choose a network's epoch, which flatters all trials alike. The
    encoding of records was learnt from all train patients.
    """

    def __init__(self, bags: PatientBags, encoding: EncodingParams, seed: int, metric: str) -> None:
        self.metric, self.seed = metric, seed
        rows = make_rows(bags, fit_record_encoder(bags, encoding))
        train = select_split(rows, bags.split, "train")
        self._folds = [
            (train.take(rest), train.take(held_out))
            for rest, held_out in split_patients(train.outcome, FOLDS, seed)
        ]
        if not self._folds:
            expected = "at least two train patients of each outcome, for folds"
            raise InputError.of("the patients", "too few to tune on", expected)

    def __call__(self, params: AnyPatientParams, report: Report) -> TrialResult:
        """Cross-validate."""

        def fit(fold: tuple[PatientRows, PatientRows]) -> dict[str, float]:
            model = fit_method(*fold, params, self.seed, Recorder()).model
            return score_logits(model.logits(fold[1]), fold[1].outcome)

        return score_folds(self._folds, fit, self.metric, report)


def make_job(  # noqa: PLR0917
    name: str,
    cohort: PatientCohort,
    base: AnyPatientParams,
    params: StudyParams,
    encoding: EncodingParams,
    seed: int,
) -> StudyJob:
    """Make the study ``patient_<method>`` of the section ``patients.<method>``."""
    return StudyJob(
        name=name,
        model=name_section("patients", name),
        base=base,
        params=params,
        seed=seed,
        inputs=dict(cohort.digests),
        source=cohort.source,
        measured_on="stratified folds of the train patients",
        make_objective=lambda seed, metric: PatientObjective(cohort.bags, encoding, seed, metric),
    )
