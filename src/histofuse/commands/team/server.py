"""``histofuse server``: MLflow for a team, on PostgreSQL, with users and proxied artifacts.

What it needs to come back lies in one folder: the cluster where none is named, the artifacts where
they go nowhere else, and the passwords. This process starts PostgreSQL and MLflow, watches both,
and ends both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from histofuse.commands.team.databases import check_database
from histofuse.commands.team.members import ADMIN, Team
from histofuse.commands.team.postgres import STOP_SECONDS, Cluster, private_postgres, read_command
from histofuse.commands.team.private_files import read_private, write_private
from histofuse.core.artifacts import load_json, write_json
from histofuse.core.errors import HistofuseError
from histofuse.core.progress import report
from histofuse.tracking.names import redact
from histofuse.tracking.store import SETTINGS

FOLDER: Final = Path("mlruns/server")
SECRETS: Final = "secrets.json"
STATE: Final = "server.json"  # where the running server answers
LOG: Final = "mlflow.log"
AUTH_CONFIG: Final = "auth.ini"
PGPASS: Final = "pgpass"
ARTIFACTS: Final = "artifacts"
START_SECONDS: Final = 180.0
LOG_LINES: Final = 8
# A password is checked by a hash that takes a tenth of a second on purpose; with each of a
# publishing's requests that would be minutes. So long may a changed one still be taken.
CREDENTIALS_SECONDS: Final = 60

UVICORN: Final = "--log-level warning --loop histofuse.commands.team.server_loop:PromptLoop"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS: Final = ("0.0.0.0", "::")
# Object stores that MLflow knows, and the package that each of them needs.
OBJECT_STORES: Final[Mapping[str, str]] = {
    "s3": "boto3",
    "gs": "google.cloud.storage",
    "wasbs": "azure.storage.blob",
    "abfss": "azure.storage.filedatalake",
}

AUTH_TEMPLATE: Final = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {seconds}
"""


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: Port to listen on.
        database: Address of a PostgreSQL database; None for a private cluster.
        artifacts: Folder, or address of an object store; None for a folder beside the cluster.
        allowed_hosts: Names by which others reach the server, a reverse proxy's among them.
        workers: Processes that answer.
    """

    host: str
    port: int
    database: str | None
    artifacts: str | None
    allowed_hosts: tuple[str, ...]
    workers: int


@dataclass(frozen=True)
class Secrets:
    """What must not be lost or seen; kept in one file, mode 0600."""

    admin_password: str
    secret_key: str


def serve(settings: Settings, folder: Path = FOLDER) -> None:
    """Run the server until it is told to stop.

    Raises:
        HistofuseError: If it cannot start, with what to do; or if MLflow or PostgreSQL ends.
    """
    require_usable(settings)
    _make_folder(folder)
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(_held(folder))
        stack.enter_context(_on_signals(stop))
        _end_orphan(folder)
        _require_free(settings.host, settings.port)
        kept = _open_secrets(folder)
        cluster = None
        if settings.database is None:
            cluster = stack.enter_context(private_postgres(folder / "postgres"))
            database = cluster.make_database("mlflow")
        else:
            database = check_database(settings.database)
        log_before = _measure(folder / LOG)
        process = stack.enter_context(_mlflow(settings, folder, database, kept))
        if not _wait_until_ready(process, settings, folder, log_before, stop):
            return
        Team(_name_address(settings), kept.admin_password, str(folder / SECRETS)).prepare()
        _describe(settings, folder, cluster)
        _watch(process, cluster, stop, folder)
        report("stopping")


def open_team(folder: Path = FOLDER) -> Team:
    """Speak to the server that runs from `folder` as its administrator.

    Raises:
        HistofuseError: If none runs there.
    """
    if not (folder / STATE).is_file():
        raise HistofuseError(f"{folder}: no server runs here. Start histofuse server first.")
    address = load_json(folder / STATE)["address"]
    return Team(address, _read_secrets(folder).admin_password, str(folder / SECRETS))


# --- what is asked for --------------------------------------------------------------------------


def require_usable(settings: Settings) -> None:
    """Refuse settings that cannot work or would leave the server open, all at once.

    Raises:
        HistofuseError: With one line a fault.
    """
    faults = [*_check_hosts(settings), *_check_artifacts(settings.artifacts)]
    if faults:
        raise HistofuseError("\n  - ".join(["the server is not started:", *faults]))


def _check_hosts(settings: Settings) -> Iterator[str]:
    if settings.host in ANY_ADDRESS and not settings.allowed_hosts:
        yield (
            f"--host {settings.host} listens on every address: name those that others use, "
            "such as --allowed-hosts mlflow.example.org,10.0.0.7"
        )
    for name in settings.allowed_hosts:
        if name.strip("*.") == "" or "/" in name or " " in name:
            yield (
                f"--allowed-hosts {name or '(empty)'}: expected the name of a host, such as "
                "mlflow.example.org or *.example.org, without http://; any host at all would let "
                "web pages of strangers in"
            )


def _check_artifacts(artifacts: str | None) -> Iterator[str]:
    if artifacts is None or "://" not in artifacts:
        return
    scheme = artifacts.split("://")[0]
    if scheme not in OBJECT_STORES:
        yield (
            f"--artifacts {redact(artifacts)}: no object store is called {scheme}; expected a "
            f"folder, or an address that begins with {', '.join(f'{s}://' for s in OBJECT_STORES)}"
        )
    elif not _is_installed(OBJECT_STORES[scheme]):
        package = OBJECT_STORES[scheme].replace(".", "-")
        yield (
            f"--artifacts {redact(artifacts)}: needs the package {package}. Install it: "
            f"uv pip install {package}"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def list_allowed(settings: Settings) -> tuple[list[str], list[str]]:
    """List the Host headers, and the origins of web pages, that the server answers.

    A page of MLflow's own sends its origin with each search, so that is allowed, with TLS (which a
    reverse proxy adds) and without.
    """
    bound = () if settings.host in (*LOOPBACK, *ANY_ADDRESS) else (settings.host,)
    named = [_bracket(name) for name in (*bound, *settings.allowed_hosts)]
    local = [_bracket(name) for name in LOOPBACK]
    hosts = [form for name in (*local, *named) for form in _with_port(name, settings.port)]
    origins = [
        f"{scheme}://{form}"
        for name in named
        for form in _with_port(name, settings.port)
        for scheme in ("http", "https")
    ]
    return hosts, origins


def _with_port(name: str, port: int) -> list[str]:
    has_port = name.rpartition("]")[2].partition(":")[2].isdigit()
    return [name] if has_port else [name, f"{name}:{port}"]


def _bracket(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _name_address(settings: Settings) -> str:
    """Name the address at which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{_bracket(host)}:{settings.port}"


