"""``histofuse server``: MLflow for a team, with users and proxied artifacts.

One folder holds what a restart needs: the passwords, and the SQLite database and the artifacts
unless they are stored elsewhere. MLflow's own server takes the place of this process.
"""

import importlib.util
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

from histofuse.commands.team.access import AUTHORIZE, SOURCES
from histofuse.commands.team.connections import UVICORN
from histofuse.commands.team.databases import check_database
from histofuse.commands.team.members import ADMIN, Team
from histofuse.commands.ui import SERVER_SETTINGS, require_free
from histofuse.core.artifacts import load_json, replacing_file, write_json
from histofuse.core.errors import HistofuseError
from histofuse.core.processes import list_inherited
from histofuse.core.progress import report
from histofuse.tracking.names import redact

FOLDER: Final = Path("mlruns/server")
SECRETS: Final = "secrets.json"
STATE: Final = "server.json"  # the address of the server that was started last
AUTH_CONFIG: Final = "auth.ini"
DATABASE: Final = "mlflow.db"
ARTIFACTS: Final = "artifacts"
OWNER_ONLY: Final = 0o600
# MLflow takes a tenth of a second to check a password, and each request carries one. This many
# seconds a checked password is remembered, even if it was changed meanwhile.
CREDENTIALS_SECONDS: Final = 60

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS: Final = ("0.0.0.0", "::")
# Object stores that MLflow supports, and the package that each of them needs.
OBJECT_STORES: Final[Mapping[str, str]] = {
    "s3": "boto3",
    "gs": "google.cloud.storage",
    "wasbs": "azure.storage.blob",
    "abfss": "azure.storage.filedatalake",
}
# Variables that the server inherits: those of object stores, of the database and of the network.
INHERITED: Final = (
    "AWS_", "AZURE_", "GOOGLE_", "PG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_",
    "MLFLOW_ARTIFACT_UPLOAD_", "MLFLOW_BOTO_", "MLFLOW_GCS_", "MLFLOW_S3_",
    "MLFLOW_SQLALCHEMYSTORE_",
)  # fmt: skip

AUTH_TEMPLATE: Final = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {admin}
authorization_function = {authorize}
auth_cache_ttl_seconds = {seconds}
"""


@dataclass(frozen=True)
class Settings:
    """How to serve."""

    host: str
    port: int
    database: str | None  # URL of a PostgreSQL database; None for SQLite in the server's folder
    artifacts: str | None  # folder or URL of an object store; None for one in the server's folder
    allowed_hosts: tuple[str, ...]  # by which others reach the server or its reverse proxy
    workers: int


class Secrets(NamedTuple):
    """The administrator's password and the key that signs sessions; one file, mode 0600."""

    admin_password: str
    secret_key: str


def serve(settings: Settings, folder: Path = FOLDER) -> None:
    """Replace this process by MLflow's server."""
    require_usable(settings)
    require_free(settings.port, settings.host)
    if settings.database is None:
        database = f"sqlite:///{(folder / DATABASE).resolve()}"
    else:
        database = check_database(settings.database)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    environment = _build_environment(folder, database, _open_secrets(folder))
    _write_auth_config(folder, database)
    write_json({"address": _name_address(settings)}, folder / STATE)
    command = _build_command(settings, _open_artifacts(settings.artifacts, folder))
    _announce(settings, folder)
    os.umask(0o077)  # for all that MLflow writes
    os.execve(sys.executable, command, environment)


def open_team(folder: Path = FOLDER) -> Team:
    """Connect to the server that was started from `folder`, as its administrator."""
    if not (folder / STATE).is_file():
        raise HistofuseError(f"{folder}: no server runs here. Start histofuse server first.")
    address = load_json(folder / STATE)["address"]
    return Team(address, _read_secrets(folder).admin_password, str(folder / SECRETS))


def require_usable(settings: Settings) -> None:
    """Refuse settings that cannot work or would leave the server open to anyone."""
    faults = [*_check_hosts(settings), *_check_artifacts(settings.artifacts)]
    if faults:
        raise HistofuseError("\n  - ".join(["the server is not started:", *faults]))


def _check_hosts(settings: Settings) -> Iterator[str]:
    if settings.host in ANY_ADDRESS and not settings.allowed_hosts:
        yield (
            f"--host {settings.host} listens on every address: name the hosts that others use, "
            "such as --allowed-hosts mlflow.example.org,10.0.0.7"
        )
    for name in settings.allowed_hosts:
        if name.strip("*.") == "" or "/" in name or " " in name:
            yield (
                f"--allowed-hosts {name or '(empty)'}: expected the name of a host, such as "
                "mlflow.example.org or *.example.org, without http://. Allowing any host would "
                "let web pages of strangers reach the server"
            )


def _check_artifacts(artifacts: str | None) -> Iterator[str]:
    if artifacts is None or "://" not in artifacts:
        return
    scheme = artifacts.split("://")[0]
    if scheme not in OBJECT_STORES:
        yield (
            f"--artifacts {redact(artifacts)}: unknown object store {scheme}; expected a folder, "
            f"or a URL that starts with {', '.join(f'{s}://' for s in OBJECT_STORES)}"
        )
    elif not _is_installed(OBJECT_STORES[scheme]):
        package = OBJECT_STORES[scheme].replace(".", "-")
        yield (
            f"--artifacts {redact(artifacts)}: needs the package {package}. Install it: "
            f"uv pip install {package}"
        )


