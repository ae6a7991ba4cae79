"""Hyperparameter studies: what Optuna is used for, and the only place that knows it.

A study lives in a storage that any number of workers share, on one machine or on many. Its name
holds a digest of all that a trial's outcome depends on, so trials are never mixed that cannot be
compared, and a study that was interrupted, or is asked for more trials, goes on where it stopped.

**Same trials.** Trial 0 has the values of params.yaml and is never given up. The sampler is seeded
anew for each trial, by its number among those not lost, so one worker tries the same params whether
or not it was interrupted. Several workers see each other's results in another order each time.

**Lost trials.** A running trial carries the name of its process and a sign of life. Any worker that
finds one whose process has ended, or (from another machine) that has been silent for too long,
marks it as failed and queues its params once more.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from histofuse.core.artifacts import digest_text, to_json
from histofuse.core.errors import Fault, HistofuseError, InputError
from histofuse.core.processes import describe_process, is_dead
from histofuse.core.seeding import derive_seed
from histofuse.params.tune import STUDY, Choice, StudyParams, apply_values
from histofuse.studies.trials import (
    Objective,
    StopTrial,
    StudyFacts,
    TrialRecord,
    TrialResult,
)

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages.journal import JournalFileOpenLock
    from optuna.trial import FrozenTrial, Trial

LOST = "histofuse.lost"  # user attributes of trials
WORKER = "histofuse.worker"
ALIVE_AT = "histofuse.alive_at"
RETRIES = "histofuse.retries"
REASON = "histofuse.reason"
SCORES = "histofuse.scores"
STEPS = "histofuse.steps"

BEAT_SECONDS: Final = 20.0
SILENT_SECONDS: Final = 120.0  # a worker elsewhere that gave no sign for this long is lost
UNSIGNED_SECONDS: Final = 10.0  # a trial is signed right after it is begun
MOST_RETRIES: Final = 3  # params that end their process each time are given up
OPENING_ATTEMPTS: Final = 4
MOST_FAILURES: Final = 5  # in a row, and the study stops


def make_facts(
    name: str,
    base: BaseModel,
    params: StudyParams,
    seed: int,
    *,
    inputs: Mapping[str, str],
    source: str,
    measured_on: str,
    code: str,
) -> StudyFacts:
    """Describe a study; its id covers all but the number of trials.

    Args:
        name: Of the study.
        base: The model's own section.
        params: Section ``tune.<name>``.
        seed: The run's.
        inputs: SHA-256 of each input.
        source: Of the data.
        measured_on: How the objective measures.
        code: Digest of the code a trial runs through.
    """
    values = {key: value for key, value in base.model_dump().items() if key != STUDY}
    space = {key: found.model_dump() for key, found in params.space.items()}
    settings = params.model_dump(exclude={"space", "metric"})
    decisive = {
        "name": name, "base": values, "space": space, "seed": seed, "inputs": dict(inputs),
        "metric": params.metric, "code": code,
        **{key: value for key, value in settings.items() if key != "trials"},
    }  # fmt: skip
    return StudyFacts(
        name=name,
        study_id=digest_text(to_json(decisive)),
        metric=params.metric,
        measured_on=measured_on,
        direction="maximize",
        space=space,
        base=values,
        settings=settings,
        seed=seed,
        inputs=dict(inputs),
        source=source,
    )


def name_study(facts: StudyFacts) -> str:
    """Name a study in its storage: "xgboost-1f3a…"."""
    return f"{facts.name}-{facts.study_id[:12]}"


class Study:
    """A study in its storage, as one process sees it.

    Raises:
        InputError: If the storage cannot be opened.
    """

    def __init__(self, facts: StudyFacts, params: StudyParams, storage: str) -> None:
        import optuna

        # Optuna tells of each trial; the bar and the table do that.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # For good: warning filters are the process's own, and another thread may be importing.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.facts = facts
        self.params = params
        self.distributions = {key: _to_distribution(v) for key, v in params.space.items()}
        self._sampler = _make_sampler(params, facts)
        with _explaining(storage):
            self._storage = open_storage(storage)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name_study(facts),
                direction=facts.direction,
                sampler=self._sampler,
                pruner=_make_pruner(params),
                load_if_exists=True,
            )
            self._first = {k: self._to_label(k, _find(facts.base, k)) for k in params.space}
            kept = self.list_kept()
            if not any(t.system_attrs.get("fixed_params") == self._first for t in kept):
                self._study.enqueue_trial(self._first)
            self._found_finished = {t.number for t in kept if t.state.is_finished()}

    # --- reading --------------------------------------------------------------------------------

    def list_kept(self) -> list[FrozenTrial]:
        """List the trials that count, running and waiting ones included, by number."""
        trials = self._study.get_trials(deepcopy=False)
        return sorted((t for t in trials if not is_lost(t)), key=lambda t: t.number)

    def count_finished(self) -> int:
        """Count the trials that are done with."""
        return sum(t.state.is_finished() for t in self.list_kept())

    def read_trials(self) -> list[TrialRecord]:
        """Read the finished trials, numbered without those that were lost."""
        return [
            self._to_record(number, trial)
            for number, trial in enumerate(self.list_kept()[: self.params.trials])
            if trial.state.is_finished()
        ]

    def _to_record(self, number: int, trial: FrozenTrial) -> TrialRecord:
        state: Any = trial.state.name
        known = trial.user_attrs
        steps = known.get(STEPS)
        if steps is None:
            reported = [float(v) for _, v in sorted(trial.intermediate_values.items())]
            steps = {f"search/{self.facts.metric}": reported} if reported else {}
        return TrialRecord(
            number=number,
            state=state,
            value=trial.value if state == "COMPLETE" else None,
            params=self.read_values(trial.params),
            scores=dict(known.get(SCORES, {})),
            steps={name: list(values) for name, values in steps.items()},
            reason=known.get(REASON, ""),
        )

    def read_values(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Turn what the storage holds into values of params: lists are stored as text."""
        return {
            key: _label_choices(found)[label] if isinstance(found, Choice) else label
            for key, label in labels.items()
            if (found := self.params.space.get(key)) is not None
        }

    def _to_label(self, key: str, value: Any) -> Any:
        found = self.params.space[key]
        if not isinstance(found, Choice):
            return value
        return next(label for label, v in _label_choices(found).items() if v == value)

    # --- trying ---------------------------------------------------------------------------------

    def try_next(self, objective: Objective, base: BaseModel) -> bool:
        """Try the next params.

        What an objective raises makes a failed trial; one that took so long to give a sign of life
        that others have queued its params is dropped.

        Returns:
            False if there is nothing left to do: all trials are finished, or others are at the last
            ones.

        Raises:
            HistofuseError: If trial after trial fails.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        self.recover_lost()
        if not self.has_room():
            return False
        # Others who took this process for dead have the trial in their hands.
        with suppress(UpdateFinishedTrialError):
            trial = self._study.ask(fixed_distributions=self.distributions)
            if self._is_surplus(trial.number):
                self._lose(trial._trial_id)
                return False
            with _beating(trial):
                self._run(trial, objective, base)
        self.require_success()
        return True

    def has_room(self) -> bool:
        """Say whether fewer trials were begun than there are to be."""
        kept = self.list_kept()
        begun = [t for t in kept if t.state.name != "WAITING"]
        return len(begun) < self.params.trials

    def _is_surplus(self, number: int) -> bool:
        """Whether others took the last places between the look and the asking."""
        before = [t for t in self.list_kept() if t.number < number and t.state.name != "WAITING"]
        return len(before) >= self.params.trials

    def _run(self, trial: Trial, objective: Objective, base: BaseModel) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        is_first = trial.params == self._first

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            # The first is what the best is compared with; several workers may have overtaken it.
            if not is_first and trial.should_prune():
                raise StopTrial

        try:
            section = apply_values(base, self.read_values(trial.params))
            result = objective(section, report)
            if not math.isfinite(result.value):
                raise ValueError(f"{self.facts.metric} is {result.value}")
        except StopTrial:
            self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except UpdateFinishedTrialError:
            raise
        except Exception as error:
            trial.set_user_attr(REASON, self._explain(error))
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        except BaseException:
            self._requeue(self._storage.get_trial(trial._trial_id), retries=0)
            raise
        else:
            self._tell(trial, result)

    def _explain(self, error: Exception) -> str:
        """Say what went wrong; a message may quote a row, which restricted data must not show."""
        kind = type(error).__name__
        return kind if self.facts.source == "restricted" else f"{kind}: {error}"[:500]

    def _tell(self, trial: Trial, result: TrialResult) -> None:
        trial.set_user_attr(SCORES, {k: float(v) for k, v in result.scores.items()})
        trial.set_user_attr(STEPS, {k: [*map(float, v)] for k, v in result.steps.items()})
        self._study.tell(trial, result.value, skip_if_finished=True)

    def require_success(self) -> None:
        """Make sure that not trial after trial fails.

        Raises:
            HistofuseError: If the last few did, of those that finished since the study was opened;
                what made earlier ones fail may be mended by now.
        """
        finished = [t for t in self.list_kept() if t.state.is_finished()]
        finished = [t for t in finished if t.number not in self._found_finished]
        last = finished[-MOST_FAILURES:]
        if len(last) == MOST_FAILURES and all(t.state.name == "FAIL" for t in last):
            reason = last[-1].user_attrs.get(REASON, "their processes ended")
            raise HistofuseError(
                f"study {self.facts.name}: the last {MOST_FAILURES} trials failed, the last with: "
                f"{reason}. Mend it and run the same command: finished trials are kept."
            )

    # --- lost workers ---------------------------------------------------------------------------

    def recover_lost(self) -> int:
        """Fail the running trials whose workers are gone and queue their params again.

        Returns:
            How many there were.
        """
        running = [t for t in self.list_kept() if t.state.name == "RUNNING"]
        return sum(self._recover(t) for t in running if _is_gone(t))

    def _recover(self, trial: FrozenTrial) -> bool:
        retries = trial.user_attrs.get(RETRIES, 0)
        if retries >= MOST_RETRIES:
            reason = f"its process ended {retries + 1} times"
            self._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            return self._fail(trial._trial_id)
        return self._requeue(trial, retries + 1)

    def _requeue(self, trial: FrozenTrial, retries: int) -> bool:
        """Give a trial up and queue its params; False if another worker has done so."""
        from optuna.trial import TrialState, create_trial

        if not self._lose(trial._trial_id):
            return False
        waiting = create_trial(
            state=TrialState.WAITING,
            # Those it was to have, too: it may have ended before it drew them.
            system_attrs={
                "fixed_params": trial.system_attrs.get("fixed_params", {}) | trial.params
            },
            user_attrs={RETRIES: retries},
        )
        self._study.add_trial(waiting)
        return True

    def _lose(self, trial_id: int) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._storage.set_trial_user_attr(trial_id, LOST, value=True)
        except UpdateFinishedTrialError:
            return False
        return self._fail(trial_id)

    def _fail(self, trial_id: int) -> bool:
        """Mark a trial as failed; False if another worker has done so."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False


