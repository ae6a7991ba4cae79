import asyncio
import configparser
import os
import socket
import stat
import subprocess
import sys
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from histofuse.cli import app
from histofuse.commands.team import server as module
from histofuse.commands.team.connections import PromptLoop
from histofuse.commands.team.members import Team
from histofuse.commands.team.server import (
    Settings,
    list_allowed,
    require_usable,
    serve,
    write_private,
)
from histofuse.core.errors import HistofuseError


def settings(**changes):
    given = {
        "host": "127.0.0.1",
        "port": 5000,
        "database": None,
        "artifacts": None,
        "allowed_hosts": (),
        "workers": 1,
    }
    return Settings(**(given | changes))


# --- allowed hosts ------------------------------------------------------------------------------


def test_on_loopback_only_this_machine_is_allowed():
    hosts, origins = list_allowed(settings())
    assert set(hosts) == {
        "127.0.0.1", "127.0.0.1:5000", "localhost", "localhost:5000", "[::1]", "[::1]:5000",
    }  # fmt: skip
    assert origins == []


def test_names_others_use_are_added_with_and_without_port_and_tls():
    hosts, origins = list_allowed(
        settings(host="10.0.0.7", allowed_hosts=("mlflow.example.org", "proxy:8443", "fd00::7"))
    )
    assert {"10.0.0.7", "10.0.0.7:5000", "mlflow.example.org", "mlflow.example.org:5000"} <= {
        *hosts
    }
    assert "proxy:8443" in hosts
    assert "proxy:8443:5000" not in hosts
    assert "[fd00::7]:5000" in hosts
    assert {"https://mlflow.example.org", "http://mlflow.example.org:5000"} <= set(origins)
    assert not [o for o in origins if "localhost" in o]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "listens on every address: name the hosts that others use"),
        ({"host": "::"}, "listens on every address"),
        ({"allowed_hosts": ("*",)}, r"--allowed-hosts \*: expected the name of a host"),
        ({"allowed_hosts": ("",)}, r"--allowed-hosts \(empty\)"),
        ({"allowed_hosts": ("https://x.org",)}, "without http://"),
        ({"artifacts": "ftp://u:secret@host/x"}, r"ftp://…@host/x: unknown object store ftp"),
        ({"artifacts": "s3://bucket"}, "needs the package boto3"),
        ({"artifacts": "gs://bucket"}, "needs the package google-cloud-storage"),
    ],
)
def test_settings_that_would_not_work_or_leave_it_open_are_refused(monkeypatch, changes, message):
    monkeypatch.setattr(module, "_is_installed", lambda _: False)
    with pytest.raises(HistofuseError, match=message):
        require_usable(settings(**changes))


def test_all_faults_are_listed_together():
    with pytest.raises(HistofuseError) as error:
        require_usable(settings(host="0.0.0.0", artifacts="ftp://x"))
    assert str(error.value).count("\n  - ") == 2


def test_the_command_line_which_other_users_can_see_holds_no_password(tmp_path):
    kept = module.Secrets("admin-hidden", "key-hidden")
    url = "postgresql+psycopg://u:db-hidden@h/d"
    command = " ".join(module._build_command(settings(), "artifacts"))
    environment = module._build_environment(tmp_path, url, kept)
    assert "hidden" not in command
    assert environment["MLFLOW_BACKEND_STORE_URI"] == url
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == "admin-hidden"


def test_servers_own_settings_win_over_the_users_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", "someone")
    monkeypatch.setenv("MLFLOW_BASIC_AUTH_FAIL_CLOSED", "false")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the store")
    monkeypatch.setenv("GITHUB_TOKEN", "of something else")
    made = module._build_environment(tmp_path, "url", module.Secrets("a", "b"))
    assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in made
    assert "MLFLOW_TRACKING_URI" not in made
    assert "GITHUB_TOKEN" not in made
    assert made["AWS_SECRET_ACCESS_KEY"] == "of the store"
    assert "MLFLOW_AUTH_ADMIN_USERNAME" not in made
    assert "MLFLOW_BASIC_AUTH_FAIL_CLOSED" not in made
    assert made["MLFLOW_S3_ENDPOINT_URL"] == "http://store"


# --- files --------------------------------------------------------------------------------------


def test_private_file_is_its_owners_from_the_start(tmp_path, monkeypatch):
    modes = []
    opened = os.fdopen
    monkeypatch.setattr(
        os, "fdopen", lambda f, *a, **k: (modes.append(os.fstat(f).st_mode), opened(f, *a, **k))[1]
    )
    before = os.umask(0)
    try:
        write_private("secret", tmp_path / "file")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(mode) for mode in modes] == [0o600]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert (tmp_path / "file").read_text() == "secret"


def test_secrets_are_created_once_and_kept(tmp_path):
    first = module._open_secrets(tmp_path)
    assert module._open_secrets(tmp_path) == first
    assert len(first.admin_password) >= 24
    assert first.admin_password != first.secret_key


@pytest.mark.parametrize("text", ["", "{", '{"admin_password": "x"}', "[]"])
def test_damaged_secrets_are_named(tmp_path, text):
    write_private(text, tmp_path / "secrets.json")
    with pytest.raises(HistofuseError, match=r"secrets\.json: not readable .* Restore it"):
        module._open_secrets(tmp_path)


