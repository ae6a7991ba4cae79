import asyncio
import json

import pytest

from histofuse.serving.app import RequestCheck


async def echo(scope, receive, send):
    """Answer with the body that was received."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message.get("body", b"")})


def ask(chunks, headers=(("content-type", "application/json"),), method="POST"):
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
    scope = {"type": "http", "method": method, "headers": raw}
    asyncio.run(RequestCheck(echo, most_bytes=10 * 1024 * 1024)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], len(chunks) - left


def test_a_body_reaches_the_server_whole():
    assert ask([b"one ", b"two ", b"three"]) == (200, b"one two three", 3)


def test_what_has_no_body_is_passed_on():
    assert ask([b""], headers=(), method="GET")[0] == 200


LARGER = [b"x" * 4 * 1024 * 1024] * 3


@pytest.mark.parametrize("stated", [{"content-length": str(12 * 1024 * 1024)}, {}])
def test_a_body_that_is_too_large_is_discarded_and_refused(stated):
    status, body, read = ask(LARGER, (("content-type", "application/json"), *stated.items()))
    assert (status, read) == (413, 3)
    assert "at most 10 MiB" in json.loads(body)["message"]


def test_an_endless_body_is_cut_off():
    status, _, read = ask(LARGER * 100)
    assert status == 413
    assert read < 30


@pytest.mark.parametrize("size", [10 * 1024 * 1024])
def test_a_body_of_the_limit_passes(size):
    assert ask([b"x" * size])[0] == 200


def test_a_request_without_a_type_is_refused():
    status, body, _ = ask([b"{}"], headers=())
    assert status == 415
    assert "Content-Type" in json.loads(body)["message"]
