import asyncio
import json
import os
import socket
import stat
import subprocess
import time

import pytest
from typer.testing import CliRunner

from histofuse.cli import app
from histofuse.commands.team import server as module
from histofuse.commands.team.private_files import read_private, write_private
from histofuse.commands.team.server import Settings, list_allowed, require_usable, serve
from histofuse.commands.team.server_loop import PromptLoop
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


# --- who may ask --------------------------------------------------------------------------------


def test_on_loopback_only_this_machine_is_answered():
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
        ({"host": "0.0.0.0"}, "listens on every address: name those that others use"),
        ({"host": "::"}, "listens on every address"),
        ({"allowed_hosts": ("*",)}, r"--allowed-hosts \*: expected the name of a host"),
        ({"allowed_hosts": ("",)}, r"--allowed-hosts \(empty\)"),
        ({"allowed_hosts": ("https://x.org",)}, "without http://"),
        ({"artifacts": "ftp://u:secret@host/x"}, r"ftp://…@host/x: no object store is called ftp"),
        ({"artifacts": "s3://bucket"}, "needs the package boto3"),
        ({"artifacts": "gs://bucket"}, "needs the package google-cloud-storage"),
    ],
)
def test_settings_that_would_not_work_or_leave_it_open_are_refused(monkeypatch, changes, message):
    monkeypatch.setattr(module, "_is_installed", lambda _: False)
    with pytest.raises(HistofuseError, match=message):
        require_usable(settings(**changes))


def test_all_faults_are_told_at_once():
    with pytest.raises(HistofuseError) as error:
        require_usable(settings(host="0.0.0.0", artifacts="ftp://x"))
    assert str(error.value).count("\n  - ") == 2


def test_no_password_stands_in_what_other_users_of_the_machine_can_see(tmp_path):
    kept = module.Secrets("admin-hidden", "key-hidden")
    url = "postgresql+psycopg://u:db-hidden@h/d"
    command = " ".join(module._build_command(settings(), tmp_path))
    environment = module._build_environment(settings(), tmp_path, url, kept)
    assert "hidden" not in command
    assert environment["MLFLOW_BACKEND_STORE_URI"] == url
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == "admin-hidden"


def test_servers_own_settings_win_over_the_users_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", "someone")
    made = module._build_environment(settings(), tmp_path, "url", module.Secrets("a", "b"))
    assert "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE" not in made
    assert "MLFLOW_TRACKING_URI" not in made
    assert "MLFLOW_AUTH_ADMIN_USERNAME" not in made


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
    assert read_private(tmp_path / "file") == "secret"


def test_secrets_are_made_once_and_kept(tmp_path):
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


def test_percent_signs_of_an_address_survive_the_settings_file(tmp_path, monkeypatch):
    import configparser

    monkeypatch.setattr(module, "_build_command", lambda *_: ["true"])
    url = "postgresql+psycopg://u:a%40b@h/d"
    with module._mlflow(settings(), tmp_path, url, module.Secrets("a", "b")):
        path = tmp_path / "auth.ini"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        parser = configparser.ConfigParser()
        parser.read(path)
    assert parser["mlflow"]["database_uri"] == url
    assert parser["mlflow"]["default_permission"] == "READ"
    assert not (tmp_path / "server.json").exists()


def test_quoted_log_hides_passwords(tmp_path):
    (tmp_path / "mlflow.log").write_text("before\nOperationalError postgresql://u:hidden@h/d\n")
    quoted = module._quote_log(tmp_path)
    assert "OperationalError" in quoted
    assert "hidden" not in quoted


# --- what goes wrong ----------------------------------------------------------------------------


def test_taken_port_is_said_before_anything_is_made(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HistofuseError, match=rf"port {port} of 127\.0\.0\.1 cannot be used"):
            serve(settings(port=port), tmp_path / "server")
    assert not (tmp_path / "server/postgres").exists()


def test_address_that_is_not_of_this_machine_is_said(tmp_path):
    with pytest.raises(HistofuseError, match=r"of 203\.0\.113\.9 cannot be used"):
        serve(settings(host="203.0.113.9"), tmp_path / "server")


def test_second_server_of_one_folder_is_refused(tmp_path):
    with module._held(tmp_path):
        (tmp_path / "server.json").write_text(json.dumps({"address": "http://there", "process": 1}))
        with pytest.raises(HistofuseError, match=r"runs from it already \(http://there\)"):
            serve(settings(), tmp_path)


def test_mlflow_that_does_not_start_is_quoted(tmp_path, monkeypatch):
    broken = ["sh", "-c", "echo 'no such option postgresql://u:hidden@h/d' >&2; exit 2"]
    monkeypatch.setattr(module, "_build_command", lambda *_: broken)
    monkeypatch.setattr(module, "check_database", lambda url: url)
    with pytest.raises(HistofuseError, match=r"MLflow does not start\. .*\n.*no such option") as e:
        serve(settings(port=0, database="postgresql://u:hidden@h/d"), tmp_path)
    assert "hidden" not in str(e.value)


def wait_until_runs(process, name):
    """Wait until a child has become its program: before that it bears our own command line."""
    for _ in range(200):
        command = ["ps", "-o", "args=", "-p", str(process.pid)]
        if name in subprocess.run(command, capture_output=True, text=True, check=False).stdout:
            return
        time.sleep(0.05)
    pytest.fail(f"{name} did not start")


def test_mlflow_left_by_a_killed_owner_is_ended_and_strangers_are_not(tmp_path):
    for name, ended in (("mlflow", True), ("stranger", False)):
        with subprocess.Popen(["sh", "-c", "sleep 30; true", name]) as process:
            wait_until_runs(process, name)
            state = {"address": "http://there", "process": process.pid}
            (tmp_path / "server.json").write_text(json.dumps(state))
            module._end_orphan(tmp_path)
            if ended:
                process.wait(timeout=20)
            assert (process.poll() is not None) == ended
            process.kill()
        assert not (tmp_path / "server.json").exists()


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
    assert "histofuse server: sqlite:///secret.db: not the address of a PostgreSQL" in result.output


# --- its loop -----------------------------------------------------------------------------------


def test_connections_of_a_socket_bound_before_send_at_once():
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