def test_secrets_that_others_can_read_are_refused(tmp_path):
    module._open_secrets(tmp_path)
    (tmp_path / "secrets.json").chmod(0o640)
    with pytest.raises(HistofuseError, match="mode 0640; expected 0600"):
        module._open_secrets(tmp_path)


def test_percent_signs_of_a_url_survive_the_settings_file(tmp_path):
    url = "postgresql+psycopg://u:a%40b@h/d"
    module._write_auth_config(tmp_path, url)
    path = tmp_path / "auth.ini"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    parser = configparser.ConfigParser()
    parser.read(path)
    assert parser["mlflow"]["database_uri"] == url
    assert parser["mlflow"]["default_permission"] == "READ"


# --- starting -----------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch):
    """What would have replaced this process: its command and environment."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda _, *call: calls.append(call))
    monkeypatch.setattr(os, "umask", lambda _: 0o022)
    return calls


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_without_a_database_it_keeps_all_in_an_sqlite_file_of_its_folder(
    tmp_path, started, free_port
):
    folder = tmp_path / "server"
    serve(settings(port=free_port), folder)
    ((command, environment),) = started
    assert command[:3] == [sys.executable, "-m", "mlflow"]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{folder}/mlflow.db"
    assert f"sqlite:///{folder}/mlflow.db" in (folder / "auth.ini").read_text()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert module.open_team(folder).address == f"http://127.0.0.1:{free_port}"


@pytest.mark.parametrize("named", [False, True])
def test_artifacts_are_the_owners_alone(tmp_path, started, free_port, monkeypatch, named):
    masks = []
    monkeypatch.setattr(os, "umask", masks.append)
    artifacts = tmp_path / ("shared" if named else "server/artifacts")
    serve(
        settings(port=free_port, artifacts=str(artifacts) if named else None), tmp_path / "server"
    )
    ((command, _),) = started
    assert command[command.index("--artifacts-destination") + 1] == str(artifacts)
    assert stat.S_IMODE(artifacts.stat().st_mode) == 0o700
    assert masks == [0o077]


def test_artifacts_that_others_can_open_are_named(tmp_path, started, free_port, capsys):
    (tmp_path / "shared").mkdir(mode=0o755)
    given = settings(port=free_port, artifacts=str(tmp_path / "shared"))
    serve(given, tmp_path / "server")
    assert f"can open {tmp_path / 'shared'}" in capsys.readouterr().err


def test_taken_port_is_reported_before_anything_is_written(tmp_path, started):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HistofuseError, match=rf"port {port} .* 127\.0\.0\.1 .*--port"):
            serve(settings(port=port), tmp_path / "server")
    assert not (tmp_path / "server").exists()


def test_address_of_another_machine_is_reported(tmp_path, started):
    with pytest.raises(HistofuseError, match=r"on 203\.0\.113\.9 "):
        serve(settings(host="203.0.113.9"), tmp_path / "server")


def test_users_of_a_server_that_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    for command in (["add", "alice"], ["list"], ["remove", "a"], ["password", "a"]):
        result = CliRunner().invoke(app, ["users", *command])
        assert result.exit_code == 1
        assert "histofuse users: " in result.output
        assert "no server runs here. Start histofuse server first" in result.output


def test_server_with_a_wrong_database_says_so_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    arguments = ["server", "--port", "5999", "--database", "sqlite:///secret.db"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "histofuse server: sqlite:///secret.db: not the URL of a PostgreSQL" in result.output


# --- event loop ---------------------------------------------------------------------------------


def test_connections_of_a_socket_bound_earlier_send_without_delay():
    async def ask():
        seen = []

        class Note(asyncio.Protocol):
            def connection_made(self, transport):
                sock = transport.get_extra_info("socket")
                seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        bound = socket.socket(socket.AF_INET)  # as uvicorn does, without naming the protocol
        bound.bind(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(Note, sock=bound)
        _, writer = await asyncio.open_connection(*bound.getsockname())
        while not seen:
            await asyncio.sleep(0.01)
        writer.close()
        server.close()
        return seen

    with asyncio.Runner(loop_factory=PromptLoop) as runner:
        assert runner.run(ask())[0] != 0


def test_a_login_is_printed_so_that_pasting_it_runs_nothing(monkeypatch, tmp_path):
    team = MagicMock(address="http://[::1]:5000")
    team.add.return_value = "a'b $(id)"
    monkeypatch.setattr("histofuse.cli._open_team", lambda: team)
    printed = CliRunner().invoke(app, ["users", "add", "x$(touch f)"]).output
    names = " ".join(f'"$MLFLOW_TRACKING_{key}"' for key in ("URI", "USERNAME", "PASSWORD"))
    shown = f'printf "%s\\n" {names}'
    done = subprocess.run(
        ["sh", "-c", f"{printed}{shown}"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["http://[::1]:5000", "x$(touch f)", "a'b $(id)"]
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "name", ["", " ", "x$(id)", "a b", "a:b", "-x", "../x", "a\nb", "x" * 65, "ä", "=1", "'"]
)
def test_names_that_are_no_names_are_refused_before_the_server_is_asked(name):
    team = Team("http://127.0.0.1:1", "password", "secrets.json")
    with pytest.raises(HistofuseError, match="not a user name; expected at most 64 letters"):
        team.add(name, may_write=True)
