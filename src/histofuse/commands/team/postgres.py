"""A PostgreSQL of one's own: a cluster in a folder, on loopback, for as long as a block runs.

PostgreSQL itself must be installed; neither its system service nor an administrator is needed.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from histofuse.commands.team.private_files import read_private, write_private
from histofuse.core.artifacts import replacing_folder
from histofuse.core.errors import HistofuseError

HOST: Final = "127.0.0.1"
USER: Final = "histofuse"
SERVICE_USER: Final = "postgres"  # whom root runs PostgreSQL as, which refuses root
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
START_ATTEMPTS: Final = 3
LOG_LINES: Final = 5

ACCESS: Final = "access.json"
DATA: Final = "data"
LOG: Final = "postgres.log"

# Where installers put it when they leave it off the PATH.
PLACES: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
INSTALL: Final = (
    "Install it (Debian: apt-get install postgresql; macOS: brew install postgresql), or name a "
    "database that runs elsewhere."
)


@dataclass(frozen=True)
class Installation:
    """One PostgreSQL on this machine.

    Attributes:
        folder: Where its programs lie.
        major: Its major version; a cluster's files belong to one.
    """

    folder: Path
    major: int


@dataclass(frozen=True)
class Access:
    """How to connect to a private cluster; kept beside it."""

    password: str
    port: int


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        access: How to connect to it.
        process: Its postmaster.
    """

    access: Access
    process: subprocess.Popen[Any]

    def address(self, database: str) -> str:
        """Name a database as SQLAlchemy and Optuna take it; holds the password."""
        login = f"{USER}:{self.access.password}"
        return f"postgresql+psycopg://{login}@{HOST}:{self.access.port}/{database}"

    def make_database(self, name: str) -> str:
        """Make a database if it is not there, and name its address."""
        with self.connect() as connection:
            create_database(connection, name)
        return self.address(name)

    def connect(self, database: str = "postgres") -> Any:
        """Open a psycopg connection on which each statement stands for itself."""
        return _connect(self.access, database)


def create_database(connection: Any, name: str) -> None:
    """Make a database if it is not there; of two that do so at once neither fails."""
    from psycopg import errors, sql

    query = "SELECT 1 FROM pg_database WHERE datname = %s"
    if connection.execute(query, [name]).fetchone() is None:
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except (errors.DuplicateDatabase, errors.UniqueViolation):
            return


def _connect(access: Access, database: str) -> Any:
    import psycopg

    return psycopg.connect(
        host=HOST,
        port=access.port,
        user=USER,
        password=access.password,
        dbname=database,
        autocommit=True,
        connect_timeout=5,
    )


@contextmanager
def private_postgres(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run the cluster in `folder`, which is made if need be, until the block ends.

    It listens on loopback, by password. Its port is chosen once and kept while it is free. Root
    runs it as the user ``postgres``.

    Args:
        folder: Holds the cluster's files, its log, and ``access.json`` with the password.
        settings: PostgreSQL's own settings, such as ``{"fsync": "off"}``.

    Raises:
        HistofuseError: If PostgreSQL is not installed, its files cannot be reached or belong to
            another version, or it does not start.
    """
    from filelock import FileLock, Timeout

    folder = folder.resolve()
    installation = _choose(folder / DATA)
    _prepare_folder(folder)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HistofuseError(
            f"{folder}: another process runs this PostgreSQL. End that one first."
        ) from None
    try:
        access = _open_access(folder)
        if not (folder / DATA).is_dir():
            _initialise(installation, folder, access)
        _end_orphan(folder / DATA)
        cluster = _start(installation, folder, access, settings or {})
        try:
            yield cluster
        finally:
            _stop(cluster.process)
    finally:
        lock.release()


# --- what is installed --------------------------------------------------------------------------


def find_installations() -> list[Installation]:
    """Find the PostgreSQL servers on this machine, newest first."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    for place in PLACES:
        folders += sorted(Path("/").glob(place.removeprefix("/")))
    programs = {
        f.resolve() for f in folders if (f / "initdb").exists() and (f / "postgres").exists()
    }
    found = [Installation(folder, _read_major(folder / "postgres")) for folder in programs]
    return sorted(found, key=lambda i: (i.major, str(i.folder)), reverse=True)


def _read_major(program: Path) -> int:
    done = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    found = re.search(r"\d+", done.stdout)
    return int(found[0]) if found else 0


def _choose(data: Path) -> Installation:
    """Choose the newest installation, or the one that made the cluster."""
    found = find_installations()
    if not found:
        raise HistofuseError(f"no PostgreSQL server found on this machine. {INSTALL}")
    try:
        major = int((data / "PG_VERSION").read_text())
    except FileNotFoundError:
        return found[0]
    for installation in found:
        if installation.major == major:
            return installation
    here = ", ".join(str(i.major) for i in found)
    raise HistofuseError(
        f"{data}: made by PostgreSQL {major}, found {here}. Install PostgreSQL {major}, or bring "
        "the files to the newer one with pg_upgrade."
    )


# --- files and their owner ----------------------------------------------------------------------


def _find_owner() -> pwd.struct_passwd | None:
    """Find whom to run PostgreSQL as; None for oneself."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SERVICE_USER)
    except KeyError:
        raise HistofuseError(
            f"PostgreSQL refuses to run as root, and there is no user {SERVICE_USER} to run it as. "
            "Run this as an ordinary user, or name a database that runs elsewhere."
        ) from None


def _as_owner() -> dict[str, Any]:
    owner = _find_owner()
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _give(path: Path) -> None:
    owner = _find_owner()
    if owner is not None:
        os.chown(path, owner.pw_uid, owner.pw_gid)


def _prepare_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o711)  # whom root runs PostgreSQL as must pass through it
    if _find_owner() is None:
        return
    for parent in (*reversed(folder.parents), folder):
        if subprocess.run(["test", "-x", str(parent)], check=False, **_as_owner()).returncode:
            raise HistofuseError(
                f"{parent}: not open to the user {SERVICE_USER}, as whom root must run PostgreSQL "
                f"for {folder}. Run this as an ordinary user, move the project to a folder that "
                f"others may pass through, or name a database that runs elsewhere."
            )


def _open_access(folder: Path) -> Access:
    """Read how to connect, or decide it; without it a cluster that is there cannot be entered."""
    path = folder / ACCESS
    if path.is_file():
        access = _parse_access(path)
    elif (folder / DATA).is_dir():
        raise HistofuseError(
            f"{path}: no such file; it holds the password of the PostgreSQL in {folder / DATA}. "
            "Restore it, or move the folder away to start anew."
        )
    else:
        access = Access(secrets.token_urlsafe(24), _find_free_port())
        _write_access(access, folder)
    return access


def _parse_access(path: Path) -> Access:
    try:
        found = json.loads(read_private(path))
        return Access(str(found["password"]), int(found["port"]))
    except (ValueError, KeyError, TypeError) as error:
        raise HistofuseError(
            f"{path}: not readable ({error}); expected a JSON object with password and port. "
            "Restore it."
        ) from None


def _write_access(access: Access, folder: Path) -> None:
    write_private(json.dumps(asdict(access)) + "\n", folder / ACCESS)


def _find_free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


# --- making, starting, stopping -----------------------------------------------------------------


def _initialise(installation: Installation, folder: Path, access: Access) -> None:
    """Make the cluster's files, all of them or none."""
    with replacing_folder(folder / DATA) as data:
        _give(data)
        password = folder / ".password"
        write_private(access.password + "\n", password)
        _give(password)
        command = [str(installation.folder / "initdb"), "--pgdata", str(data), "--username", USER]
        command += ["--auth", "scram-sha-256", "--pwfile", str(password), "--no-instructions"]
        command += ["--encoding", "UTF8", "--locale", "C"]
        try:
            done = _run(command)
        finally:
            password.unlink(missing_ok=True)
        if done.returncode:
            raise HistofuseError(
                f"{folder / DATA}: initdb failed.\n{_indent(done.stderr.splitlines())}"
            )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=_environment(),
        **_as_owner(),
    )


