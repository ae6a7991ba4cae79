"""The recorder of a training: live curves in MLflow; its errors do not stop the training."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import digest_file
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import RegistryError
from histofuse.core.processes import describe_process
from histofuse.core.progress import report
from histofuse.tracking.names import DIGEST_TAG, PROCESS_TAG, name_curve, name_params
from histofuse.tracking.provenance import describe_revision, read_revision
from histofuse.tracking.store import Store, open_store
from histofuse.training.recorder import Recorder

# MLflow takes seconds to import: a model that trains faster than this gets its run from `publish`.
LIVE_AFTER_SECONDS: Final = 10.0
FLUSH_SECONDS: Final = 2.0


@contextmanager
def open_recorder(
    run_name: str, live_after_seconds: float = LIVE_AFTER_SECONDS
) -> "Iterator[MlflowRecorder]":
    """Record a training as one run of MLflow.

    The run appears once the training has lasted `live_after_seconds`. If the store fails later, the
    training goes on unrecorded, and ``publish`` writes what is missing.
    """
    recorder = MlflowRecorder(run_name, open_store(), live_after_seconds)
    try:
        yield recorder
    except KeyboardInterrupt:
        recorder.end("KILLED")
        raise
    except BaseException:
        recorder.end("FAILED")
        raise


class MlflowRecorder(Recorder):
    """Shows a training in MLflow."""

    def __init__(self, run_name: str, store: Store, live_after_seconds: float) -> None:
        self.run_name, self.store = run_name, store
        self._params: dict[str, str] = {}
        self._waiting: list[tuple[int, Mapping[str, float]]] = []
        self._flush_at = time.monotonic() + live_after_seconds
        self._run_id: str | None = None
        self._failed = False

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record the run's parameters, once."""
        self._params = name_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics of one epoch or round."""
        named = {name_curve(name): float(value) for name, value in metrics.items()}
        self._waiting.append((step, named))
        if time.monotonic() >= self._flush_at:
            self._flush()

    def finish(self, bundle: Path) -> None:
        """Link the run to the bundle that the training wrote.

        Training is reproducible, so a run of the same bundle may exist; then this one is deleted.
        """
        if self._run_id is not None:
            self._flush()
            self._safely(lambda run_id: self._link(run_id, digest_file(bundle / MANIFEST)))

    def end(self, status: str) -> None:
        """End a run without a bundle, as FAILED or KILLED."""
        if self._run_id is not None:
            self._flush()
            self._safely(lambda run_id: self.store.end_run(run_id, status))

    def _link(self, run_id: str, digest: str) -> None:
        if self.store.find_runs(DIGEST_TAG, digest):
            self.store.client.delete_run(run_id)
        else:
            self.store.log_batch(run_id, tags={DIGEST_TAG: digest})
            self.store.end_run(run_id, "FINISHED")

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._safely(lambda run_id: self.store.log_batch(run_id, rows=waiting))
        self._flush_at = time.monotonic() + FLUSH_SECONDS

    def _safely(self, write: Callable[[str], None]) -> None:
        """Write to the run, which is started if it has not been; errors do not stop the training.

        MLflow draws from Python's random numbers, so their state is restored.
        """
        if self._failed:
            return
        state = random.getstate()
        try:
            if self._run_id is None:
                self._run_id = self._start()
            write(self._run_id)
        except RegistryError as error:
            self._failed = True
            report(f"{self.run_name} is no longer recorded, but its training goes on. {error}")
        finally:
            random.setstate(state)

    def _start(self) -> str:
        self.store.end_abandoned()
        tags = {PROCESS_TAG: describe_process(), **describe_revision(read_revision())}
        run_id = self.store.create_run(self.run_name, tags).info.run_id
        self.store.log_batch(run_id, params=self._params)
        return run_id
