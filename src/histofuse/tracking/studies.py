"""Studies in MLflow: one run a study, and nested in it one run a trial.

They are written from what a study's folder holds, so they can be rebuilt from DVC like everything
else in MLflow; while a study runs they appear as its trials finish. A trial that is there already,
by the study's id, its number and what it found, is not written again.
"""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from histofuse.core.artifacts import digest_folder, digest_text, write_text
from histofuse.core.errors import RegistryError
from histofuse.core.processes import describe_process
from histofuse.core.progress import report
from histofuse.studies.results import FACTS, TRIALS, format_trials, read_study
from histofuse.studies.trials import StudyFacts, TrialRecord, find_best
from histofuse.tracking.lease import holding
from histofuse.tracking.names import (
    CONTENT_TAG,
    PROCESS_TAG,
    STATE_TAG,
    STUDIES_EXPERIMENT,
    STUDY_TAG,
    TRIAL_DIGEST_TAG,
    TRIAL_TAG,
    flatten,
    name_params,
)
from histofuse.tracking.provenance import describe_revision, read_revision
from histofuse.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

STUDIES: Final = Path("studies")
PARENT_TAG: Final = "mlflow.parentRunId"
WRITER_TAG: Final = "histofuse.writer"  # of a study: who wrote to it last
RESTRICTED: Final = "restricted"
STATUS: Final = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


# --- while a study runs -------------------------------------------------------------------------


@contextmanager
def open_observer() -> Iterator[StudyRecorder]:
    """Open what tells MLflow of a running study, and wait at the end until all is told.

    Raises:
        RegistryError: If the store cannot be reached at the start.
    """
    recorder = StudyRecorder(open_store(STUDIES_EXPERIMENT))
    try:
        yield recorder
    finally:
        recorder.close()


class StudyRecorder:
    """Implements `training.search_types.StudyObserver`.

    A thread of its own imports MLflow and writes, while the trials go on. If the store fails, the
    study goes on unrecorded, and ``publish`` makes up for it.
    """

    def __init__(self, store: Store) -> None:
        self._writer = StudyWriter(store)
        self._waiting: queue.SimpleQueue[tuple[StudyFacts, list[TrialRecord]] | None]
        self._waiting = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False

    def observe(self, facts: StudyFacts, trials: Sequence[TrialRecord]) -> None:
        """Have the trials that MLflow does not know yet written."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, daemon=True)
            self._thread.start()
        self._waiting.put((facts, list(trials)))

    def close(self) -> None:
        """Wait until all is written."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _write_all(self) -> None:
        ended = False
        while not ended:
            waiting = [self._waiting.get()]
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            ended = None in waiting
            told = [item for item in waiting if item is not None]
            if told and not self._failed:
                self._write(*told[-1])  # the last tells of all trials the others told of

    def _write(self, facts: StudyFacts, trials: list[TrialRecord]) -> None:
        try:
            self._writer.write(facts, trials)
        except RegistryError as error:
            self._failed = True
            report(f"study {facts.name} is no longer recorded, it goes on. {error}")


# --- writing ------------------------------------------------------------------------------------


def write_study_runs(facts: StudyFacts, trials: Sequence[TrialRecord], store: Store) -> str:
    """Write the runs of a study that are not there yet.

    Returns:
        The id of the study's own run.
    """
    return StudyWriter(store).write(facts, trials)


class StudyWriter:
    """Writes the runs of one study, and remembers what is there instead of asking each time.

    The study's own run names who wrote to it last: one who finds another name there looks again.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._token = uuid4().hex
        self._parent_id: str | None = None
        self._written: dict[int, tuple[str, str]] = {}  # number -> run, digest

    def write(self, facts: StudyFacts, trials: Sequence[TrialRecord]) -> str:
        """Write the runs that are not there yet; give the id of the study's own."""
        # Several machines may look after one study and tell the same server of it.
        with holding(self.store, f"{STUDIES}.{facts.study_id[:12]}"):
            parent = self._find_own() or self._take_over(facts)
            for trial in trials:
                self._put(facts, trial, parent.info.run_id)
            _summarise(facts, trials, parent, self.store)
        return parent.info.run_id

    def _find_own(self) -> Run | None:
        """Get the study's run if no one else has written to the study since this one did."""
        if self._parent_id is None:
            return None
        run = self.store.get_run(self._parent_id)
        is_own = run.data.tags.get(WRITER_TAG) == self._token
        return run if is_own and run.info.lifecycle_stage == "active" else None

    def _take_over(self, facts: StudyFacts) -> Run:
        """Look at what is there, and say before the first change that this one writes now."""
        runs = self.store.find_runs(STUDY_TAG, facts.study_id)
        parent = next((r for r in runs if TRIAL_TAG not in r.data.tags), None)
        if parent is None:
            parent = _begin(facts, self._token, self.store)
        else:
            self.store.log_batch(parent.info.run_id, tags={WRITER_TAG: self._token})
        self._written = _list_whole([r for r in runs if TRIAL_TAG in r.data.tags], self.store)
        self._parent_id = parent.info.run_id
        return parent

    def _put(self, facts: StudyFacts, trial: TrialRecord, parent_id: str) -> None:
        """Write a trial, unless it is there; another that had its number goes."""
        digest = _digest(trial)
        run_id, written = self._written.get(trial.number, (None, None))
        if written == digest:
            return
        if run_id is not None:
            self.store.delete_run(run_id)
        run_id = _write_trial(facts, trial, digest, parent_id, self.store)
        self._written[trial.number] = run_id, digest


