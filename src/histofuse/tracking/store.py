"""The one door to MLflow: a local SQLite store, or the server of ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import logging
import os
import shutil
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from histofuse.core.artifacts import replacing_file, replacing_folder
from histofuse.core.errors import HistofuseError, RegistryError
from histofuse.core.progress import report
from histofuse.tracking.local import (
    find_database,
    is_dead,
    locate_artifacts,
    read_running,
    read_versions,
    rehome,
)
from histofuse.tracking.names import (
    CONTENT_TAG,
    DIGEST_TAG,
    EXPERIMENT,
    MODEL_FOLDER,
    PROCESS_TAG,
    REGISTERED_PREFIX,
    Version,
    redact,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

DATABASE: Final = Path("mlruns/mlflow.db")
REACHED_WITHIN_SECONDS: Final = 10
LOCK_SECONDS: Final = 1800
BATCH: Final = 1000  # the most metrics MLflow takes at once
PARAMS_BATCH: Final = 100

# A server that is down is said to be so within seconds; MLflow's own defaults try for minutes.
# Nothing is told to MLflow's makers, and its progress bars stay out of ours.
SETTINGS: Final[Mapping[str, str]] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def name_store() -> str:
    """Name the tracking address: ``MLFLOW_TRACKING_URI``, else the project's own database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE.resolve()}"


def open_store() -> Store:
    """Open the store without importing MLflow, which is left to the first call that needs it.

    Raises:
        RegistryError: If the store cannot be reached.
    """
    store = Store(name_store())
    store.require_reachable()
    return store


