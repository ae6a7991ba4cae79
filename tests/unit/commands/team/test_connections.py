"""The server's connections on loopback, with an application in the place of MLflow."""

import socket
from contextlib import suppress
from dataclasses import replace

import pytest
from listening import listening
from uvicorn import Config

from histofuse.commands.team import connections as module
from histofuse.commands.team.connections import LIMITS, TeamConnection

MIB = 1024 * 1024
RUNS = "/api/2.0/mlflow/runs/create"
FILE = "/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/weights"


async def count(scope, receive, send):
    """Answer with the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


def serving():
    config = Config(count, port=0, lifespan="off", log_level="error", http=TeamConnection)
    return listening(config)


def ask(address, method, path, body, length=None):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n"
    with socket.create_connection(address, timeout=20) as client:
        with suppress(ConnectionError):
            client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        answer = b""
        with suppress(ConnectionError):
            while part := client.recv(65536):
                answer += part
    return int(answer[9:12] or 0), answer


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_a_body_is_refused_before_it_takes_memory_whoever_sent_it(method):
    with serving() as address:
        status, answer = ask(address, method, RUNS, b"x" * (LIMITS.most_bytes + 1))
        assert status == 413
        assert b"at most 16 MiB" in answer
        assert b"%d" % MIB in ask(address, method, RUNS, b"x" * MIB)[1]


def test_files_are_as_large_as_they_are():
    with serving() as address:
        size = LIMITS.most_bytes + MIB
        assert b"%d" % size in ask(address, "PUT", FILE, b"x" * size)[1]
        assert ask(address, "POST", FILE, b"x" * size)[0] == 413


def test_an_unfinished_body_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "LIMITS", replace(LIMITS, body_seconds=0.5))
    with serving() as address:
        assert ask(address, "POST", RUNS, b"{", length=100)[0] == 408
