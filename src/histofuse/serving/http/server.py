"""uvicorn with limits of time, and processes that end when they cannot serve."""

from asyncio import TimerHandle
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import h11
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from histofuse.core.progress import report
from histofuse.serving.http.limits import LIMITS

MODEL_VARIABLE: Final = "HISTOFUSE_SERVED_MODEL"
APP: Final = "histofuse.serving.http.app:make_app"
HEAD_SECONDS: Final = 10.0  # from the first byte, or from the connection, to the last header
SENT_SECONDS: Final = 60.0  # for a client to take an answer, and to end a body nobody reads
CONNECTIONS: Final = 256  # at the same time; others are answered with 503
STOP_SECONDS: Final = 10  # for requests to end, when the server stops
START_SECONDS: Final = 300  # for a process to load the model
_CHECK_SECONDS: Final = 20  # for a busy process to say that it lives


class TimedConnection(H11Protocol):
    """A connection that is closed if the client is slow to send a head or to take an answer."""

    _head: TimerHandle | None = None
    _answer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the head, unless it is complete."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head = _cancel(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Wait for the client to take the answer."""
        _cancel(self._answer)
        self._answer = self.loop.call_later(SENT_SECONDS, self._abort_unless_sent)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._head, self._answer = _cancel(self._head), _cancel(self._answer)
        super().connection_lost(exc)

    def _abort_unless_sent(self) -> None:
        if self.transport.get_write_buffer_size() or self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()


def _cancel(timer: TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Supervisor(Multiprocess):
    """Keeps processes running, but stops if one cannot start: others could not either."""

    failed = False  # whether one could not

    def __init__(self, config: Config, sockets: list[Any]) -> None:
        super().__init__(config, sockets)
        self._served: set[int | None] = set()
        self._started: dict[int | None, float] = {}  # process id to seconds

    def keep_subprocess_alive(self) -> None:
        """Start a process in the place of one that has ended."""
        if self.should_exit.is_set():
            return
        for process in self.processes:
            if process.pid in self._served:
                continue
            started = self._started.setdefault(process.pid, monotonic())
            if process.process.is_alive() and process.is_ready(timeout=1):
                self._served.add(process.pid)
            elif not process.process.is_alive():
                self._stop(f"a worker ended with status {process.exitcode} before it served")
            elif monotonic() - started > START_SECONDS:
                self._stop(f"a worker did not serve within {START_SECONDS} seconds")
            else:
                return  # uvicorn would take it for one that is stuck
        super().keep_subprocess_alive()

    def _stop(self, reason: str) -> None:
        report(f"{reason}; the server stops")
        self.failed = True
        self.should_exit.set()


def configure(host: str, port: int, workers: int, app: Any = APP) -> Config:
    """Configure uvicorn."""
    return Config(
        app,
        host=host,
        port=port,
        workers=workers,
        factory=isinstance(app, str),
        http=TimedConnection,
        ws="none",
        h11_max_incomplete_event_size=LIMITS.head_bytes,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        timeout_worker_healthcheck=_CHECK_SECONDS,
        proxy_headers=False,
        server_header=False,
        log_level="error",
    )


def run(host: str, port: int, workers: int) -> int:
    """Serve until a signal comes; return the exit status, if it failed `STARTUP_FAILURE`."""
    config = configure(host, port, workers)
    if workers > 1:
        supervisor = Supervisor(config, [config.bind_socket()])
        supervisor.run()
        return STARTUP_FAILURE if supervisor.failed else 0
    server = Server(config)
    with suppress(KeyboardInterrupt, SystemExit):  # of a signal, or of a model that fails
        server.run()
    return 0 if server.started else STARTUP_FAILURE
