"""Studies in MLflow: one run for each study, with a nested run for each trial.

They are written from what a study's folder holds, and trials of a running study as they finish. A
trial that is there already (same number and result) is not written again. A complete run only ever
takes the same spec with the same trials: other trials are a run of their own.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from histofuse.core.artifacts import digest_folder, digest_text, to_json, write_text
from histofuse.core.naming import flatten
from histofuse.core.privacy import RESTRICTED
from histofuse.core.processes import describe_process
from histofuse.core.progress import report
from histofuse.studies.results import SPEC, TRIALS, format_trials, read_study
from histofuse.studies.trials import StudySpec, TrialRecord, find_best, list_ends
from histofuse.tracking import names
from histofuse.tracking.lease import holding
from histofuse.tracking.names import name_params
from histofuse.tracking.provenance import describe_revision, read_revision
from histofuse.tracking.publish import Outcome
from histofuse.tracking.recorder import LIVE_AFTER_SECONDS
from histofuse.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

STUDIES: Final = Path("studies")
PARENT_TAG: Final = "mlflow.parentRunId"
WRITER_TAG: Final = "histofuse.writer"  # on studies: which writer wrote last
# Increased when the same folder is recorded differently.
FORMAT: Final = 2
# MLflow has no word for pruned, and KILLED reads as an accident: the name of the run says it.
STATUS: Final = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


@contextmanager
def open_observer(live_after_seconds: float = LIVE_AFTER_SECONDS) -> Iterator[StudyRecorder]:
    """Record a running study in MLflow, and wait at the end until all is written.

    A study that takes less than `live_after_seconds` is left to ``publish``.
    """
    recorder = StudyRecorder(open_store(names.STUDIES_EXPERIMENT), live_after_seconds)
    try:
        yield recorder
    finally:
        recorder.close()


class StudyRecorder:
    """Observes a study; a thread imports MLflow and writes.

    If the store fails, the study goes on unrecorded, and ``publish`` writes what is missing.
    """

    def __init__(self, store: Store, live_after_seconds: float) -> None:
        self._writer = StudyWriter(store)
        self._live_at = time.monotonic() + live_after_seconds
        self._pool = ThreadPoolExecutor(1)
        self._latest: tuple[StudySpec, list[TrialRecord]] | None = None
        self._failed = False

    def observe(self, spec: StudySpec, trials: Sequence[TrialRecord]) -> None:
        """Queue the trials; those that MLflow does not hold yet are written."""
        if time.monotonic() >= self._live_at:
            # MLflow imports it in the thread; scikit-learn, in this one, fails on half of it.
            import polars  # noqa: F401

            self._latest = spec, list(trials)
            self._pool.submit(self._write, *self._latest)

    def close(self) -> None:
        """Wait until all is written."""
        self._pool.shutdown()

    def _write(self, spec: StudySpec, trials: list[TrialRecord]) -> None:
        is_latest = self._latest is not None and trials is self._latest[1]
        if self._failed or not is_latest:  # the latest holds all trials of the others
            return
        try:
            self._writer.write(spec, trials)
        except Exception as error:  # whatever it is, the trials go on
            self._failed = True
            report(f"study {spec.name} is no longer recorded, but goes on. {error}")


class StudyWriter:
    """Writes the runs of one study, and remembers what MLflow holds.

    The study's own run names its last writer; if that is another one, the runs are read again.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._token = uuid4().hex
        self._parent_id: str | None = None
        self._written: dict[int, tuple[str, str]] = {}  # number -> run, digest

    def write(self, spec: StudySpec, trials: Sequence[TrialRecord]) -> str:
        """Write the runs that are not there yet; return the id of the study's own."""
        # Several machines may run one study and record it on the same server.
        with holding(self.store, f"{STUDIES}.{spec.study_id[:12]}"):
            parent = self._find_own() or self._take_over(spec, trials)
            for trial in trials:
                self._put(spec, trial, parent.info.run_id)
            _summarise(spec, trials, parent, self.store)
        return parent.info.run_id

    def _find_own(self) -> Run | None:
        """Get the study's run, unless another has written to the study since."""
        if self._parent_id is None:
            return None
        run = self.store.client.get_run(self._parent_id)
        is_own = run.data.tags.get(WRITER_TAG) == self._token
        return run if is_own and run.info.lifecycle_stage == "active" else None

    def _take_over(self, spec: StudySpec, trials: Sequence[TrialRecord]) -> Run:
        """Read what is there, after marking the study's run as written by this writer."""
        runs = self.store.find_runs(names.STUDY_TAG, spec.study_id)
        parents = [r for r in runs if r.data.tags.get(names.SPEC_TAG) == _digest_spec(spec)]
        results = [r.data.tags.get(names.RESULT_TAG, "") for r in parents]
        # The one with these trials or else the incomplete one.
        wanted = [parents[results.index(r)] for r in (_digest_all(trials), "") if r in results]
        if not wanted:
            parent = _begin(spec, self._token, self.store)
        else:
            parent = wanted[0]
            self.store.log_batch(parent.info.run_id, tags={WRITER_TAG: self._token})
        self._parent_id = parent.info.run_id
        own = [r for r in runs if r.data.tags.get(PARENT_TAG) == self._parent_id]
        self._written = _list_complete(own, self.store)
        return parent

    def _put(self, spec: StudySpec, trial: TrialRecord, parent_id: str) -> None:
        """Write a trial unless it is there, in place of another of its number."""
        digest = _digest(trial)
        run_id, written = self._written.get(trial.number, (None, None))
        if written == digest:
            return
        if run_id is not None:
            self.store.client.delete_run(run_id)
        run_id = _write_trial(spec, trial, digest, parent_id, self.store)
        self._written[trial.number] = run_id, digest