def _is_installed(module: str) -> bool:
    with suppress(ModuleNotFoundError):  # of a package above it
        return importlib.util.find_spec(module) is not None
    return False


def list_allowed(settings: Settings) -> tuple[list[str], list[str]]:
    """List the Host headers, and the origins of web pages, that the server accepts.

    MLflow's own pages send their origin with each search, so it is allowed both with TLS (which a
    reverse proxy adds) and without.
    """
    bound = () if settings.host in (*LOOPBACK, *ANY_ADDRESS) else (settings.host,)
    local = _with_ports(LOOPBACK, settings.port)
    named = _with_ports((*bound, *settings.allowed_hosts), settings.port)
    origins = [f"{scheme}://{host}" for host in named for scheme in ("http", "https")]
    return [*local, *named], origins


def _with_ports(names: Iterable[str], port: int) -> list[str]:
    """List each host as it is and, unless it names a port, with the server's."""
    hosts = []
    for name in map(_bracket, names):
        has_port = name.rpartition("]")[2].partition(":")[2].isdigit()
        hosts += [name] if has_port else [name, f"{name}:{port}"]
    return hosts


def _bracket(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _name_address(settings: Settings) -> str:
    """Name the URL at which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{_bracket(host)}:{settings.port}"


def _open_secrets(folder: Path) -> Secrets:
    """Read the passwords; the first start creates them."""
    if not (folder / SECRETS).is_file():
        created = Secrets(secrets.token_urlsafe(24), secrets.token_hex(32))
        write_private(json.dumps(created._asdict(), indent=2) + "\n", folder / SECRETS)
    return _read_secrets(folder)


def _read_secrets(folder: Path) -> Secrets:
    path = folder / SECRETS
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise HistofuseError(
                f"{path}: holds a password and has mode {mode:04o}; expected 0600. Change the "
                f"password if others use this machine, and chmod 600 {quote(str(path))}."
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        return Secrets(str(values["admin_password"]), str(values["secret_key"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
        raise HistofuseError(
            f"{path}: not readable ({reason}); expected admin_password and secret_key. Restore it."
        ) from None


def write_private(text: str, path: Path) -> None:
    """Write a file atomically, with mode 0600 from its first byte."""
    with replacing_file(path) as temporary:
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(text)


def _write_auth_config(folder: Path, database: str) -> None:
    config = AUTH_TEMPLATE.format(
        database=database.replace("%", "%%"),
        admin=ADMIN,
        authorize=AUTHORIZE,
        seconds=CREDENTIALS_SECONDS,
    )
    write_private(config, folder / AUTH_CONFIG)


def _open_artifacts(artifacts: str | None, folder: Path) -> str:
    """Name the folder or URL of artifacts; a new folder is its owner's alone."""
    if artifacts is not None and "://" in artifacts:
        return artifacts
    path = folder / ARTIFACTS if artifacts is None else Path(artifacts)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        report(f"WARNING: other users of this machine can open {path}. To stop that: chmod 700 it")
    return str(path.resolve())


def _build_command(settings: Settings, artifacts: str) -> list[str]:
    hosts, origins = list_allowed(settings)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", settings.host, "--port", str(settings.port)]
    command += ["--workers", str(settings.workers), "--uvicorn-opts", UVICORN]
    command += ["--serve-artifacts", "--artifacts-destination", artifacts]
    command += ["--allowed-hosts", ",".join(hosts), "--x-frame-options", "SAMEORIGIN"]
    # Pages of this machine are always allowed; without a list MLflow would allow no others.
    return [*command, "--cors-allowed-origins", ",".join(origins)] if origins else command


def _build_environment(folder: Path, database: str, kept: Secrets) -> dict[str, str]:
    """Build MLflow's environment, which holds the passwords: other users cannot see it.

    Further variables could name another server, weaken this one, or hold passwords.
    """
    return {
        **list_inherited(*INHERITED),
        **SERVER_SETTINGS,
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_CONFIG_PATH": str((folder / AUTH_CONFIG).resolve()),
        "MLFLOW_AUTH_ADMIN_PASSWORD": kept.admin_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": kept.secret_key,
        "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": SOURCES,
        "PYTHONWARNINGS": "ignore",  # MLflow's packages warn about each other
    }


def _announce(settings: Settings, folder: Path) -> None:
    report(f"MLflow starts at {_name_address(settings)} (Ctrl-C stops it)")
    report(f"administrator: {ADMIN}, password in {folder / SECRETS}")
    report("add a user: histofuse users add NAME")
    if settings.host not in LOOPBACK:
        report(
            f"WARNING: {settings.host} is open to other machines, and passwords cross the network "
            "unencrypted. Put a reverse proxy with TLS in front of it and listen on 127.0.0.1."
        )
