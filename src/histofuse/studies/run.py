"""Running a study to its end, in this process or with worker processes."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from tqdm import tqdm

from histofuse.core.artifacts import digest_text, to_json
from histofuse.core.code import digest_code
from histofuse.core.errors import HistofuseError
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.params.tune import STUDY, StudyParams, check_space
from histofuse.studies.results import write_study
from histofuse.studies.search import MOST_RETRIES, Study, name_study
from histofuse.studies.storage import describe_storage, reaching
from histofuse.studies.trials import (
    Objective,
    Observe,
    StudySpec,
    TrialRecord,
    count_unfinished,
    find_best,
    list_ends,
)

STORAGE_VARIABLE: Final = "HISTOFUSE_STUDY_STORAGE"  # its value may hold a password
POLL_SECONDS: Final = 0.5
OBSERVE_SECONDS: Final = 10.0


@dataclass(frozen=True)
class StudyJob:
    """A study to run."""

    name: str  # also of the folder of its results
    model: str  # the model's section of params.yaml, such as tabular.xgboost
    base: BaseModel  # that section
    params: StudyParams  # section tune.<name>
    seed: int
    inputs: dict[str, str]  # name -> SHA-256
    source: str  # of the data, such as simulated
    measured_on: str
    make_objective: Callable[[int, str], Objective]  # of seed and metric, where trials run

    def load_objective(self) -> Objective:
        """Load what a trial needs."""
        return self.make_objective(self.seed, self.params.metric)


def make_spec(job: StudyJob, code: str) -> StudySpec:
    """Describe a study; its id depends on all but the number of trials, and on a digest of code."""
    values = {key: value for key, value in job.base.model_dump().items() if key != STUDY}
    space = {key: span.model_dump() for key, span in job.params.space.items()}
    settings = job.params.model_dump(exclude={"space", "metric"})
    decisive = {
        "name": job.name, "base": values, "space": space, "seed": job.seed, "inputs": job.inputs,
        "metric": job.params.metric, "code": code,
        **{key: value for key, value in settings.items() if key != "trials"},
    }  # fmt: skip
    return StudySpec(
        name=job.name,
        study_id=digest_text(to_json(decisive)),
        metric=job.params.metric,
        measured_on=job.measured_on,
        direction="maximize",
        space=space,
        base=values,
        settings=settings,
        seed=job.seed,
        inputs=job.inputs,
        source=job.source,
    )


@dataclass(frozen=True)
class Options:
    """How a study is run; none of it changes a trial's result."""

    workers: int  # processes on this machine; 1 runs the trials in this process
    storage: str  # journal file or URL
    trials: int | None  # None takes the number of params.yaml
    worker_of: str | None  # id of the study this worker process belongs to; None if it starts them


def parse_options(words: Sequence[str], storage: str) -> Options:
    """Parse the words after a study's name on the command line of its stage."""
    parser = argparse.ArgumentParser(prog="tune")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--storage", default=os.environ.get(STORAGE_VARIABLE, storage))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--worker-of", help=argparse.SUPPRESS)
    return Options(**vars(parser.parse_args(words)))


def run_study(
    job: StudyJob,
    options: Options,
    folder: Path,
    observe: Observe | None,
    draw: Callable[[StudySpec, Sequence[TrialRecord], Path], None],
) -> None:
    """Run a study until it has its trials, and write its folder, unless this is a worker.

    `observe` gets the finished trials every `OBSERVE_SECONDS` and at the end; `draw` draws
    figures into a folder. Raises InputError if the space does not fit the model, or the storage
    cannot be opened; HistofuseError if trial after trial fails, or none completes.
    """
    check_space(job.params, job.base, f"tune.{job.name}", job.model)
    params = job.params.model_copy(update={"trials": options.trials or job.params.trials})
    code = digest_code(__name__, job.make_objective.__module__)
    spec = make_spec(replace(job, params=params), code)
    study = Study(spec, params, options.storage)
    with reaching():
        if options.worker_of is not None:
            _work(study, job, options.worker_of)
            return
        _Coordinator(study, job, options, observe).run()
        trials = study.read_trials()
    write_study(spec, trials, folder, draw)
    for line in describe_study(spec, trials, folder, options.storage):
        report(line)


def _work(study: Study, job: StudyJob, study_id: str) -> None:
    """Run trials until there are enough, or the process that started this one has ended."""
    if study.spec.study_id != study_id:
        raise HistofuseError(
            f"study {job.name}: code, params or inputs have changed since it was started. "
            "Run the same command: it starts a study of the present ones."
        )
    parent, objective = os.getppid(), job.load_objective()
    while os.getppid() == parent and study.try_next(objective, job.base):
        pass