def _begin(spec: StudySpec, token: str, store: Store) -> Run:
    tags = _tag(spec, "study") | describe_revision(read_revision())
    tags |= {
        names.SPEC_TAG: _digest_spec(spec),
        WRITER_TAG: token,
        names.PROCESS_TAG: describe_process(),
    }
    run = store.create_run(f"study {spec.name}", tags)
    params = {
        **spec.settings,
        "metric": spec.metric,
        "measured_on": spec.measured_on,
        "seed": spec.seed,
        "space": {key.replace(".", "/"): value for key, value in spec.space.items()},
    }
    store.log_batch(run.info.run_id, params=flatten(params))
    store.log_inputs(run.info.run_id, spec.inputs)
    return run


def _tag(spec: StudySpec, kind: str) -> dict[str, str]:
    return {
        names.STUDY_TAG: spec.study_id,
        "histofuse.kind": kind,
        "histofuse.model": spec.name,
        "histofuse.source": spec.source,
    }


def _digest(trial: TrialRecord) -> str:
    """Digest a trial's params and result, but not its number.

    A trial that was lost with its worker is not counted, and those after it move up. A trial has
    the same digest while the study runs and when it is read from the study's folder.
    """
    content = [trial.state, trial.value, trial.params, trial.scores, trial.steps]
    return digest_text(json.dumps(content, sort_keys=True))


def _digest_all(trials: Sequence[TrialRecord]) -> str:
    return digest_text(" ".join(f"{trial.number}:{_digest(trial)}" for trial in trials))


def _digest_spec(spec: StudySpec) -> str:
    return digest_text(to_json(asdict(spec)))


def _list_complete(runs: Sequence[Run], store: Store) -> dict[int, tuple[str, str]]:
    """Map the number of each complete trial to its run and digest; delete the incomplete runs."""
    complete = {}
    for run in runs:
        if run.info.status == "RUNNING":
            store.client.delete_run(run.info.run_id)
        else:
            digest = run.data.tags.get(names.TRIAL_DIGEST_TAG, "")
            complete[int(run.data.tags[names.TRIAL_TAG])] = run.info.run_id, digest
    return complete


