"""The event loop MLflow's server runs in, which sends each answer as soon as it is there.

uvicorn with several workers binds its socket in a way that leaves asyncio unaware that it is TCP.
Small writes then wait for the acknowledgement of those before: 40 ms with each answer.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any


class PromptLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers do not hold small writes back."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:
        """Start a server; a socket that was bound before passes the setting on to connections."""
        bound = options.get("sock")
        if bound is not None and bound.family in {socket.AF_INET, socket.AF_INET6}:
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await super().create_server(*args, **options)