# --- files --------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o711)  # whom root runs PostgreSQL as must pass through it


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        at = load_json(folder / STATE)["address"] if (folder / STATE).is_file() else "starting"
        raise HistofuseError(f"{folder}: a server runs from it already ({at})") from None
    try:
        yield
    finally:
        lock.release()


def _open_secrets(folder: Path) -> Secrets:
    """Read the passwords, or make them on the first start."""
    if not (folder / SECRETS).is_file():
        made = Secrets(secrets.token_urlsafe(24), secrets.token_hex(32))
        write_private(json.dumps(asdict(made), indent=2) + "\n", folder / SECRETS)
    return _read_secrets(folder)


def _read_secrets(folder: Path) -> Secrets:
    path = folder / SECRETS
    try:
        found = json.loads(read_private(path))
        return Secrets(str(found["admin_password"]), str(found["secret_key"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
        raise HistofuseError(
            f"{path}: not readable ({reason}); expected admin_password and secret_key. Restore it."
        ) from None


def _end_orphan(folder: Path) -> None:
    """End an MLflow whose owner was killed: it would hold the port and the database."""
    path = folder / STATE
    if not path.is_file():
        return
    pid = int(load_json(path)["process"])
    if "mlflow" in (read_command(pid) or ""):
        report(f"ending the server that a killed one left behind (process {pid})")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while read_command(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
    path.unlink()


def _require_free(host: str, port: int) -> None:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise HistofuseError(
            f"port {port} of {host} cannot be used ({error.strerror}). Name another: "
            "histofuse server --port 5001, or make server PORT=5001."
        ) from None


# --- MLflow -------------------------------------------------------------------------------------


@contextmanager
def _mlflow(
    settings: Settings, folder: Path, database: str, kept: Secrets
) -> Iterator[subprocess.Popen[Any]]:
    """Run MLflow's server; addresses with passwords go by its environment, which others cannot see.

    It gets a process group of its own, for Ctrl-C is this process's to hear.
    """
    text = AUTH_TEMPLATE.format(
        database=database.replace("%", "%%"), admin=ADMIN, seconds=CREDENTIALS_SECONDS
    )
    write_private(text, folder / AUTH_CONFIG)
    if not (folder / LOG).is_file():
        write_private("", folder / LOG)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            _build_command(settings, folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_build_environment(settings, folder, database, kept),
            start_new_session=True,
        )
    write_json({"address": _name_address(settings), "process": process.pid}, folder / STATE)
    try:
        yield process
    finally:
        _stop(process)
        (folder / STATE).unlink(missing_ok=True)


def _build_command(settings: Settings, folder: Path) -> list[str]:
    hosts, origins = list_allowed(settings)
    artifacts = settings.artifacts or str((folder / ARTIFACTS).resolve())
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", settings.host, "--port", str(settings.port)]
    command += ["--workers", str(settings.workers), "--uvicorn-opts", UVICORN]
    command += ["--serve-artifacts", "--artifacts-destination", artifacts]
    command += ["--allowed-hosts", ",".join(hosts), "--x-frame-options", "SAMEORIGIN"]
    # Pages of this machine are always allowed; without a list MLflow would allow no others.
    return [*command, "--cors-allowed-origins", ",".join(origins)] if origins else command


def _build_environment(
    settings: Settings, folder: Path, database: str, kept: Secrets
) -> dict[str, str]:
    """The environment, less what would point MLflow's server at another server or weaken it."""
    own = ("MLFLOW_SERVER_", "MLFLOW_TRACKING_", "MLFLOW_AUTH_", "MLFLOW_REGISTRY_", "_MLFLOW_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return {
        **inherited,
        **SETTINGS,
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_CONFIG_PATH": str((folder / AUTH_CONFIG).resolve()),
        "MLFLOW_AUTH_ADMIN_PASSWORD": kept.admin_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": kept.secret_key,
        # The server's background jobs are for language models; they would cost a second process.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",  # those of MLflow's own packages about each other
    }


def _wait_until_ready(
    process: subprocess.Popen[Any],
    settings: Settings,
    folder: Path,
    log_before: int,
    stop: threading.Event,
) -> bool:
    """Wait until MLflow answers; False where it is told to stop before it does."""
    deadline = time.monotonic() + START_SECONDS
    while not stop.wait(0.2):
        if process.poll() is not None:
            raise HistofuseError(f"MLflow does not start. {_quote_log(folder, log_before)}")
        if time.monotonic() > deadline:
            raise HistofuseError(
                f"MLflow gave no answer for {START_SECONDS:.0f} seconds. "
                f"{_quote_log(folder, log_before)}"
            )
        if _answers(f"{_name_address(settings)}/health"):
            return True
    return False


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def _measure(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _quote_log(folder: Path, start: int = 0) -> str:
    text = (folder / LOG).read_bytes()[start:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][-LOG_LINES:]
    quoted = "\n".join(f"    {redact(line)}" for line in lines)
    return f"{folder / LOG} ends with\n{quoted}"


def _stop(process: subprocess.Popen[Any]) -> None:
    """Let MLflow answer what it was asked and end; after that, end all of its processes."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            report("MLflow does not end by itself; it is broken off")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- while it runs ------------------------------------------------------------------------------


@contextmanager
def _on_signals(stop: threading.Event) -> Iterator[None]:
    """Note a wish to stop instead of breaking off, so that both processes are ended in order."""
    wanted: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[signal.Signals, Any] = {
        number: signal.signal(number, lambda *_: stop.set()) for number in wanted
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(settings: Settings, folder: Path, cluster: Cluster | None) -> None:
    report(f"the server runs at {_name_address(settings)} (Ctrl-C ends it)")
    report(f"administrator: {ADMIN}, password in {folder / SECRETS}")
    report("add a user: histofuse users add NAME")
    report(f"MLflow's log: {folder / LOG}")
    if cluster is not None:
        cluster.make_database("studies")
        _write_pgpass(cluster, folder)
        address = cluster.address("studies").replace(f":{cluster.access.password}@", "@")
        report(f"studies on the same PostgreSQL: set study_storage to {address}")
        report(f"and PGPASSFILE={(folder / PGPASS).resolve()}")
    if settings.host not in LOOPBACK:
        report(
            f"WARNING: {settings.host} is open to other machines, and passwords cross the network "
            "in the clear. Put a reverse proxy with TLS in front of it and bind to 127.0.0.1."
        )


def _write_pgpass(cluster: Cluster, folder: Path) -> None:
    """Write the password where PostgreSQL's client looks for it, so that no address holds it."""
    access = cluster.access
    write_private(f"127.0.0.1:{access.port}:*:histofuse:{access.password}\n", folder / PGPASS)


def _watch(
    process: subprocess.Popen[Any],
    cluster: Cluster | None,
    stop: threading.Event,
    folder: Path,
) -> None:
    """Wait until told to stop.

    Raises:
        HistofuseError: If MLflow or PostgreSQL ends first.
    """
    while not stop.wait(0.5):
        if process.poll() is not None:
            raise HistofuseError(f"MLflow ended. {_quote_log(folder)}")
        if cluster is not None and cluster.process.poll() is not None:
            raise HistofuseError(f"PostgreSQL ended; see {folder / 'postgres' / 'postgres.log'}")
