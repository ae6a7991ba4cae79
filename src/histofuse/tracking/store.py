"""Runs and registered models in MLflow: a local SQLite store or a server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from histofuse.core.artifacts import digest_file, replacing_folder
from histofuse.core.processes import is_dead
from histofuse.tracking import names
from histofuse.tracking.connection import Connection, MlflowError, import_mlflow, name_store, quiet
from histofuse.tracking.interface import Interface, make_signature
from histofuse.tracking.local import (
    locate_artifacts,
    read_experiment,
    read_runs,
    read_statuses,
    read_versions,
)
from histofuse.tracking.names import ModelStatus, Version
from histofuse.tracking.views import describe_experiment, name_view

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

UPLOADS: Final = 8  # files uploaded to a server in parallel
LONGEST_PARAM: Final = 6000  # characters that MLflow takes
# Error codes of MLflow.
EXISTS: Final = "RESOURCE_ALREADY_EXISTS"
MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
NO_STAGES: Final = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")

# Metrics, each row with its step.
Rows = Sequence[tuple[int, Mapping[str, float]]]


def open_store(experiment: str = names.EXPERIMENT) -> Store:
    """Open the store; MLflow is imported by the first call that needs it."""
    store = Store(name_store(), experiment)
    store.require_reachable()
    return store


class Store(Connection):
    """Runs of one experiment and registered models at one tracking address.

    Every method that reaches MLflow raises `MlflowError` where that fails.
    """

    def __init__(self, uri: str, experiment: str = names.EXPERIMENT) -> None:
        super().__init__(uri)
        self.experiment = experiment
        self._addresses: dict[str, str] = {}  # run -> address of its artifacts

    @cached_property
    def experiment_id(self) -> str:
        """The experiment's id; it is created and described if it is not yet."""
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            folder = str(locate_artifacts(self.database)) if self.database else None
            # Another process may create it at the same moment.
            _succeeds(lambda: self.client.create_experiment(self.experiment, folder), EXISTS)
            found = self.client.get_experiment_by_name(self.experiment)
        assert found is not None
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        with suppress(MlflowError):  # of a user who may only read
            describe_experiment(self.client, found)
        return found.experiment_id

    def name_page(self) -> str | None:
        """Name the page of the runs below a server's address; None if there are none yet."""
        local = self.database
        found = self.experiment_id if local is None else read_experiment(local, self.experiment)
        return found and name_view(found)

    def find_runs(self, tag: str, value: str | None = None) -> list[Run]:
        """Find the runs with a tag, of one value or of any but the empty one, oldest first."""
        return self._search_runs(f"tags.`{tag}` " + ("!= ''" if value is None else f"= '{value}'"))

    def has_finished(self, content: str) -> bool:
        """Tell whether a finished run was written from this content."""
        if self.database is not None:  # without MLflow, which takes seconds to import
            return content in read_runs(self.database, "FINISHED", names.CONTENT_TAG).values()
        return any(
            run.info.status == "FINISHED" for run in self.find_runs(names.CONTENT_TAG, content)
        )

    def _search_runs(self, query: str) -> list[Run]:
        ids, order = [self.experiment_id], ["start_time ASC"]
        return list(_list_pages(self.client.search_runs, ids, query, order_by=order))

    def list_abandoned(self) -> list[str]:
        """List the runs whose process died without ending them."""
        if self.database is not None:
            running = read_runs(self.database, "RUNNING", names.PROCESS_TAG)
        else:
            runs = self._search_runs("attributes.status = 'RUNNING'")
            running = {r.info.run_id: r.data.tags.get(names.PROCESS_TAG, "") for r in runs}
        return sorted(run_id for run_id, process in running.items() if is_dead(process))

    def create_run(self, name: str, tags: Mapping[str, str]) -> Run:
        """Start a run."""
        return self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))

    def log_batch(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        rows: Rows = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log params, metrics and tags in as few requests as MLflow allows.

        Params must be new to the run: MLflow never changes one.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            [Metric(name, value, now, step) for step, row in rows for name, value in row.items()],
            [Param(key, value[:LONGEST_PARAM]) for key, value in sorted((params or {}).items())],
            [RunTag(key, value) for key, value in sorted((tags or {}).items())],
        )

    def read_steps(self, run_id: str, metric: str) -> set[int]:
        """List the steps at which a metric was logged."""
        return {m.step for m in self.client.get_metric_history(run_id, metric)}

    def log_inputs(self, run_id: str, inputs: Mapping[str, str]) -> None:
        """Log data sets by name and digest."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(Dataset(name, digest[:36], "dvc", name), [InputTag("sha256", digest)])
            for name, digest in sorted(inputs.items())
        ]
        self.client.log_inputs(run_id, datasets)

    def log_text(self, run_id: str, text: str, artifact: str) -> None:
        """Write a text as an artifact of a run."""
        self.client.log_text(run_id, text, artifact)

    def log_folder(self, run_id: str, folder: Path, replaced: Sequence[str]) -> None:
        """Upload a folder's content as a run's artifacts; those in `replaced` are removed first."""
        with self.explaining():
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

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
        """Look up the address of a run's artifacts, which never changes."""
        if run_id not in self._addresses:
            self._addresses[run_id] = self.client.get_run(run_id).info.artifact_uri or ""
        return self._addresses[run_id]

    def end_run(self, run_id: str, status: str, name: str | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED, and rename it if a name is given."""
        if name is not None:
            self.client.update_run(run_id, name=name)
        self.client.set_terminated(run_id, status)

    def end_abandoned(self) -> None:
        """Mark the runs whose process died as KILLED."""
        for run_id in self.list_abandoned():
            self.end_run(run_id, "KILLED")

    def list_versions(self, model: str | None = None) -> list[Version]:
        """List the complete versions of this project's models, or of one, by name and number."""
        if self.database is not None:
            versions = read_versions(self.database)
        else:
            runs = self.find_runs(names.CONTENT_TAG)
            contents = {run.info.run_id: run.data.tags[names.CONTENT_TAG] for run in runs}
            found = self._search_versions(f"name LIKE '{names.REGISTERED_PREFIX}%'")
            versions = [_to_version(v, contents) for v in found if names.DIGEST_TAG in v.tags]
            versions.sort(key=lambda v: (v.name, v.number))
        return [v for v in versions if model in (None, v.name)]

    def find_version(self, name: str, digest: str) -> Version | None:
        """Find the first version of a registered model that holds a bundle, complete or not."""
        found = self._search_versions(f"name = '{name}' AND tags.`{names.DIGEST_TAG}` = '{digest}'")
        versions = [_to_version(v, {}) for v in found]
        return min(versions, key=lambda v: v.number, default=None)

    def _search_versions(self, query: str) -> list[ModelVersion]:
        return list(_list_pages(self.client.search_model_versions, query))

    def save_model(
        self,
        artifacts: Mapping[str, Path],
        script: Path,
        requirements: list[str],
        interface: Interface,
        folder: Path,
    ) -> None:
        """Write a model in MLflow's layout: a models-from-code script and the files that it reads.

        Each artifact is a folder of its own name. Without pinned `requirements` MLflow would run
        the model to list them.
        """
        with self.explaining(), quiet():
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(
                folder,
                python_model=str(script),
                artifacts={name: str(path) for name, path in artifacts.items()},
                pip_requirements=requirements,
                signature=make_signature(interface),
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
        """Register the model that a run holds, and return the version's number.

        The registered model is created, described by `about`, if it does not exist. Of two versions
        of one bundle that are registered at once, the first stays.
        """
        _succeeds(lambda: self.client.create_registered_model(name, description=about), EXISTS)
        created = self.client.create_model_version(
            name,
            f"{self._locate(run_id)}/{names.MODEL_FOLDER}",
            run_id,
            tags={**tags, names.DIGEST_TAG: digest},
            description=description,
            await_creation_for=0,
        )
        number, first = int(created.version), self.find_version(name, digest)
        if first is not None and first.number < number:
            self.client.delete_model_version(name, str(number))
            return first.number
        return number

    def read_description(self, name: str, number: int) -> str:
        """Read the description of a version: its model card."""
        return self.client.get_model_version(name, str(number)).description or ""

    def fetch(self, version: Version, artifact: str, target: Path) -> None:
        """Copy a folder of a version's run to `target`, completely or not at all."""
        with replacing_folder(target) as folder:
            if self.database is None:
                with self._downloading(version, artifact) as downloaded:
                    shutil.copytree(downloaded, folder, dirs_exist_ok=True)
                return
            try:  # without MLflow, which takes seconds to import
                shutil.copytree(_name_source(version, artifact), folder, dirs_exist_ok=True)
            except OSError as error:
                raise self._explain(error) from None

    def digest_remote(self, version: Version, artifact: str) -> str:
        """Compute the SHA-256 of one file of a version's run on a server."""
        with self._downloading(version, artifact) as downloaded:
            return digest_file(downloaded)

    @contextmanager
    def _downloading(self, version: Version, artifact: str) -> Iterator[Path]:
        with self.explaining(), quiet(), TemporaryDirectory(prefix=names.SCRATCH) as scratch:
            yield Path(
                import_mlflow().artifacts.download_artifacts(
                    artifact_uri=_name_source(version, artifact),
                    dst_path=scratch,
                    tracking_uri=self.uri,
                )
            )

    def read_status(self, name: str) -> ModelStatus:
        """Read where the versions of a registered model stand."""
        model = self.client.get_registered_model(name)
        return _to_status(model, self._search_versions(f"name = '{name}'"))

    def read_statuses(self) -> list[ModelStatus]:
        """Read where the versions of all registered models stand, by name."""
        if self.database is not None:
            return read_statuses(self.database)
        ours = f"name LIKE '{names.REGISTERED_PREFIX}%'"
        models = list(_list_pages(self.client.search_registered_models, ours))
        versions = [v for v in self._search_versions(ours) if names.DIGEST_TAG in v.tags]
        found = {m.name: _to_status(m, [v for v in versions if v.name == m.name]) for m in models}
        return [found[name] for name in sorted({v.name for v in versions})]

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias at a version, in one step."""
        self.client.set_registered_model_alias(name, alias, str(number))

    def put_in_production_stage(self, name: str, number: int) -> bool:
        """Move a version to the production stage and archive the one there, in one step of MLflow.

        Returns whether MLflow has stages.
        """
        move = getattr(self.client, "transition_model_version_stage", None)
        if move is None:
            return False
        try:
            move(name, str(number), names.PRODUCTION_STAGE, archive_existing_versions=True)
        except NotImplementedError:
            return False
        except MlflowError as error:
            if error.code not in NO_STAGES and "unsupported" not in str(error):
                raise
            return False
        return True

    def tag_model(self, name: str, key: str, value: str) -> None:
        """Set a tag of a registered model."""
        self.client.set_registered_model_tag(name, key, value)

    def tag_version(self, name: str, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in sorted(tags.items()):
            self.client.set_model_version_tag(name, str(number), key, value)

    def untag_version(self, name: str, number: int, key: str) -> None:
        """Remove a tag of a version."""
        self.client.delete_model_version_tag(name, str(number), key)

    def create_lock(self, name: str, tags: Mapping[str, str]) -> bool:
        """Register a model without versions; False where the name is taken."""
        # MLflow then looks up the model of that name, which may be gone by then.
        return _succeeds(
            lambda: self.client.create_registered_model(name, dict(tags)), EXISTS, MISSING
        )

    def read_lock(self, name: str) -> Mapping[str, str] | None:
        """Read the tags of a lock; None where there is none."""
        lock = self._find_lock(name)
        return None if lock is None else lock.tags

    def _find_lock(self, name: str) -> RegisteredModel | None:
        try:
            return self.client.get_registered_model(name)
        except MlflowError as error:
            if error.code != MISSING:
                raise
            return None

    def measure_lock(self, name: str, probe: str) -> float | None:
        """Measure a lock's age in seconds; None where there is none.

        The time is the server's: that of an entry `probe`, which is made for it and removed.
        """
        now = self.client.create_registered_model(probe).creation_timestamp or 0
        self.client.delete_registered_model(probe)
        lock = self._find_lock(name)
        return None if lock is None else (now - (lock.creation_timestamp or 0)) / 1000

    def move_lock(self, name: str, other: str) -> bool:
        """Rename a lock; False where it is gone, or the other name is taken."""
        return _succeeds(lambda: self.client.rename_registered_model(name, other), EXISTS, MISSING)

    def delete_lock(self, name: str) -> None:
        """Remove a lock."""
        self.client.delete_registered_model(name)


def _name_source(version: Version, artifact: str) -> str:
    return f"{version.source.removesuffix(f'/{names.MODEL_FOLDER}')}/{artifact}"


def _succeeds(call: Callable[[], object], *expected: str) -> bool:
    """Make a call to MLflow; False where it fails with one of the expected error codes."""
    try:
        call()
    except MlflowError as error:
        if error.code not in expected:
            raise
        return False
    return True


def _upload(folder: Path, repository: ArtifactRepository) -> None:
    """Upload a folder's content, several files at a time: a small one is mostly waiting."""

    def upload(file: Path) -> None:
        place = file.parent.relative_to(folder).as_posix()
        repository.log_artifact(str(file), None if place == "." else place)

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(upload, (f for f in sorted(folder.rglob("*")) if f.is_file())))


def _list_pages(search: Callable[..., Any], *query: Any, **options: Any) -> Iterator[Any]:
    """Search page by page."""
    token = None
    while True:
        page = search(*query, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def _to_status(model: RegisteredModel, versions: Sequence[ModelVersion]) -> ModelStatus:
    stages = {int(v.version): getattr(v, "current_stage", None) for v in versions}
    return ModelStatus(
        name=model.name,
        tags=model.tags,
        aliases={alias: int(number) for alias, number in model.aliases.items()},
        stages={number: stage for number, stage in stages.items() if stage},
        version_tags={int(v.version): v.tags for v in versions},
    )


def _to_version(found: ModelVersion, contents: Mapping[str, str]) -> Version:
    run_id, number = found.run_id or "", int(found.version)
    digest, files = found.tags[names.DIGEST_TAG], found.tags.get(names.FILES_TAG)
    content = contents.get(run_id)
    return Version(found.name, number, digest, run_id, found.source or "", content, files)
