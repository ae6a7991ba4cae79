import asyncio
import json
from dataclasses import replace

import pytest

from histofuse.serving.http.limits import LIMITS, RequestLimits, expect_json

SMALL = replace(LIMITS, most_bytes=10 * 1024 * 1024)
HEAD = {"type": "http", "method": "POST", "raw_path": b"/invocations", "query_string": b""}
JSON = ("content-type", "application/json")


async def echo(scope, receive, send):
    """Answer with the body that was received."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message.get("body", b"")})


def ask(chunks, headers=(JSON,), method="POST"):
    """Send a request in chunks; give status and body of the response, and the chunks read."""
    sent, read = [], iter(chunks)
    left = len(chunks)

    async def receive():
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": next(read), "more_body": left > 0}

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = HEAD | {"method": method, "headers": raw}
    asyncio.run(RequestLimits(echo, SMALL, expect_json)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], len(chunks) - left


def test_a_body_reaches_the_server_whole():
    assert ask([b"one ", b"two ", b"three"]) == (200, b"one two three", 3)


def test_what_has_no_body_is_passed_on():
    assert ask([b""], headers=(), method="GET")[0] == 200


LARGER = [b"x" * 4 * 1024 * 1024] * 3


@pytest.mark.parametrize("stated", [{"content-length": str(12 * 1024 * 1024)}, {}])
def test_a_body_that_is_too_large_is_discarded_and_refused(stated):
    status, body, read = ask(LARGER, (JSON, *stated.items()))
    assert (status, read) == (413, 3)
    assert "at most 10 MiB" in json.loads(body)["message"]


@pytest.mark.parametrize("stated", ["9" * 5000, "-1", "0x10", ""])
def test_a_length_that_is_no_number_is_refused(stated):
    assert ask([b"{}"], (JSON, ("content-length", stated)))[0] == 413


def test_an_endless_body_is_cut_off():
    status, _, read = ask(LARGER * 100)
    assert status == 413
    assert read < 30


@pytest.mark.parametrize("size", [10 * 1024 * 1024])
def test_a_body_of_the_limit_passes(size):
    assert ask([b"x" * size])[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("content-type", "text/csv"),),
        (("content-type", "application/vnd.apache.parquet"),),
        (("content-type", "application/json; charset=utf-16"),),
        (JSON, ("content-encoding", "gzip")),
    ],
)
def test_what_is_no_plain_json_is_refused(headers):
    status, body, _ = ask([b"{}"], headers=headers)
    assert status == 415
    assert "expected" in json.loads(body)["message"]


def test_json_in_utf_8_passes():
    assert ask([b"{}"], (("content-type", "application/json; charset=UTF-8"),))[0] == 200


def test_a_body_whose_client_is_gone_is_not_answered():
    messages = iter(
        [
            {"type": "http.request", "body": b'{"half', "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    raw = [(b"content-type", b"application/json")]
    scope = HEAD | {"method": "POST", "headers": raw}
    asyncio.run(RequestLimits(echo, SMALL, expect_json)(scope, receive, send))
    assert sent == []
