"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from histofuse.commands.team.postgres import Cluster, find_installations, private_postgres

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


@pytest.fixture(scope="session")
def needs_postgres() -> None:
    """Skip a test where PostgreSQL is not installed; where CI is set that is a failure."""
    if not find_installations():
        message = "PostgreSQL is not installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@pytest.fixture(scope="session")
def postgres(needs_postgres: None) -> Iterator[Cluster]:
    """A PostgreSQL cluster for tests; each makes databases of its own in it."""
    # Not below pytest's own folder, which is closed to the user that root runs PostgreSQL as.
    with TemporaryDirectory(prefix="histofuse-postgres-") as scratch:
        Path(scratch).chmod(0o711)
        with private_postgres(Path(scratch) / "cluster", {"fsync": "off"}) as cluster:
            yield cluster
