"""Hyperparameter studies with Optuna.

Any number of workers share a study in one storage, on one machine or on many. The study's name
holds a digest of all that a trial's result depends on, so only comparable trials share a study. A
study that was interrupted, or is given more trials, continues where it stopped.

**Same trials.** Trial 0 has the values of params.yaml and is never pruned. Each trial has a sampler
of its own, seeded by its number among those not lost, so one worker tries the same params whether
or not it was interrupted. Several workers see each other's results in a different order each time.

**Lost trials.** A running trial holds the name of its process and a time stamp that is renewed. A
worker that finds one whose process has ended here, or whose time stamp is too old, marks it as
failed and queues its params again. Optuna's own heartbeat (5.0) cannot replace this: a journal has
none, and its retry copies the attributes of the lost trial, by which we count lost trials.
"""

from __future__ import annotations

import math
import time
import warnings
from contextlib import suppress
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from histofuse.core.errors import HistofuseError
from histofuse.core.privacy import RESTRICTED
from histofuse.core.processes import beating, describe_process, is_dead
from histofuse.core.seeding import derive_seed
from histofuse.params.tune import StudyParams, apply_values
from histofuse.studies.space import from_stored, to_distribution, to_stored
from histofuse.studies.storage import open_storage, opening
from histofuse.studies.trials import Objective, StopTrial, StudySpec, TrialRecord

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

LOST = "histofuse.lost"  # user attributes of trials
WORKER = "histofuse.worker"
ALIVE_AT = "histofuse.alive_at"
RETRIES = "histofuse.retries"
REASON = "histofuse.reason"
SCORES = "histofuse.scores"
STEPS = "histofuse.steps"

BEAT_SECONDS: Final = 20.0
SILENT_SECONDS: Final = 120.0  # a worker on another machine that is silent for longer is lost
UNSIGNED_SECONDS: Final = 10.0  # a trial gets its worker's name right after it starts
MOST_RETRIES: Final = 3  # of params whose process ends each time
MOST_FAILURES: Final = 5  # in a row, and the study stops


def name_study(spec: StudySpec) -> str:
    """Name a study in its storage: "xgboost-1f3a…"."""
    return f"{spec.name}-{spec.study_id[:12]}"


