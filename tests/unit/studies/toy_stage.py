"""A study's stage as pipelines/ has them, with a model that costs nothing to train.

``TOY`` holds settings as JSON: those of `ToyObjective`, and those of a study, such as ``trials``.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histofuse.core.errors import HistofuseError
from histofuse.core.stage import run_stage
from histofuse.params.base import Section
from histofuse.params.tune import StudyParams
from histofuse.studies.run import StudyJob, parse_options, run_study
from histofuse.studies.trials import Report, TrialResult

FOLDS = 4
OBJECTIVE = {"seconds", "deadly_depth", "fault"}
SPACE = {
    "depth": {"type": "int", "low": 1, "high": 9, "log": False},
    "rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "widths": {"type": "choice", "of": [[8], [16, 8]]},
}


class ToyParams(Section):
    """Section of the toy model."""

    depth: int
    rate: float
    widths: list[int]


BASE = ToyParams(depth=7, rate=0.5, widths=[8])


def make_job(make_objective: Callable[[int, str], Any], **changes: Any) -> StudyJob:
    """Make the job of a study, with changed settings."""
    settings = {
        "trials": 12,
        "metric": "auroc",
        "sampler": "tpe",
        "pruner": "median",
        "pruner_warmup_trials": 3,
        "space": SPACE,
    }
    return StudyJob(
        name="toy",
        model="tabular.toy",
        base=BASE,
        params=StudyParams.model_validate(settings | changes),
        seed=7,
        inputs={"data": "0" * 64},
        source="simulated",
        measured_on="a formula",
        make_objective=make_objective,
    )


class ToyObjective:
    """Best at depth 3, rate 0.01 and widths [16, 8]; the later the fold, the better.

    A file ``hold`` in the folder makes trials wait after their next report.

    Args:
        seconds: How long a trial takes.
        deadly_depth: Ends the process as `kill -9` does.
        fault: What is wrong with the data, for which there is no objective then.
    """

    def __init__(self, seconds: float = 0.0, deadly_depth: int = 0, fault: str = "") -> None:
        if fault:
            raise HistofuseError(fault)
        self.seconds, self.deadly_depth = seconds, deadly_depth

    def __call__(self, params: ToyParams, report: Report) -> TrialResult:
        """Try params."""
        if params.depth == self.deadly_depth:
            os.kill(os.getpid(), signal.SIGKILL)
        values = []
        for fold in range(FOLDS):
            time.sleep(self.seconds / FOLDS)
            values.append(compute_value(params) * (FOLDS + fold) / (2 * FOLDS))
            report(fold, sum(values) / len(values))
            while Path("hold").exists():
                time.sleep(0.02)
        value = sum(values) / len(values)
        return TrialResult(value, {"cv/auroc": value}, {"cv/auroc/fold": values})


def compute_value(params: ToyParams) -> float:
    """Compute how near the params are to the best, 1 at it."""
    distance = (params.depth - 3) ** 2 / 36 + abs(params.rate - 0.01) + (len(params.widths) == 1)
    return 1 / (1 + distance)


def main(name: str, *words: str) -> None:
    settings = json.loads(os.environ["TOY"])
    objective = {key: settings.pop(key) for key in OBJECTIVE & settings.keys()}
    job = make_job(lambda *_: ToyObjective(**objective), **settings)
    options = parse_options(words, "studies.journal")
    run_study(job, options, Path("studies") / name, None, lambda *_: None)


if __name__ == "__main__":
    run_stage(main)
