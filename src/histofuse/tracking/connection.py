"""The connection to MLflow: a local SQLite store, or the server of ``MLFLOW_TRACKING_URI``.

MLflow takes seconds to import, so it is imported with the first call that needs its client.
"""

import logging
import os
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from histofuse.core.artifacts import replacing_file
from histofuse.core.errors import HistofuseError, RegistryError
from histofuse.core.progress import report
from histofuse.tracking.local import find_database, locate_artifacts, rehome
from histofuse.tracking.names import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE: Final = Path("mlruns/mlflow.db")
COPIES: Final = "/.dvc/tmp/exps/"  # between the project and DVC's copies of it
REACHED_WITHIN_SECONDS: Final = 10
LOCK_SECONDS: Final = 1800

UNREACHABLE: Final = (
    "Start the server, or correct MLFLOW_TRACKING_URI; unset it to use the local store."
)
# How a running server refuses a request -> what to do.
REFUSALS: Final[Mapping[str, str]] = {
    r"code 401|401 Client Error": (
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user of that server; "
        "histofuse users add NAME, run on the server, creates one."
    ),
    r"Invalid Host header": (
        "The server does not accept this host name: start it with --allowed-hosts NAME."
    ),
    r"code 403|403 Client Error": (
        "This user has read-only access: ask for one that may write, made without --read-only."
    ),
}

# A server that is down is reported within seconds; MLflow's own defaults retry for minutes.
# Telemetry is off, and so are MLflow's progress bars.
SETTINGS: Final[Mapping[str, str]] = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowError(RegistryError):
    """An error of MLflow, of its database or of the connection to it."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code  # MLflow's name for it; empty where it has none


def name_store() -> str:
    """Name the tracking address: ``MLFLOW_TRACKING_URI``, else the project's own database.

    DVC runs the experiments of ``--temp`` and ``--queue`` in copies of the project, and removes
    them. They write to the database of the project itself.
    """
    project = Path(str(Path.cwd()).rpartition(COPIES)[0] or ".")
    database = (project / DATABASE).resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"


class Connection:
    """MLflow at one tracking address."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.database = find_database(uri)

    def require_reachable(self) -> None:
        """Check that the store answers, or can be created; RegistryError if not, within seconds."""
        try:
            if self.database is not None:
                self.database.parent.mkdir(parents=True, exist_ok=True)
                if not os.access(self.database.parent, os.W_OK):
                    raise PermissionError("the folder cannot be written to")
            elif self.uri.startswith(("http://", "https://")):
                # urllib would take a password in the address for a part of the host name.
                address = re.sub(r"//[^/]*@", "//", self.uri)
                urllib.request.urlopen(address, timeout=REACHED_WITHIN_SECONDS).close()
        except urllib.error.HTTPError:
            return  # the server answers; MLflow may have the credentials for it
        except (OSError, ValueError) as error:
            raise self._explain(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock a local store for this process; a server needs no lock.

        Raises RegistryError if another process holds the lock for longer than any publishing takes.
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
            _close_to_others(self.database)
            yield
        finally:
            lock.release()

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client, which raises `MlflowError`; a local database is created first."""
        with self.explaining():
            mlflow = import_mlflow()
            if self.database is not None and not self.database.is_file():
                with self.locked():
                    _make_database(self.database)
            client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return cast("MlflowClient", _Explained(client, self.explaining))

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn MLflow's errors into one message.

        Raises MlflowError for any error of MLflow, its database or the connection to it.
        """
        with warnings.catch_warnings():
            # MLflow uses what it deprecates, such as stages, and warnings may be errors.
            for kind in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", kind)
            import_mlflow()
            import requests
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            try:
                yield
            except HistofuseError:
                raise
            except (MlflowException, SQLAlchemyError, requests.RequestException, OSError) as error:
                raise self._explain(error) from error

    def _explain(self, error: Exception) -> MlflowError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if self.database is None:
            refusals = (advice for sign, advice in REFUSALS.items() if re.search(sign, str(error)))
            remedy = next(refusals, UNREACHABLE)
        elif "database schema" in reason:
            remedy = (
                f"Another version of MLflow wrote it: remove {self.database} and run "
                "histofuse publish, which rebuilds it."
            )
        else:
            remedy = f"Check {self.database.parent}, then run histofuse publish."
        message = f"MLflow at {redact(self.uri)} fails: {redact(reason)}. {remedy}"
        return MlflowError(message, getattr(error, "error_code", ""))


class _Explained:
    """MLflow's client, each call of which is made within `Connection.explaining`."""

    def __init__(
        self, client: "MlflowClient", explaining: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._client, self._explaining = client, explaining

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._explaining():
                return method(*args, **kwargs)

        return call


def import_mlflow() -> Any:
    """Import MLflow with this project's settings."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    import mlflow.artifacts

    return mlflow


def _make_database(database: Path) -> None:
    """Create a database with MLflow's schema, completely or not at all."""
    if database.is_file():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    report("creating a new MLflow store")
    with replacing_file(database) as temporary, quiet(), _without_sync():
        root = locate_artifacts(database)
        root.mkdir(mode=0o700, exist_ok=True)
        SqlAlchemyStore(f"sqlite:///{temporary.resolve()}", str(root)).engine.dispose()


def _close_to_others(database: Path) -> None:
    """Let only the owner read a local store."""
    for path, mode in ((database, 0o600), (locate_artifacts(database), 0o700)):
        with suppress(FileNotFoundError, PermissionError):  # or it is another user's
            path.chmod(mode)


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
def quiet() -> Iterator[None]:
    """Keep MLflow's hints and its migration log off the terminal."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also where warnings are errors
        # MLflow sets filters of its own around some hints, so the display is replaced as well.
        warnings.showwarning = lambda *_, **__: None
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
