import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from histofuse.commands.team import postgres as module
from histofuse.commands.team.postgres import find_installations, private_postgres, read_command
from histofuse.core.errors import HistofuseError

FAST = {"fsync": "off"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to run it as")


@pytest.fixture
def folder(needs_postgres):
    """An empty folder that PostgreSQL's own user can reach."""
    with TemporaryDirectory(prefix="histofuse-postgres-") as scratch:
        Path(scratch).chmod(0o711)
        yield Path(scratch) / "cluster"


@pytest.fixture
def stranger():
    """Another program of the user that PostgreSQL runs as."""
    with subprocess.Popen(["sleep", "60"], **module._as_owner()) as process:
        yield process
        process.kill()


def read_mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_databases_and_password_survive_a_restart(folder):
    with private_postgres(folder, FAST) as cluster:
        address = cluster.make_database("studies")
        assert cluster.make_database("studies") == address
        with cluster.connect("studies") as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
    assert cluster.process.returncode == 0

    with private_postgres(folder, FAST) as cluster:
        assert cluster.make_database("studies") == address
        with cluster.connect("studies") as connection:
            assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)


def test_password_is_for_its_owner_alone_and_asked_for(folder):
    with private_postgres(folder, FAST) as cluster:
        assert read_mode(folder / "access.json") == 0o600
        assert read_mode(folder / "data") == 0o700
        assert not (folder / ".password").exists()
        assert cluster.access.password not in (folder / "postgres.log").read_text()
        command = read_command(cluster.process.pid)
        assert command is not None
        assert cluster.access.password not in command
        assert "listen_addresses=127.0.0.1" in command
        address = cluster.address("postgres").replace("+psycopg", "")
        psycopg.connect(address).close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(address.replace(cluster.access.password, "guess"))


def test_password_file_that_others_can_read_is_refused(folder):
    with private_postgres(folder, FAST):
        pass
    (folder / "access.json").chmod(0o644)
    with pytest.raises(HistofuseError, match=r"access\.json: .* mode 0644; expected 0600"):
        private_postgres(folder, FAST).__enter__()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"access\.json: no such file; it holds the password"),
        (lambda path: path.write_text("{"), r"access\.json: not readable .* expected a JSON"),
        (
            lambda path: path.write_text('{"password": "other", "port": 54329}'),
            r"refuses the password in access\.json",
        ),
    ],
)
def test_lost_password_is_said(folder, damage, message):
    with private_postgres(folder, FAST):
        pass
    damage(folder / "access.json")
    with pytest.raises(HistofuseError, match=message), private_postgres(folder, FAST):
        pass


RUN = """
import sys, time
from pathlib import Path
from histofuse.commands.team.postgres import private_postgres
with private_postgres(Path(sys.argv[1]), {"fsync": "off"}) as cluster:
    print(cluster.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["postmaster", "owner", "both"])
def test_killed_cluster_comes_back(folder, victim):
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        postmaster = int(owner.stdout.readline())
        with pytest.raises(HistofuseError, match="another process runs this PostgreSQL"):
            private_postgres(folder, FAST).__enter__()
        if victim in {"owner", "both"}:
            owner.kill()
            owner.wait()
        if victim in {"postmaster", "both"}:
            os.kill(postmaster, signal.SIGKILL)
        owner.kill()

    assert (folder / "data/postmaster.pid").is_file()
    with private_postgres(folder, FAST) as cluster:
        assert cluster.process.pid != postmaster
        assert read_command(postmaster) is None


def test_stale_file_whose_number_another_program_has_is_cleared(folder, stranger):
    with private_postgres(folder, FAST):
        pass
    (folder / "data/postmaster.pid").write_text(f"{stranger.pid}\n{folder / 'data'}\n")
    with private_postgres(folder, FAST) as cluster:
        cluster.connect().close()
    assert stranger.poll() is None


def test_taken_port_is_changed_and_kept(folder):
    with private_postgres(folder, FAST) as cluster:
        port = cluster.access.port

    with socket.create_server(("127.0.0.1", port)), private_postgres(folder, FAST) as cluster:
        assert cluster.access.port != port
        port = cluster.access.port
    with private_postgres(folder, FAST) as cluster:
        assert cluster.access.port == port


def test_setting_that_postgresql_refuses_is_quoted(folder, monkeypatch):
    monkeypatch.setattr(module, "START_ATTEMPTS", 1)
    with pytest.raises(HistofuseError, match=r"does not start; .*\n.*shared_buffers"):
        private_postgres(folder, {"shared_buffers": "many"}).__enter__()


def test_files_of_another_version_are_refused(folder):
    with private_postgres(folder, FAST):
        pass
    (folder / "data/PG_VERSION").write_text("9\n")
    with pytest.raises(HistofuseError, match=r"made by PostgreSQL 9, found \d+.*pg_upgrade"):
        private_postgres(folder).__enter__()


def test_without_postgresql_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "PLACES", ())
    assert find_installations() == []
    with pytest.raises(HistofuseError, match=r"no PostgreSQL server found.*apt-get install"):
        private_postgres(tmp_path / "cluster").__enter__()
    assert not (tmp_path / "cluster").exists()


def test_newest_installation_comes_first(tmp_path, monkeypatch):
    for version in (9, 15, 16):
        folder = tmp_path / str(version) / "bin"
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (folder / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}.4'\n")
            (folder / name).chmod(0o755)
    monkeypatch.setattr(module, "PLACES", (f"{tmp_path}/*/bin",))
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert [i.major for i in find_installations()] == [16, 15, 9]


@needs_root
def test_folder_closed_to_the_user_of_root_is_named(needs_postgres):
    with TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o700)
        expected = f"{scratch}: not open to the user postgres"
        with pytest.raises(HistofuseError, match=expected):
            private_postgres(Path(scratch) / "cluster").__enter__()


@needs_root
def test_root_without_a_user_to_run_it_as_is_told(folder, monkeypatch):
    monkeypatch.setattr(module, "SERVICE_USER", "nobody-of-that-name")
    with pytest.raises(HistofuseError, match="refuses to run as root, and there is no user"):
        private_postgres(folder).__enter__()
