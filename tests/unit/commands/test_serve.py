import os
import socket
from pathlib import Path

import pytest

from histofuse.commands import serve
from histofuse.core.errors import RegistryError
from histofuse.serving.http import server
from histofuse.tracking.registry import name_address


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("fusion", "models:/histofuse-fusion@production"),
        ("histofuse-fusion", "models:/histofuse-fusion@production"),
        ("fusion@candidate", "models:/histofuse-fusion@candidate"),
        ("models:/histofuse-mlp/3", "models:/histofuse-mlp/3"),
    ],
)
def test_models_by_short_names(given, address):
    assert name_address(given) == address


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would be served: address, port, workers and the environment of the processes."""
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(os.environ, "MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(
        "histofuse.commands.serve.fetch_model", lambda model, store, scratch: scratch / "m"
    )
    monkeypatch.setattr(server, "run", lambda *given: calls.append((given, dict(os.environ))) or 3)
    monkeypatch.setattr(os, "_exit", calls.append)
    return calls


def test_the_server_gets_the_model_and_the_address(started):
    serve.serve("fusion", "127.0.0.1", 5999, 2)
    (given, environment), status = started
    assert given == ("127.0.0.1", 5999, 2)
    assert status == 3
    folder = Path(environment[server.MODEL_VARIABLE]).parent
    assert folder.name.startswith("histofuse-")
    assert not folder.exists(), "a copy of the registry's model is left"


def test_the_server_sees_no_password(started):
    secret = {"MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"}
    os.environ |= dict.fromkeys(secret, "x")
    serve.serve("fusion", "127.0.0.1", 5999, 1)
    (_, environment), _ = started
    assert {"MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"}.isdisjoint(
        environment
    )
    assert environment["PATH"] == os.environ["PATH"]


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
