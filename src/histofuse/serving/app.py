"""MLflow's scoring server behind a check of each request.

MLflow reads a body of any size into memory before it checks it, and answers a request without a
content type with a server error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

MODEL_VARIABLE: Final = "HISTOFUSE_SERVED_MODEL"
MOST_BYTES: Final = 32 * 1024 * 1024
_PATIENCE: Final = 8  # times the limit: how much of a refused body is received

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class RequestCheck:
    """An ASGI application that checks requests before it passes them to another one.

    Attributes:
        app: Answers the requests.
        most_bytes: Limit of a request's body.
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
        """Read a body; None if it is too large.

        A body that is too large is received and discarded, so that the client can read the answer;
        beyond a second limit the connection is closed.
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


def make_app() -> RequestCheck:
    """Make the application that serves the model named by `MODEL_VARIABLE`."""
    from mlflow.pyfunc import load_model, scoring_server

    return RequestCheck(scoring_server.init(load_model(os.environ[MODEL_VARIABLE])))