class _Coordinator:
    """Runs a study: its trials, here or in workers, and the reports to an observer."""

    def __init__(
        self, study: Study, job: StudyJob, options: Options, observe: Observe | None
    ) -> None:
        self.study, self.job, self.options, self.observe = study, job, options, observe
        self.workers: list[subprocess.Popen[bytes]] = []
        # At once: what an observer imports then loads during the first trials.
        self._observe_at = time.monotonic()
        self._deaths = 0

    def run(self) -> None:
        total = self.study.params.trials
        finished = self.study.count_finished()
        if finished:
            report(f"study {self.job.name}: {min(finished, total)} of {total} trials were there")
        with tqdm(total=total, initial=finished, desc=f"  study {self.job.name}", leave=False,
                  disable=None) as bar:  # fmt: skip
            self._bar = bar
            try:
                if finished < total:
                    self._run(workers=min(self.options.workers, total - finished))
                self._wait_for_others()
            except KeyboardInterrupt:
                self._report()
                raise HistofuseError(
                    f"study {self.job.name}: stopped after {self.study.count_finished()} of "
                    f"{total} trials. The same command continues."
                ) from None
            finally:
                self._end_workers()
        self._report()

    def _run(self, workers: int) -> None:
        if self.options.workers == 1:
            objective = self.job.load_objective()
            while self.study.try_next(objective, self.job.base):
                self._look()
            return
        self.workers = [self._start_worker() for _ in range(workers)]
        while self.workers:
            time.sleep(POLL_SECONDS)
            self._reap()
            self._look()

    def _wait_for_others(self) -> None:
        """Wait for trials that run elsewhere, and repeat those whose workers are lost."""
        reported = False
        while self.study.count_finished() < self.study.params.trials:
            self._look()
            if self.study.has_room():
                self._run(workers=1)
                continue
            if not reported:
                report(f"study {self.job.name}: waiting for the last trials of other workers")
                reported = True
            time.sleep(POLL_SECONDS)

    def _start_worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, sys.argv[0], self.job.name]
        command += ["--trials", str(self.study.params.trials)]
        command += ["--worker-of", self.study.spec.study_id]
        # Threads of several workers would compete for the cores.
        threads = {"OMP_NUM_THREADS": "1"} if self.options.workers > 1 else {}
        environment = {**os.environ, **threads, STORAGE_VARIABLE: self.options.storage}
        # Ctrl-C reaches all processes of a terminal, but this one ends its workers itself.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
        finally:
            signal.signal(signal.SIGINT, handler)

    def _reap(self) -> None:
        """Remove the workers that have ended, and replace those that were killed."""
        ended = [w for w in self.workers if w.poll() is not None]
        for worker in ended:
            self.workers.remove(worker)
            if worker.returncode:
                self._deaths += 1
                self._replace(worker.returncode)

    def _replace(self, status: int) -> None:
        self.study.require_success()
        name, cause = f"study {self.job.name}", f"signal {-status}"
        if status > 0:
            raise HistofuseError(
                f"{name}: a worker ended with exit status {status}. Its output gives the reason; "
                "finished trials are kept."
            )
        if self._deaths > (MOST_RETRIES + 1) * self.options.workers:
            raise HistofuseError(
                f"{name}: {self._deaths} workers were killed before they finished a trial, the "
                f"last by {cause}; use fewer if memory is short. Finished trials are kept."
            )
        report(f"{name}: a worker was killed by {cause}; another replaces it")
        self.workers.append(self._start_worker())

    def _look(self) -> None:
        self.study.recover_lost()
        self.study.require_success()
        finished = min(self.study.count_finished(), self.study.params.trials)
        if finished > self._bar.n:
            self._deaths = 0
            trials = self.study.read_trials()
            best = find_best(self.study.spec, trials)
            value = "" if best is None else f"best {self.study.spec.metric} {best.value:.4f}, "
            self._bar.set_postfix_str(value + count_unfinished(trials), refresh=False)
        self._bar.n = finished
        self._bar.refresh()
        if time.monotonic() >= self._observe_at:
            self._report()

    def _report(self) -> None:
        if self.observe is not None:
            self.observe(self.study.spec, self.study.read_trials())
        self._observe_at = time.monotonic() + OBSERVE_SECONDS

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait()


def describe_study(
    spec: StudySpec, trials: Sequence[TrialRecord], folder: Path, storage: str
) -> list[str]:
    """Describe in a few lines how a study ended and how to look at it."""
    best, first = find_best(spec, trials), trials[0]
    assert best is not None
    value, first_value = best.value or 0.0, first.value
    gain = "" if first_value is None else f", with the values of params.yaml {first_value:.4f}"
    params = ", ".join(f"{key} {_show(v)}" for key, v in best.params.items())
    ends = list_ends(spec, best)
    return [
        f"wrote {folder}: best {spec.metric} {value:.4f} on {spec.measured_on}{gain}",
        f"{show_count(trials, 'trials')}, {count_unfinished(trials)}; "
        f"best is trial {best.number}: {params}",
        *(f"{end}: widen tune.{spec.name}.space" for end in ends),
        f"optuna trials --study-name {name_study(spec)} {describe_storage(storage)}",
    ]


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
