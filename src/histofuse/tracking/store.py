"""The one door to MLflow: a local SQLite store, or the server of ``MLFLOW_TRACKING_URI``."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from histofuse.core.artifacts import replacing_file, replacing_folder
from histofuse.core.errors import HistofuseError, RegistryError
from histofuse.core.processes import is_dead
from histofuse.core.progress import report
from histofuse.tracking.interface import SHAP_BASE, Interface
from histofuse.tracking.local import (
    find_database,
    locate_artifacts,
    read_running,
    read_standings,
    read_versions,
    rehome,
)
from histofuse.tracking.names import (
    CONTENT_TAG,
    DIGEST_TAG,
    EXPERIMENT,
    MODEL_FOLDER,
    PROCESS_TAG,
    PRODUCTION_STAGE,
    REGISTERED_PREFIX,
    Standing,
    Version,
    redact,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.pyfunc import PyFuncModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

DATABASE: Final = Path("mlruns/mlflow.db")
REACHED_WITHIN_SECONDS: Final = 10
LOCK_SECONDS: Final = 1800
BATCH: Final = 1000  # the most metrics MLflow takes at once
PARAMS_BATCH: Final = 100
UPLOADS: Final = 8  # files on their way to a server at once

UNREACHABLE: Final = (
    "Start the server, or correct MLFLOW_TRACKING_URI; unset it to use the local store."
)
# What a server answers that runs but does not do as it is asked -> what to do.
REFUSALS: Final[Mapping[str, str]] = {
    r"code 401|401 Client Error": (
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user of that server; "
        "where it runs, histofuse users add NAME makes one."
    ),
    r"Invalid Host header": (
        "The server is not told that it goes by this name: start it with --allowed-hosts NAME."
    ),
    r"code 403|403 Client Error": (
        "This user may not do that: ask for one that may write, made without --read-only."
    ),
}

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


def open_store(experiment: str = EXPERIMENT) -> Store:
    """Open the store without importing MLflow, which is left to the first call that needs it.

    Args:
        experiment: Whose runs are read and written.

    Raises:
        RegistryError: If the store cannot be reached.
    """
    store = Store(name_store(), experiment)
    store.require_reachable()
    return store


class Store:
    """Runs and registered models at one tracking address."""

    def __init__(self, uri: str, experiment: str = EXPERIMENT) -> None:
        self.uri, self.experiment = uri, experiment
        self.database = find_database(uri)
        self._addresses: dict[str, str] = {}  # run -> where its artifacts lie

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
                # Python's own client takes a password in an address for a part of the host.
                address = re.sub(r"//[^/]*@", "//", self.uri)
                urllib.request.urlopen(address, timeout=REACHED_WITHIN_SECONDS).close()
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
        """The experiment's id; it is made if need be."""
        from mlflow.exceptions import MlflowException

        with self.explaining():
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                where = locate_artifacts(self.database) if self.database else None
                try:
                    return self.client.create_experiment(self.experiment, where and str(where))
                except MlflowException:
                    found = self.client.get_experiment_by_name(self.experiment)
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
        with self.explaining():
            return list(_turn_pages(self.client.search_model_versions, query))

    # --- writing runs ---------------------------------------------------------------------------

    def create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run and return its id."""
        return self.begin_run(name, tags).info.run_id

    def begin_run(self, name: str, tags: Mapping[str, str]) -> Run:
        """Start a run."""
        with self.explaining():
            return self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))

    def log_batch(
        self,
        run_id: str,
        params: Mapping[str, str],
        rows: Sequence[tuple[int, Mapping[str, float]]],
        tags: Mapping[str, str],
    ) -> None:
        """Log params the run does not hold, metrics with their steps, and tags.

        In one request, or in as many as MLflow needs for more than it takes at once.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        with self.explaining():
            self.client.log_batch(
                run_id,
                [Metric(name, v, now, step) for step, row in rows for name, v in row.items()],
                [Param(key, value[:6000]) for key, value in sorted(params.items())],
                [RunTag(key, value) for key, value in sorted(tags.items())],
            )

    def write_run(
        self,
        name: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        rows: Sequence[tuple[int, Mapping[str, float]]],
        status: str,
    ) -> str:
        """Write a whole run in as few calls as there can be, and return its id.

        Args:
            name: Of the run.
            tags: Its tags.
            params: Its params.
            rows: Metrics, each row with its step.
            status: FINISHED, FAILED or KILLED.
        """
        run_id = self.create_run(name, tags)
        self.log_batch(run_id, params, rows, {})
        self.end_run(run_id, status)
        return run_id

    def find_published(self) -> list[Run]:
        """Find the runs that were published whole, oldest first."""
        return self._search_runs(f"tags.`{CONTENT_TAG}` != ''")

    def find_tagged(self, tag: str, value: str) -> list[Run]:
        """Find the runs with a tag of a value, oldest first."""
        return self._search_runs(f"tags.`{tag}` = '{value}'")

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
            repository = get_artifact_repository(self._locate(run_id), tracking_uri=self.uri)
            present = {item.path for item in repository.list_artifacts()}
            for name in replaced:
                if name in present:
                    repository.delete_artifacts(name)
            if self.database is not None:
                repository.log_artifacts(str(folder))
            else:
                _upload(folder, repository)

    def _locate(self, run_id: str) -> str:
        """Name where a run's artifacts lie, which never changes."""
        if run_id not in self._addresses:
            self._addresses[run_id] = self.client.get_run(run_id).info.artifact_uri or ""
        return self._addresses[run_id]

    # --- models ---------------------------------------------------------------------------------

    def save_model(
        self,
        artifacts: Mapping[str, Path],
        script: Path,
        requirements: list[str],
        interface: Interface,
        folder: Path,
    ) -> None:
        """Write a model in MLflow's layout: a script that reads its files, and these as they are.

        Args:
            artifacts: Name to folder, of the same name.
            script: The models-from-code script.
            requirements: Pinned packages; without them MLflow finds out by running the model.
            interface: What it takes and gives.
            folder: The folder to make.
        """
        with self.explaining(), _hushed():
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(
                folder,
                python_model=str(script),
                artifacts={name: str(path) for name, path in artifacts.items()},
                pip_requirements=requirements,
                signature=_make_signature(interface),
                input_example=interface.example,
                metadata={"inputs": dict(interface.inputs)},
            )

    def create_version(
        self,
        name: str,
        run_id: str,
        digest: str,
        *,
        description: str,
        about: str,
        tags: Mapping[str, str],
    ) -> int:
        """Register the model that a run holds; of two at the same moment the first stays.

        Args:
            name: Of the registered model, made if need be.
            run_id: The run that holds it.
            digest: Of its bundle.
            description: Of the version.
            about: What the registered model is, if it is made now.
            tags: Of the version.

        Returns:
            The version's number.
        """
        from mlflow.exceptions import MlflowException

        with self.explaining():
            try:
                self.client.create_registered_model(name, description=about)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{self._locate(run_id)}/{MODEL_FOLDER}"
            made = self.client.create_model_version(
                name,
                source,
                run_id,
                tags={**tags, DIGEST_TAG: digest},
                description=description,
                await_creation_for=0,
            )
            first = self.find_version(name, digest)
            if first is not None and first.number < int(made.version):
                self.client.delete_model_version(name, str(made.version))
                return first.number
            return int(made.version)

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

    # --- production -----------------------------------------------------------------------------

    def read_standing(self, name: str) -> Standing:
        """Read where the versions of a registered model stand."""
        with self.explaining():
            model = self.client.get_registered_model(name)
        return _to_standing(model, self._search_versions(f"name = '{name}'"))

    def read_standings(self) -> list[Standing]:
        """Read where the versions of all registered models stand, by name."""
        if self.database is not None:
            return read_standings(self.database)
        ours = f"name LIKE '{REGISTERED_PREFIX}%'"
        with self.explaining():
            models = list(_turn_pages(self.client.search_registered_models, ours))
        versions = [v for v in self._search_versions(ours) if DIGEST_TAG in v.tags]
        found = {m.name: _to_standing(m, [v for v in versions if v.name == m.name]) for m in models}
        return [found[name] for name in sorted({v.name for v in versions})]

    def read_description(self, name: str, number: int) -> str:
        """Read the description of a version: its model card."""
        with self.explaining():
            return self.client.get_model_version(name, str(number)).description or ""

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias at a version, in one step."""
        with self.explaining():
            self.client.set_registered_model_alias(name, alias, str(number))

    def put_in_production_stage(self, name: str, number: int) -> bool:
        """Move a version to the stage of production and the one that is there to the archive.

        Both in one step of MLflow's.

        Returns:
            Whether MLflow has stages.
        """
        from mlflow.exceptions import MlflowException

        move = getattr(self.client, "transition_model_version_stage", None)
        if move is None:
            return False
        with self.explaining():
            try:
                move(name, str(number), PRODUCTION_STAGE, archive_existing_versions=True)
            except (MlflowException, NotImplementedError) as error:
                if _says_stages_are_gone(error):
                    return False
                raise
        return True

    def tag_model(self, name: str, key: str, value: str) -> None:
        """Set a tag of a registered model."""
        with self.explaining():
            self.client.set_registered_model_tag(name, key, value)

    def tag_version(self, name: str, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self.explaining():
            for key, value in sorted(tags.items()):
                self.client.set_model_version_tag(name, str(number), key, value)

    def untag_version(self, name: str, number: int, key: str) -> None:
        """Remove a tag of a version."""
        with self.explaining():
            self.client.delete_model_version_tag(name, str(number), key)

    def log_text(self, run_id: str, text: str, artifact: str) -> None:
        """Write a text as an artifact of a run."""
        with self.explaining():
            self.client.log_text(run_id, text, artifact)

    def load_model(self, name: str, number: int) -> PyFuncModel:
        """Load a version as whoever serves it does, by ``models:/<name>/<number>``."""
        with self.explaining(), _hushed():
            import mlflow.pyfunc

            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            return mlflow.pyfunc.load_model(f"models:/{name}/{number}")

    def locate_model(self, address: str) -> Path:
        """Bring the model at an address such as ``models:/…`` to this machine."""
        mlflow = _import_mlflow()
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        with self.explaining(), _hushed():
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=address))

    def create_lock(self, name: str, tags: Mapping[str, str]) -> bool:
        """Register a model without versions, a name that only one can have.

        Returns:
            False where the name is taken.
        """
        from mlflow.exceptions import MlflowException

        with self.explaining():
            try:
                self.client.create_registered_model(name, dict(tags))
            except MlflowException as error:
                # MLflow looks at the model that was in the way, which may be gone by then.
                if error.error_code not in {"RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}:
                    raise
                return False
            return True

    def read_lock(self, name: str) -> Mapping[str, str] | None:
        """Read the tags of a lock; None where there is none."""
        from mlflow.exceptions import MlflowException

        with self.explaining():
            try:
                return self.client.get_registered_model(name).tags
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None

    def move_lock(self, name: str, other: str) -> bool:
        """Give a lock another name; False where it is gone, or the other name is taken."""
        from mlflow.exceptions import MlflowException

        with self.explaining():
            try:
                self.client.rename_registered_model(name, other)
            except MlflowException as error:
                if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}:
                    raise
                return False
            return True

    def delete_lock(self, name: str) -> None:
        """Remove a lock."""
        with self.explaining():
            self.client.delete_registered_model(name)

    # --- faults ---------------------------------------------------------------------------------

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn MLflow's faults into one message.

        Raises:
            RegistryError: For any fault of MLflow, its database or the connection to it.
        """
        with _without_deprecations():
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
            refusals = (remedy for said, remedy in REFUSALS.items() if re.search(said, str(error)))
            remedy = next(refusals, UNREACHABLE)
        elif "database schema" in reason:
            remedy = (
                f"It was written by another version of MLflow: remove {self.database} and run "
                "histofuse publish, which rebuilds it."
            )
        else:
            remedy = f"See to {self.database.parent}, then run histofuse publish."
        return RegistryError(f"MLflow at {redact(self.uri)} fails: {redact(reason)}. {remedy}")