def is_lost(trial: FrozenTrial) -> bool:
    """Say whether a trial was lost with its worker, or was one too many."""
    # One that finished while it was being given up did finish.
    return trial.state.name == "FAIL" and bool(trial.user_attrs.get(LOST))


def _is_gone(trial: FrozenTrial) -> bool:
    if is_dead(trial.user_attrs.get(WORKER, "")):
        return True
    alive_at = trial.user_attrs.get(ALIVE_AT)
    if alive_at is not None:
        return time.time() - alive_at > SILENT_SECONDS
    started = trial.datetime_start
    return started is not None and time.time() - started.timestamp() > UNSIGNED_SECONDS


def _sign(storage: optuna.storages.BaseStorage, trial_id: int) -> None:
    """Say whose a trial is."""
    storage.set_trial_user_attr(trial_id, WORKER, describe_process())
    storage.set_trial_user_attr(trial_id, ALIVE_AT, time.time())


@contextmanager
def _beating(trial: Trial) -> Iterator[None]:
    """Renew a trial's sign of life now and then."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            # A storage that is away for a moment is back with the next beat.
            with _swallowing():
                trial.set_user_attr(ALIVE_AT, time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _swallowing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logging.getLogger(__name__).debug("no sign of life: %s", error)


# --- storage ------------------------------------------------------------------------------------


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """Open a journal file, made if need be, or the database of a URL."""
    import optuna

    if "://" in storage:
        return _open_database(storage)
    from optuna.storages.journal import JournalFileBackend

    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(storage, lock_obj=_make_lock(storage)))


def _open_database(url: str) -> optuna.storages.BaseStorage:
    """Open a database, whose tables are made if need be; others may do so at the same time."""
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for attempt in range(OPENING_ATTEMPTS):
        try:
            return optuna.storages.get_storage(url)
        except (IntegrityError, ProgrammingError):  # a table was made between the look and the leap
            if attempt == OPENING_ATTEMPTS - 1:
                raise
            time.sleep(1 + attempt)
    raise AssertionError


def _make_lock(journal: str) -> JournalFileOpenLock:
    """Make the lock of a journal whose writers may be killed, even while they write.

    A lock left behind is broken after the grace period; Optuna's default lock on a journal with a
    relative path never is. Half a line would make all that are written after it unreadable.
    """
    from optuna.storages.journal import JournalFileOpenLock

    class Lock(JournalFileOpenLock):
        def acquire(self) -> bool:
            taken = super().acquire()
            try:
                drop_half_line(Path(journal))
            except BaseException:
                self.release()
                raise
            return taken

    return Lock(journal, grace_period=5)


def drop_half_line(path: Path, block: int = 65536) -> None:
    """Cut a file after its last line's end; what follows was not written to the end."""
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def describe_storage(storage: str) -> str:
    """Say how Optuna's own command line is told of a storage; a password is left out."""
    if "://" in storage:
        from sqlalchemy import make_url

        return f"--storage {make_url(storage).render_as_string(hide_password=True)}"
    return f"--storage {storage} --storage-class JournalFileBackend"