class Study:
    """A study in its storage, as one process sees it.

    Raises InputError if the storage cannot be opened.
    """

    def __init__(self, spec: StudySpec, params: StudyParams, storage: str) -> None:
        import optuna

        # Optuna would report each trial; the progress bar and the table do that.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # Permanently: another thread may be importing, and warning filters belong to the process.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.spec = spec
        self.params = params
        self.distributions = {key: to_distribution(span) for key, span in params.space.items()}
        with opening():
            self._storage = open_storage(storage)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name_study(spec),
                direction=spec.direction,
                pruner=_make_pruner(params),
                load_if_exists=True,
            )
            if self._study.metric_names is None:  # of the axes in optuna-dashboard
                self._study.set_metric_names([f"{spec.metric} on {spec.measured_on}"])
            self._first = {
                key: to_stored(span, reduce(getitem, key.split("."), spec.base))
                for key, span in params.space.items()
            }
            kept = self.list_kept()
            if not any(t.system_attrs.get("fixed_params") == self._first for t in kept):
                self._study.enqueue_trial(self._first)
            self._found_finished = {t.number for t in kept if t.state.is_finished()}

    def list_kept(self) -> list[FrozenTrial]:
        """List the trials that count, running and waiting ones included, by number."""
        trials = self._study.get_trials(deepcopy=False)
        return sorted((t for t in trials if not is_lost(t)), key=lambda t: t.number)

    def count_finished(self) -> int:
        """Count the finished trials."""
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
            steps = {f"search/{self.spec.metric}": reported} if reported else {}
        return TrialRecord(
            number=number,
            state=state,
            value=trial.value if state == "COMPLETE" else None,
            params=from_stored(self.params.space, trial.params),
            scores=dict(known.get(SCORES, {})),
            steps={name: list(values) for name, values in steps.items()},
            reason=known.get(REASON, ""),
        )

    def try_next(self, objective: Objective, base: BaseModel) -> bool:
        """Try the next params; False if all trials are finished or running elsewhere.

        An error of the objective makes a failed trial. A trial that was silent for so long that
        another worker has queued its params is dropped. Raises HistofuseError if trial after trial
        fails.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        self.recover_lost()
        if not self.has_room():
            return False
        # Another worker took this process for dead and has finished the trial.
        with suppress(UpdateFinishedTrialError):
            trial = self._ask()
            if not self.has_room(before=trial.number):  # others started the last ones meanwhile
                self._fail(trial._trial_id, LOST, value=True)
                return False
            with beating(BEAT_SECONDS, lambda: trial.set_user_attr(ALIVE_AT, time.time())):
                self._run(trial, objective, base)
        self.require_success()
        return True

    def has_room(self, before: int | None = None) -> bool:
        """Tell whether fewer trials were started, before one of a number, than the study has."""
        kept = [t for t in self.list_kept() if before is None or t.number < before]
        return sum(t.state.name != "WAITING" for t in kept) < self.params.trials

    def _ask(self) -> Trial:
        """Start a trial and draw its params."""
        trial = self._study.ask()
        # First: a trial whose worker is killed before this has no worker, and is waited for.
        _sign(self._storage, trial._trial_id)
        number = sum(t.number < trial.number for t in self.list_kept())
        self._study.sampler = self._make_sampler(number)
        for key, distribution in self.distributions.items():
            trial._suggest(key, distribution)
        return trial

    def _make_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import optuna

        seed = derive_seed(self.spec.seed, "study", self.spec.name, number)
        if self.params.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    def _run(self, trial: Trial, objective: Objective, base: BaseModel) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        is_first = trial.params == self._first

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            # The best is compared with the first, which is never pruned.
            if not is_first and trial.should_prune():
                raise StopTrial

        try:
            section = apply_values(base, from_stored(self.params.space, trial.params))
            result = objective(section, report)
            if not math.isfinite(result.value):
                raise ValueError(f"{self.spec.metric} is {result.value}")
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
            trial.set_user_attr(SCORES, {k: float(v) for k, v in result.scores.items()})
            trial.set_user_attr(STEPS, {k: [*map(float, v)] for k, v in result.steps.items()})
            self._study.tell(trial, result.value, skip_if_finished=True)

    def _explain(self, error: Exception) -> str:
        """Describe an error; of restricted data only its type, since a message may quote a row."""
        kind = type(error).__name__
        return kind if self.spec.source == RESTRICTED else f"{kind}: {error}"[:500]

    def require_success(self) -> None:
        """Raise HistofuseError if the last `MOST_FAILURES` trials, as of this opening, failed."""
        finished = [t for t in self.list_kept() if t.state.is_finished()]
        finished = [t for t in finished if t.number not in self._found_finished]
        last = finished[-MOST_FAILURES:]
        if len(last) == MOST_FAILURES and all(t.state.name == "FAIL" for t in last):
            reason = last[-1].user_attrs.get(REASON, "their processes ended")
            raise HistofuseError(
                f"study {self.spec.name}: the last {MOST_FAILURES} trials failed, the last with: "
                f"{reason}. Fix the cause and run the same command: finished trials are kept."
            )

    def recover_lost(self) -> int:
        """Fail the running trials whose workers are gone and queue their params; count them."""
        running = [t for t in self.list_kept() if t.state.name == "RUNNING"]
        return sum(self._recover(t) for t in running if _is_gone(t))

    def _recover(self, trial: FrozenTrial) -> bool:
        retries = trial.user_attrs.get(RETRIES, 0)
        if retries < MOST_RETRIES:
            return self._requeue(trial, retries + 1)
        return self._fail(trial._trial_id, REASON, f"its process ended {retries + 1} times")

    def _requeue(self, trial: FrozenTrial, retries: int) -> bool:
        """Give a trial up and queue its params; False if another worker has done so."""
        from optuna.trial import TrialState, create_trial

        if not self._fail(trial._trial_id, LOST, value=True):
            return False
        # Also those queued for it: it may have ended before it drew the others.
        params = trial.system_attrs.get("fixed_params", {}) | trial.params
        waiting = create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": params},
            user_attrs={RETRIES: retries},
        )
        self._study.add_trial(waiting)
        return True

    def _fail(self, trial_id: int, key: str, value: Any) -> bool:
        """Give a trial an attribute and mark it as failed; False if it has finished meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            self._storage.set_trial_user_attr(trial_id, key, value)
            return self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False


def is_lost(trial: FrozenTrial) -> bool:
    """Tell whether a trial was lost with its worker, or was one too many."""
    # A trial that finished while another worker gave it up counts as finished.
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
    """Write which process runs a trial."""
    storage.set_trial_user_attr(trial_id, WORKER, describe_process())
    storage.set_trial_user_attr(trial_id, ALIVE_AT, time.time())


def _make_pruner(params: StudyParams) -> optuna.pruners.BasePruner:
    import optuna

    # Not Hyperband: it deals trials out by number, and a retried trial has another one.
    if params.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=params.pruner_warmup_trials)
    return optuna.pruners.NopPruner()
