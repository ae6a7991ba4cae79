"""MLflow's scoring server behind a door that refuses what it would choke on.

MLflow reads a body of any size into memory before it looks at it, and takes a request that does not
name its type for a fault of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

MODEL_VARIABLE: Final = "HISTOFUSE_SERVED_MODEL"
MOST_BYTES: Final = 32 * 1024 * 1024
_PATIENCE: Final = 8  # times as much is received of a body that is refused

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Door:
    """An ASGI application in front of another.

    Attributes:
        app: What answers.
        most_bytes: Of a request's body.
    """

    app: App
    most_bytes: int = MOST_BYTES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"content-type" not in headers:
            await _refuse(send, 415, "no Content-Type; expected application/json")
        elif (body := await self._read(headers, receive)) is None:
            limit = f"{self.most_bytes // 1024 // 1024} MiB"
            await _refuse(send, 413, f"the body is too large; expected at most {limit}")
        else:
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Read a body; None where it is too large.

        What is too large is received and thrown away, so that the client hears why: up to a point,
        after which the connection is closed on it.
        """
        stated = headers.get(b"content-length", b"0")
        fits = stated.isdigit() and int(stated) <= self.most_bytes
        body, size, more = bytearray(), 0, True
        while more and size <= _PATIENCE * self.most_bytes:
            message = await receive()
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            fits = fits and size <= self.most_bytes
            body.extend(chunk) if fits else body.clear()
        return bytes(body) if fits else None


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error_code": "BAD_REQUEST", "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def make_app() -> Door:
    """Make the application that serves the model of `MODEL_VARIABLE`."""
    from mlflow.pyfunc import load_model, scoring_server

    return Door(scoring_server.init(load_model(os.environ[MODEL_VARIABLE])))