def _upload(folder: Path, repository: ArtifactRepository) -> None:
    """Upload a folder's content, several files at a time: a small one is mostly waiting."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    places = [file.parent.relative_to(folder).as_posix() for file in files]
    with ThreadPoolExecutor(UPLOADS) as pool:
        sent = [
            pool.submit(repository.log_artifact, str(file), None if place == "." else place)
            for file, place in zip(files, places, strict=True)
        ]
        for upload in sent:
            upload.result()


def _turn_pages(search: Callable[..., Any], query: str) -> Iterator[Any]:
    """Ask for one page after another."""
    token = None
    while True:
        page = search(query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _to_standing(model: RegisteredModel, versions: Sequence[ModelVersion]) -> Standing:
    stages = {int(v.version): getattr(v, "current_stage", None) for v in versions}
    return Standing(
        name=model.name,
        tags=model.tags,
        aliases={alias: int(number) for alias, number in model.aliases.items()},
        stages={number: stage for number, stage in stages.items() if stage},
        version_tags={int(v.version): v.tags for v in versions},
    )


def _make_signature(interface: Interface) -> Any:
    """Describe a model to MLflow.

    The inputs are of any type and none is required: MLflow would report the first fault of a
    request alone, without its row, as one of the server; make "None" of a null; refuse whole
    numbers where decimals are expected. The model holds its input against its own schema, which
    the model's metadata show.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        AnyType,
        ColSpec,
        DataType,
        Map,
        ParamSchema,
        ParamSpec,
        Schema,
    )

    types: dict[str, Any] = {
        "double": DataType.double,
        "string": DataType.string,
        "map": Map(DataType.double),
    }
    outputs = interface.outputs.items()
    params = [
        ParamSpec(name, DataType.boolean, default=False)
        for name in interface.asked
        if name != SHAP_BASE
    ]
    schema: Any = ParamSchema(params) if params else None
    return ModelSignature(
        Schema([ColSpec(AnyType(), name, required=False) for name in interface.inputs]),
        Schema([ColSpec(types[t], n, required=n not in interface.asked) for n, t in outputs]),
        schema,
    )


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


def _says_stages_are_gone(error: Exception) -> bool:
    """Tell MLflow without stages from MLflow that fails."""
    if isinstance(error, NotImplementedError):
        return True
    codes = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED"}
    return getattr(error, "error_code", "") in codes or "unsupported" in str(error)


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
def _without_deprecations() -> Iterator[None]:
    """Let MLflow use what it calls deprecated, such as stages, also where warnings are errors."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep MLflow's hints and its migration log off the terminal."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also where warnings are errors
        # MLflow sets filters of its own around some hints, so the showing is stopped as well.
        warnings.showwarning = lambda *_, **__: None
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