@contextmanager
def reaching(storage: str) -> Iterator[None]:
    """Explain it where a storage that was open no longer answers.

    Raises:
        HistofuseError: If it does not.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise HistofuseError(
            f"study storage: no longer answers ({_first_line(error.__cause__ or error)}). Finished "
            f"trials are kept: once it is back, the same command goes on from there."
        ) from None


@contextmanager
def _explaining(storage: str) -> Iterator[None]:
    import optuna
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    expected = "a journal file that can be written, or the URL of a database that answers"
    try:
        yield
    except (OSError, ValueError, ImportError, ArgumentError, SQLAlchemyError) as error:
        problem = f"cannot be opened ({_first_line(error)})"
    except optuna.exceptions.StorageInternalError as error:
        problem = f"cannot be reached ({_first_line(error.__cause__ or error)})"
    else:
        return
    raise InputError([Fault("study_storage", problem, expected, "Or give --storage.")])


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# --- sampling -----------------------------------------------------------------------------------


def _to_distribution(found: Any) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    match found.type:
        case "int":
            return IntDistribution(found.low, found.high, log=found.log)
        case "float":
            return FloatDistribution(found.low, found.high, log=found.log)
        case _:
            return CategoricalDistribution(list(_label_choices(found)))


def _label_choices(found: Choice) -> dict[Any, Any]:
    """Name the values of a choice as a storage takes them: lists and mappings as JSON."""
    plain = (bool, int, float, str, type(None))
    return {v if isinstance(v, plain) else json.dumps(v): v for v in found.of}


def _find(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _make_pruner(params: StudyParams) -> optuna.pruners.BasePruner:
    import optuna

    # Not Hyperband: it deals trials out by number, and a retried trial has another one.
    if params.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=params.pruner_warmup_trials)
    return optuna.pruners.NopPruner()


def _make_sampler(params: StudyParams, facts: StudyFacts) -> optuna.samplers.BaseSampler:
    import optuna

    def make(number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed(facts.seed, "study", facts.name, number)
        if params.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    return _seed_per_trial(make)


def _seed_per_trial(
    make: Callable[[int], optuna.samplers.BaseSampler],
) -> optuna.samplers.BaseSampler:
    """Make a sampler that hands each trial to one of its own, made for the trial's number."""
    import optuna

    class SeededSampler(optuna.samplers.BaseSampler):
        def __init__(self) -> None:
            self.inner = make(0)

        def before_trial(self, study: Any, trial: FrozenTrial) -> None:
            # First of all: killed before it, a trial is nobody's and waited for.
            _sign(study._storage, trial._trial_id)
            trials = study.get_trials(deepcopy=False)
            earlier = [t for t in trials if t.number < trial.number and not is_lost(t)]
            self.inner = make(len(earlier))
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> Any:
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> Any:
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(
            self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any
        ) -> Any:
            return self.inner.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: FrozenTrial, state: Any, values: Any) -> None:
            self.inner.after_trial(study, trial, state, values)

    return SeededSampler()
