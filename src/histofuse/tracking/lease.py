"""The right to publish, or to move a model into production, which one process has at a time.

A local store is locked by its file. A server knows no locks, but it lets a name be registered only
once, and its database sees to that: a registered model without versions is the lock, there for as
long as a promotion or a publishing takes. It says who holds it, and changes as long as that process
lives. One that a killed process left behind is taken away: at once where that process was of this
machine, else after it has not changed for `STALE_SECONDS` as the one who waits counts them, so that
no two clocks are compared.

What this does not cover is a holder that stood still for longer than that and goes on afterwards.
It asks again before it decides, which leaves the time between the question and the decision.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import uuid4

from histofuse.core.errors import RegistryError
from histofuse.core.processes import describe_process, is_dead
from histofuse.core.progress import report
from histofuse.tracking.names import PROCESS_TAG, redact
from histofuse.tracking.store import Store

TOKEN_TAG: Final = "histofuse.lock"
BEAT_TAG: Final = "histofuse.lock.beat"
BEAT_SECONDS: Final = 15.0
STALE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5

Confirm = Callable[[], None]


@contextmanager
def holding(store: Store, name: str) -> Iterator[Confirm]:
    """Hold a right that one process has at a time, such as to change what is in production.

    Yields:
        A function that raises if the right was lost.

    Raises:
        RegistryError: If it cannot be had.
    """
    if store.database is not None:
        with store.locked():
            yield lambda: None
        return
    lock, token = f"lock.{name}", uuid4().hex
    _acquire(store, lock, token)

    def confirm() -> None:
        if not _is_held(store, lock, token):
            raise RegistryError(
                f"{name}: another process took over at {redact(store.uri)} while this one stood "
                "still; nothing was changed. Run it again."
            )

    try:
        with _beating(store, lock):
            yield confirm
    finally:
        if _is_held(store, lock, token):
            store.delete_lock(lock)


@contextmanager
def _beating(store: Store, lock: str) -> Iterator[None]:
    """Show now and then that the holder lives: uploads may take longer than `STALE_SECONDS`."""
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if ended.wait(BEAT_SECONDS):
                return
            with suppress(RegistryError):  # the work itself will find the server gone
                store.tag_model(lock, BEAT_TAG, str(count))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_held(store: Store, lock: str, token: str) -> bool:
    return (store.read_lock(lock) or {}).get(TOKEN_TAG) == token


def _acquire(store: Store, lock: str, token: str) -> None:
    tags = {TOKEN_TAG: token, PROCESS_TAG: describe_process()}
    seen, since = ("", ""), time.monotonic()
    told = False
    while not store.create_lock(lock, tags):
        held = store.read_lock(lock)
        if held is None:
            continue
        other = held.get(TOKEN_TAG, "")
        if not told:
            report("waiting for another process to finish")
            told = True
        if (sign := (other, held.get(BEAT_TAG, ""))) != seen:
            seen, since = sign, time.monotonic()
        stale = time.monotonic() - since > STALE_SECONDS
        if stale or is_dead(held.get(PROCESS_TAG, "")):
            _break(store, lock, other, token)
        else:
            time.sleep(POLL_SECONDS)


def _break(store: Store, lock: str, stale: str, token: str) -> None:
    """Take a stale lock away; of several that try, the renaming lets one through."""
    aside = f"{lock}.{token}"
    if not store.move_lock(lock, aside):
        return
    if (store.read_lock(aside) or {}).get(TOKEN_TAG) == stale or not store.move_lock(aside, lock):
        store.delete_lock(aside)