class Store:
    """Runs and registered models at one tracking address."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.database = find_database(uri)

    def require_reachable(self) -> None:
        """Make sure that the store answers, or can be made.

        Raises:
            RegistryError: If it does not; says so within seconds.
        """
        try:
            if self.database is not None:
                self.database.parent.mkdir(parents=True, exist_ok=True)
                if not os.access(self.database.parent, os.W_OK):
                    raise PermissionError("the folder cannot be written to")
            elif self.uri.startswith(("http://", "https://")):
                urllib.request.urlopen(self.uri, timeout=REACHED_WITHIN_SECONDS).close()
        except urllib.error.HTTPError:
            return  # an answer, if not a welcome; MLflow may have the credentials for it
        except (OSError, ValueError) as error:
            raise self._explain(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a local store for oneself; a server needs no lock.

        Raises:
            RegistryError: If another process holds it for longer than any publishing takes.
        """
        if self.database is None:
            yield
            return
        from filelock import FileLock, Timeout

        lock = FileLock(self.database.with_suffix(".lock"), is_singleton=True)
        try:
            lock.acquire(timeout=2)
        except Timeout:
            report("waiting for another process to finish writing to MLflow")
            try:
                lock.acquire(timeout=LOCK_SECONDS)
            except Timeout:
                raise RegistryError(
                    f"{lock.lock_file}: held by another process for {LOCK_SECONDS} seconds. "
                    "End that process, and run histofuse publish."
                ) from None
        try:
            rehome(self.database)
            yield
        finally:
            lock.release()

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; a local database is made first."""
        with self.explaining():
            mlflow = _import_mlflow()
            if self.database is not None and not self.database.is_file():
                with self.locked():
                    _make_database(self.database)
            return mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """The experiment that holds all runs, made if need be."""
        from mlflow.exceptions import MlflowException

        with self.explaining():
            found = self.client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                where = locate_artifacts(self.database) if self.database else None
                try:
                    return self.client.create_experiment(EXPERIMENT, where and str(where))
                except MlflowException:
                    found = self.client.get_experiment_by_name(EXPERIMENT)
                    if found is None:
                        raise
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return found.experiment_id

    # --- reading --------------------------------------------------------------------------------

    def list_versions(self) -> list[Version]:
        """List the versions of this project's models that are whole, by name and number."""
        if self.database is not None:
            return read_versions(self.database)
        contents = {
            run.info.run_id: run.data.tags[CONTENT_TAG]
            for run in self._search_runs(f"tags.`{CONTENT_TAG}` != ''")
        }
        found = self._search_versions(f"name LIKE '{REGISTERED_PREFIX}%'")
        versions = [_to_version(v, contents) for v in found if DIGEST_TAG in v.tags]
        return sorted(versions, key=lambda v: (v.name, v.number))

    def find_version(self, name: str, digest: str) -> Version | None:
        """Find the first version of a registered model that holds a bundle, whole or not."""
        found = self._search_versions(f"name = '{name}' AND tags.`{DIGEST_TAG}` = '{digest}'")
        versions = [_to_version(v, {}) for v in found]
        return min(versions, key=lambda v: v.number, default=None)

    def find_runs(self, digest: str) -> list[Run]:
        """Find the runs of a bundle, oldest first."""
        return self._search_runs(f"tags.`{DIGEST_TAG}` = '{digest}'")

    def get_run(self, run_id: str) -> Run:
        """Get a run with its latest metrics, params and tags."""
        with self.explaining():
            return self.client.get_run(run_id)

    def list_abandoned(self) -> list[str]:
        """List the runs whose process died without ending them."""
        if self.database is not None:
            running = read_running(self.database)
        else:
            runs = self._search_runs("attributes.status = 'RUNNING'")
            running = {r.info.run_id: r.data.tags.get(PROCESS_TAG, "") for r in runs}
        return sorted(run_id for run_id, process in running.items() if is_dead(process))

    def _search_runs(self, query: str) -> list[Run]:
        found: list[Run] = []
        token = None
        with self.explaining():
            while True:
                page = self.client.search_runs(
                    [self.experiment_id], query, order_by=["start_time ASC"], page_token=token
                )
                found += page
                token = page.token
                if not token:
                    return found

    def _search_versions(self, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        with self.explaining():
            while True:
                page = self.client.search_model_versions(query, page_token=token)
                found += page
                token = page.token
                if not token:
                    return found

    # --- writing runs ---------------------------------------------------------------------------

    def create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run and return its id."""
        with self.explaining():
            run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))
            return run.info.run_id

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log the params the run does not hold yet; MLflow never changes one."""
        from mlflow.entities import Param

        with self.explaining():
            known = self.client.get_run(run_id).data.params
            new = [Param(k, v[:6000]) for k, v in sorted(params.items()) if k not in known]
            for first in range(0, len(new), PARAMS_BATCH):
                self.client.log_batch(run_id, params=new[first : first + PARAMS_BATCH])

    def log_metrics(self, run_id: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log metrics, each row with its step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step) for step, row in rows for name, value in row.items()
        ]
        with self.explaining():
            for first in range(0, len(metrics), BATCH):
                self.client.log_batch(run_id, metrics=metrics[first : first + BATCH])

    def read_steps(self, run_id: str, metric: str) -> set[int]:
        """List the steps at which a metric was logged."""
        with self.explaining():
            return {m.step for m in self.client.get_metric_history(run_id, metric)}

    def log_inputs(self, run_id: str, inputs: Mapping[str, str]) -> None:
        """Log data sets by what they are and their digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(Dataset(name, digest[:36], "dvc", name), [InputTag("sha256", digest)])
            for name, digest in sorted(inputs.items())
        ]
        with self.explaining():
            self.client.log_inputs(run_id, datasets)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        with self.explaining():
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in sorted(tags.items())])

    def end_run(self, run_id: str, status: str, name: str | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED; rename it if told to."""
        with self.explaining():
            if name is not None:
                self.client.update_run(run_id, name=name)
            self.client.set_terminated(run_id, status)

    def delete_run(self, run_id: str) -> None:
        """Delete a run."""
        with self.explaining():
            self.client.delete_run(run_id)

    def end_abandoned(self) -> None:
        """Mark the runs whose process died as KILLED."""
        for run_id in self.list_abandoned():
            self.end_run(run_id, "KILLED")

    def log_folder(self, run_id: str, folder: Path, replaced: Sequence[str]) -> None:
        """Upload a folder's content as a run's artifacts.

        Args:
            run_id: The run.
            folder: What to upload.
            replaced: Artifact folders that are removed first.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self.explaining():
            address = self.client.get_run(run_id).info.artifact_uri or ""
            repository = get_artifact_repository(address, tracking_uri=self.uri)
            present = {item.path for item in repository.list_artifacts()}
            for name in replaced:
                if name in present:
                    repository.delete_artifacts(name)
            self.client.log_artifacts(run_id, str(folder))

    # --- models ---------------------------------------------------------------------------------

    def save_model(
        self,
        bundle: Path,
        script: Path,
        requirements: list[str],
        columns: Mapping[str, str],
        folder: Path,
    ) -> None:
        """Write a bundle in MLflow's layout: a script that reads it, and its files as they are.

        Args:
            bundle: A folder named ``bundle``.
            script: The models-from-code script.
            requirements: Pinned packages; without them MLflow finds out by running the model.
            columns: Name to ``double`` or ``string``, where the input is a table.
            folder: The folder to make.
        """
        _import_mlflow()
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

        # Not required: the model itself names all the columns that are missing, not the first.
        specs: list[ColSpec | TensorSpec] = [
            ColSpec(DataType[kind], name, required=False) for name, kind in columns.items()
        ]
        signature: Any = ModelSignature(Schema(specs)) if specs else None
        with self.explaining(), _hushed():
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(script),
                artifacts={"bundle": str(bundle)},
                pip_requirements=requirements,
                signature=signature,
            )

    def create_version(self, name: str, run_id: str, digest: str, description: str) -> None:
        """Register the model that a run holds; of two at the same moment the first stays."""
        from mlflow.exceptions import MlflowException

        with self.explaining():
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{self.client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
            tags = {DIGEST_TAG: digest}
            made = self.client.create_model_version(
                name, source, run_id, tags=tags, description=description
            )
            first = self.find_version(name, digest)
            if first is not None and first.number < int(made.version):
                self.client.delete_model_version(name, str(made.version))

    def describe_version(self, name: str, number: int, description: str) -> None:
        """Set the description of a version."""
        with self.explaining():
            self.client.update_model_version(name, str(number), description)

    def fetch(self, version: Version, artifact: str, target: Path) -> None:
        """Copy a folder of a version's run to `target`, all of it or nothing.

        Raises:
            RegistryError: If the files cannot be read.
        """
        source = f"{version.source.removesuffix(f'/{MODEL_FOLDER}')}/{artifact}"
        with replacing_folder(target) as folder:
            if self.database is not None:
                self._copy(Path(source), folder)
            else:
                self._download(source, folder)

    def _copy(self, source: Path, folder: Path) -> None:
        try:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        except OSError as error:
            raise self._explain(error) from None

    def _download(self, source: str, folder: Path) -> None:
        with self.explaining(), TemporaryDirectory() as scratch:
            found = _import_mlflow().artifacts.download_artifacts(
                artifact_uri=source, dst_path=scratch, tracking_uri=self.uri
            )
            shutil.copytree(found, folder, dirs_exist_ok=True)

    # --- faults ---------------------------------------------------------------------------------

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn MLflow's faults into one message.

        Raises:
            RegistryError: For any fault of MLflow, its database or the connection to it.
        """
        _import_mlflow()
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except HistofuseError:
            raise
        except (MlflowException, SQLAlchemyError, requests.RequestException, OSError) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> RegistryError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if self.database is None:
            remedy = (
                "Start the server, or correct MLFLOW_TRACKING_URI; unset it to use the local store."
            )
        elif "database schema" in reason:
            remedy = (
                f"It was written by another version of MLflow: remove {self.database} and run "
                "histofuse publish, which rebuilds it."
            )
        else:
            remedy = f"See to {self.database.parent}, then run histofuse publish."
        return RegistryError(f"MLflow at {redact(self.uri)} fails: {redact(reason)}. {remedy}")


def _to_version(found: ModelVersion, contents: Mapping[str, str]) -> Version:
    run_id = found.run_id or ""
    return Version(
        name=found.name,
        number=int(found.version),
        digest=found.tags[DIGEST_TAG],
        run_id=run_id,
        source=found.source or "",
        content=contents.get(run_id),
    )


def _import_mlflow() -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.artifacts

    return mlflow


def _make_database(database: Path) -> None:
    """Make a database with MLflow's schema, whole or not at all."""
    if database.is_file():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    report("making a new MLflow store")
    with replacing_file(database) as temporary, _hushed(), _without_sync():
        root = str(locate_artifacts(database))
        SqlAlchemyStore(f"sqlite:///{temporary.resolve()}", root).engine.dispose()


@contextmanager
def _without_sync() -> Iterator[None]:
    """Let SQLite skip the hundreds of disk flushes of a migration; the file is renamed after it."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def relax(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep MLflow's hints and its migration log off the terminal."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        # MLflow sets filters of its own around some hints, so it is the showing that is stopped.
        warnings.showwarning = lambda *_, **__: None
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
