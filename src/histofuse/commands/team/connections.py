"""How the team server listens: MLflow itself sets no limits, and waits before small answers."""

import asyncio
import re
import socket
from functools import cache
from typing import Any, Final

from histofuse.serving.http.limits import MIB, App, Limits, Message, RequestLimits
from histofuse.serving.http.server import CONNECTIONS, STOP_SECONDS, TimedConnection

UVICORN: Final = (
    f"--log-level warning --loop {__name__}:PromptLoop --http {__name__}:TeamConnection "
    f"--timeout-graceful-shutdown {STOP_SECONDS} --limit-concurrency {CONNECTIONS}"
)
# The largest requests of MLflow's clients are batches of metrics, of 1 MiB at most.
LIMITS: Final = Limits(head_bytes=65_536, most_bytes=16 * MIB, small_bytes=MIB)
# Files are stored as they arrive, once their sender is known to be allowed to.
_FILES: Final = re.compile(r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts/.+")


class PromptLoop(asyncio.SelectorEventLoop):
    """The event loop MLflow's server runs in: it sends small answers without delay.

    With several workers uvicorn binds its socket without naming the protocol, so asyncio does not
    set TCP_NODELAY. Each answer would then wait 40 ms for the acknowledgement of the one before.
    """

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """Start a server; accepted connections inherit the option from the bound socket."""
        bound = options.get("sock")
        if bound is not None and bound.family in {socket.AF_INET, socket.AF_INET6}:
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await super().create_server(*args, **options)


class TeamConnection(TimedConnection):
    """A connection with limits for bodies: MLflow reads all of one before it asks who sends it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = _limit(self.app)


@cache  # all connections share the places of large bodies
def _limit(app: App) -> RequestLimits:
    return RequestLimits(app, LIMITS, _is_held)


def _is_held(scope: Message) -> bool:
    return scope["method"] != "PUT" or _FILES.fullmatch(scope["path"]) is None
