"""Limits of size, time and memory for the bodies of requests."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 1024 * 1024
_DIGITS: Final = 20  # of a stated length

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """Limits of the requests that a process answers at the same time.

    Bodies above `small_bytes` are read a few at a time; the others wait with what has arrived of
    them. Of a refused body more is received than is read, so that the client can read the answer.
    """

    head_bytes: int = 16_384  # of an address with its headers
    most_bytes: int = 32 * MIB  # of a body
    small_bytes: int = MIB // 4
    large_bodies: int = 2  # held at the same time
    body_seconds: float = 30.0  # until a body is complete
    answer_seconds: float = 60.0  # until a complete request is answered
    discarded: int = 8  # times `most_bytes`, of a refused body


LIMITS: Final = Limits()


class RefusedError(Exception):
    """A request that is answered with an error, after which the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestLimits:
    """An ASGI application that reads bodies within limits and passes them to another one.

    `holds` tells whether a body is held in memory until it is complete, and may refuse the request;
    other bodies are passed on as they arrive.
    """

    def __init__(self, app: App, limits: Limits, holds: Callable[[Message], bool]) -> None:
        self.app = app
        self.limits = limits
        self.holds = holds
        self._large = asyncio.Semaphore(limits.large_bodies)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        async with AsyncExitStack() as held:  # until the answer is sent
            try:
                complete = await self._complete(scope, receive, held)
            except RefusedError as refused:
                await _refuse(send, refused)
                return
            if complete is not None:
                await self.app(scope, complete, send)

    async def _complete(
        self, scope: Message, receive: Receive, held: AsyncExitStack
    ) -> Receive | None:
        """Wait for a body that is held in memory; None if the client has gone."""
        head = sum(len(name) + len(value) for name, value in scope["headers"])
        head += len(scope["raw_path"]) + len(scope["query_string"])
        if head > self.limits.head_bytes:
            raise RefusedError(431, "the address or the headers are too large")
        if not self.holds(scope):
            return receive
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        body = await _Body(self.limits, self._large, held).read_in_time(stated, receive)
        return None if body is None else _replay(body, receive)


def expect_json(scope: Message) -> bool:
    """Hold the bodies of POST requests, which have to be JSON; `RefusedError` if one is not."""
    posts = scope["method"] == "POST"
    if posts:
        _check_headers(scope["headers"])
    return posts


@dataclass
class _Body:
    """Reads a body."""

    limits: Limits
    large: asyncio.Semaphore  # its places are for large bodies
    held: AsyncExitStack  # what the request holds
    waits: bool = False  # whether the body waits for a place

    async def read_in_time(self, stated: bytes, receive: Receive) -> bytes | None:
        """Read a body, with the length that the client stated; None if the client has gone."""
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await self._read(stated, receive)
        except TimeoutError:
            if self.waits:
                raise RefusedError(503, "too many large requests; send it again later") from None
            seconds = f"{self.limits.body_seconds:g} seconds"
            raise RefusedError(408, f"the body took longer than {seconds}") from None

    async def _read(self, stated: bytes, receive: Receive) -> bytes | None:
        most, small = self.limits.most_bytes, self.limits.small_bytes
        fits = stated.isdigit() and len(stated) < _DIGITS and int(stated) <= most
        body, size, more = bytearray(), 0, True
        while more and size <= self.limits.discarded * most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk, more = message.get("body", b""), message.get("more_body", False)
            fits = fits and size + len(chunk) <= most
            body.extend(chunk) if fits else body.clear()
            if fits and size <= small < size + len(chunk):
                self.waits = True
                await self.held.enter_async_context(self.large)
                self.waits = False
            size += len(chunk)
        if not fits:
            raise RefusedError(413, f"the body is too large; expected at most {most // MIB} MiB")
        return bytes(body)


def _check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse what would not be JSON as it arrives."""
    given = {name: value.decode("latin-1") for name, value in headers}
    if b"content-type" not in given:
        raise RefusedError(415, "no Content-Type; expected application/json")
    kind, *parameters = (part.strip().lower() for part in given[b"content-type"].split(";"))
    if kind != "application/json" or set(parameters) - {"", "charset=utf-8", 'charset="utf-8"'}:
        raise RefusedError(415, "another Content-Type; expected application/json, in UTF-8")
    if given.get(b"content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "a Content-Encoding; expected a body that is not compressed")


def _replay(body: bytes, receive: Receive) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay


async def _refuse(send: Send, refused: RefusedError) -> None:
    body = json.dumps({"error_code": "BAD_REQUEST", "message": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
