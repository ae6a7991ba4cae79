import os
import socket
import sys

import pytest

from histofuse.commands import serve
from histofuse.core.errors import RegistryError


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("fusion", "models:/histofuse-fusion@production"),
        ("histofuse-fusion", "models:/histofuse-fusion@production"),
        ("fusion@candidate", "models:/histofuse-fusion@candidate"),
        ("models:/histofuse-mlp/3", "models:/histofuse-mlp/3"),
        ("./saved", "./saved"),
    ],
)
def test_models_by_short_names(given, address):
    assert serve.name_address(given) == address


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would be run in the place of this process."""
    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in (serve.MODEL_VARIABLE, *serve.SETTINGS):
        monkeypatch.setenv(name, "")  # restored after the test
    monkeypatch.setattr(
        "histofuse.tracking.store.Store.locate_model", lambda self, address: tmp_path / "model"
    )
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    return commands


def test_the_server_gets_the_model_and_the_address(started, tmp_path):
    serve.serve("fusion", "127.0.0.1", 5999, 2)
    (command,) = started
    assert command[0] == sys.executable
    assert "--host 127.0.0.1 --port 5999 --workers 2" in " ".join(command)
    assert os.environ[serve.MODEL_VARIABLE] == str(tmp_path / "model")


def test_a_port_in_use_is_reported_before_the_model_is_loaded(started):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RegistryError, match=f"port {port} cannot be used"):
            serve.serve("fusion", "127.0.0.1", port, 1)
    assert started == []


def test_a_model_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(RegistryError, match="histofuse-fusion"):
        serve.serve("fusion", "127.0.0.1", 5999, 1)