def _environment() -> dict[str, str]:
    """The environment without PostgreSQL's own variables, which would point elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _start(
    installation: Installation, folder: Path, access: Access, settings: Mapping[str, str]
) -> Cluster:
    """Start the cluster on its port, or on another where that was taken."""
    for attempt in range(1, START_ATTEMPTS + 1):
        if not _is_free(access.port):
            access = replace(access, port=_find_free_port())
            _write_access(access, folder)
        process = _launch(installation, folder, access, settings)
        try:
            if _wait_until_ready(process, access):
                return Cluster(access, process)
        except BaseException:
            _stop(process)
            raise
        if attempt < START_ATTEMPTS:
            time.sleep(1)  # what a killed one held in memory may still be on its way out
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    raise HistofuseError(f"PostgreSQL does not start; {log} ends with\n{_indent(lines)}")


def _launch(
    installation: Installation, folder: Path, access: Access, settings: Mapping[str, str]
) -> subprocess.Popen[Any]:
    fixed = {"listen_addresses": HOST, "port": str(access.port), "unix_socket_directories": ""}
    command = [str(installation.folder / "postgres"), "-D", str(folder / DATA)]
    for key, value in {**settings, **fixed}.items():
        command += ["-c", f"{key}={value}"]
    with (folder / LOG).open("ab") as log:
        # A session of its own: Ctrl-C goes to whoever uses the database, which is stopped after it.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            umask=0o077,
            **_as_owner(),
        )


def _wait_until_ready(process: subprocess.Popen[Any], access: Access) -> bool:
    """Wait until the cluster answers; False where it ended instead."""
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        try:
            _connect(access, "postgres").close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise HistofuseError(
                    f"PostgreSQL refuses the password in {ACCESS}. Restore that file."
                ) from None
            if time.monotonic() > deadline:
                raise HistofuseError(
                    f"PostgreSQL gave no answer for {START_SECONDS:.0f} seconds; see {LOG}."
                ) from None
            time.sleep(0.05)
        else:
            return process.poll() is None
    return False


def _stop(process: subprocess.Popen[Any]) -> None:
    """End all sessions and stop; what does not stop is broken off, and recovers when started."""
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _end_orphan(data: Path) -> None:
    """Stop a cluster whose owner was killed, and clear what makes PostgreSQL see one."""
    path = data / "postmaster.pid"
    try:
        pid = int(path.read_text().split()[0])
        command = read_command(pid)
    except (FileNotFoundError, ValueError, IndexError):
        return
    if command is None:
        return  # PostgreSQL sees for itself that it is gone
    if str(data) not in command:
        path.unlink()  # the number is another program's by now, which PostgreSQL cannot tell
        return
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    while read_command(pid) is not None:
        if time.monotonic() > deadline:
            raise HistofuseError(f"{data}: PostgreSQL (process {pid}) does not stop. Kill it.")
        time.sleep(0.05)


def read_command(pid: int) -> str | None:
    """Read the command line of a process; None where there is no such process."""
    if Path("/proc/self/cmdline").is_file():
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return text or None  # a zombie has none
    done = subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _indent(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