def _write_trial(
    spec: StudySpec, trial: TrialRecord, digest: str, parent_id: str, store: Store
) -> str:
    tags = _tag(spec, "trial") | {
        PARENT_TAG: parent_id,
        names.TRIAL_TAG: str(trial.number),
        names.TRIAL_DIGEST_TAG: digest,
        names.STATE_TAG: trial.state,
    }
    if reason := _show_reason(spec, trial):
        tags["histofuse.reason"] = reason
    final = {f"search/{spec.metric}": trial.value} if trial.value is not None else {}
    rows = [(0, {**trial.scores, **final})]
    rows += [
        (step, {name: value}) for name, values in trial.steps.items()
        for step, value in enumerate(values)
    ]  # fmt: skip
    pruned = " (pruned)" if trial.state == "PRUNED" else ""
    run_id = store.create_run(f"{spec.name} trial {trial.number}{pruned}", tags).info.run_id
    store.log_batch(run_id, params=name_params(trial.params), rows=rows)
    store.end_run(run_id, STATUS[trial.state])
    return run_id


def _show_reason(spec: StudySpec, trial: TrialRecord) -> str:
    """Show why a trial failed; of restricted data only the error type, which names no patient."""
    return trial.reason.partition(":")[0] if spec.source == RESTRICTED else trial.reason


def _summarise(spec: StudySpec, trials: Sequence[TrialRecord], parent: Run, store: Store) -> None:
    """Update the study's own run from its trials."""
    best = find_best(spec, trials)
    states = [t.state for t in trials]
    metrics = {f"trials/{state.lower()}": float(states.count(state)) for state in STATUS}
    chosen: dict[str, str] = {}
    if best is not None and best.value is not None:
        metrics |= {f"search/{spec.metric}": best.value, "search/best_trial": float(best.number)}
        chosen = {f"histofuse.best.{key}": str(value) for key, value in best.params.items()}
        if ends := list_ends(spec, best):
            chosen["histofuse.near_bound"] = "; ".join(ends)
    complete = len(trials) >= spec.settings["trials"]
    if complete:
        chosen[names.RESULT_TAG] = _digest_all(trials)
    run_id, known = parent.info.run_id, parent.data
    if not (metrics.items() <= known.metrics.items() and chosen.items() <= known.tags.items()):
        store.log_batch(run_id, rows=[(len(trials), metrics)], tags=chosen)
    if complete and parent.info.status != "FINISHED":
        store.end_run(run_id, "FINISHED")


def publish_studies(folder: Path = STUDIES) -> Outcome:
    """Write the studies below a folder, or the one in it, that MLflow does not hold."""
    outcome = Outcome([], [])
    folders = sorted(path.parent for path in folder.rglob(SPEC))
    if not folders:
        return outcome
    store = open_store(names.STUDIES_EXPERIMENT)
    for path in folders:
        fresh = _publish_study(path, store)
        (outcome.written if fresh else outcome.unchanged).append(path.name)
    return outcome


def _publish_study(folder: Path, store: Store) -> bool:
    spec, trials = read_study(folder)
    content = digest_text(f"{FORMAT} {digest_folder(folder)}")
    if store.has_finished(content):
        return False
    run_id = StudyWriter(store).write(spec, trials)
    with TemporaryDirectory(prefix=names.SCRATCH) as scratch:
        shutil.copytree(folder, Path(scratch) / "study")
        shown = [replace(trial, reason=_show_reason(spec, trial)) for trial in trials]
        write_text(format_trials(shown), Path(scratch) / "study" / TRIALS)
        store.log_folder(run_id, Path(scratch), replaced=("study",))
    store.log_batch(run_id, tags={names.CONTENT_TAG: content})
    return True