def _begin(facts: StudyFacts, token: str, store: Store) -> Run:
    tags = {
        STUDY_TAG: facts.study_id,
        WRITER_TAG: token,
        "histofuse.kind": "study",
        "histofuse.model": facts.name,
        "histofuse.source": facts.source,
        PROCESS_TAG: describe_process(),
        **describe_revision(read_revision()),
    }
    run = store.create_run(f"study {facts.name}", tags)
    params = {
        **flatten(facts.settings),
        "metric": facts.metric,
        "measured_on": facts.measured_on,
        "seed": str(facts.seed),
        **flatten({"space": {k.replace(".", "/"): v for k, v in facts.space.items()}}),
    }
    # A longer study goes on under the same run, and MLflow never changes a param.
    params = {key: value for key, value in params.items() if key != "trials"}
    store.log_batch(run.info.run_id, params=params)
    store.log_inputs(run.info.run_id, facts.inputs)
    return run


def _digest(trial: TrialRecord) -> str:
    """Digest what a trial tried and found: its number is not its own while others are running.

    A trial lost with its worker is not counted, and those after it move up. What is written while
    a study runs and what is read from its folder have the same digest.
    """
    found = [trial.state, trial.value, trial.params, trial.scores, trial.steps]
    return digest_text(json.dumps(found, sort_keys=True))


def _list_whole(runs: Sequence[Run], store: Store) -> dict[int, tuple[str, str]]:
    """Map the number of each trial that is there whole to its run and digest.

    Those cut off half-way are dropped.
    """
    whole = {}
    for run in runs:
        if run.info.status == "RUNNING":
            store.delete_run(run.info.run_id)
        else:
            digest = run.data.tags.get(TRIAL_DIGEST_TAG, "")
            whole[int(run.data.tags[TRIAL_TAG])] = run.info.run_id, digest
    return whole


def _write_trial(
    facts: StudyFacts, trial: TrialRecord, digest: str, parent_id: str, store: Store
) -> str:
    tags = {
        PARENT_TAG: parent_id,
        STUDY_TAG: facts.study_id,
        TRIAL_TAG: str(trial.number),
        TRIAL_DIGEST_TAG: digest,
        STATE_TAG: trial.state,
        "histofuse.kind": "trial",
        "histofuse.model": facts.name,
        "histofuse.source": facts.source,
    }
    if reason := _tell_reason(facts, trial):
        tags["histofuse.reason"] = reason
    final = {f"search/{facts.metric}": trial.value} if trial.value is not None else {}
    rows = [(0, {**trial.scores, **final})]
    rows += [
        (step, {name: value}) for name, values in trial.steps.items()
        for step, value in enumerate(values)
    ]  # fmt: skip
    run_id = store.create_run(f"{facts.name} trial {trial.number}", tags).info.run_id
    store.log_batch(run_id, params=name_params(trial.params), rows=rows)
    store.end_run(run_id, STATUS[trial.state])
    return run_id


def _tell_reason(facts: StudyFacts, trial: TrialRecord) -> str:
    """Say why a trial failed; of restricted data only the kind of error: it may name a patient."""
    return trial.reason.partition(":")[0] if facts.source == RESTRICTED else trial.reason


def _summarise(facts: StudyFacts, trials: Sequence[TrialRecord], parent: Run, store: Store) -> None:
    """Bring the study's own run in line with its trials."""
    best = find_best(facts, trials)
    states = [t.state for t in trials]
    metrics = {f"trials/{state.lower()}": float(states.count(state)) for state in STATUS}
    chosen: dict[str, str] = {}
    if best is not None and best.value is not None:
        metrics |= {f"search/{facts.metric}": best.value, "search/best_trial": float(best.number)}
        chosen = {f"histofuse.best.{key}": str(value) for key, value in best.params.items()}
    run_id, known = parent.info.run_id, parent.data
    if not (metrics.items() <= known.metrics.items() and chosen.items() <= known.tags.items()):
        store.log_batch(run_id, rows=[(len(trials), metrics)], tags=chosen)
    if len(trials) >= facts.settings["trials"] and parent.info.status != "FINISHED":
        store.end_run(run_id, "FINISHED")


# --- from DVC -----------------------------------------------------------------------------------


def publish_studies(folder: Path = STUDIES) -> tuple[list[str], list[str]]:
    """Bring MLflow in line with the studies DVC holds; what is there is not written again.

    Returns:
        Names of the studies written or completed, and of those that were there.
    """
    written, unchanged = [], []
    folders = sorted(path.parent for path in folder.glob(f"*/{FACTS}"))
    if not folders:
        return written, unchanged
    store = open_store(STUDIES_EXPERIMENT)
    for path in folders:
        (written if _publish_study(path, store) else unchanged).append(path.name)
    return written, unchanged


def _publish_study(folder: Path, store: Store) -> bool:
    facts, trials = read_study(folder)
    content = digest_folder(folder)
    runs = [r for r in store.find_runs(CONTENT_TAG, content) if r.info.status == "FINISHED"]
    if runs:
        return False
    run_id = write_study_runs(facts, trials, store)
    with TemporaryDirectory(prefix="histofuse-") as scratch:
        shutil.copytree(folder, Path(scratch) / "study")
        told = [replace(trial, reason=_tell_reason(facts, trial)) for trial in trials]
        write_text(format_trials(told), Path(scratch) / "study" / TRIALS)
        store.log_folder(run_id, Path(scratch), replaced=("study",))
    store.log_batch(run_id, tags={CONTENT_TAG: content})
    return True
