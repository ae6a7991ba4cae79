"""Locks: one process at a time publishes, or moves a model into production.

A local store is locked by a file. A server has no locks, but its database lets a name be registered
only once: a registered model without versions is the lock. It names its holder, which renews it. A
lock left by a killed process is removed: at once if that process ran on this machine, otherwise
when it has not been renewed for `STALE_SECONDS`, or by the server's clock after `LONGEST_SECONDS`.
A holder that pauses for longer than that checks the lock again before it decides.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import uuid4

from histofuse.core.errors import RegistryError
from histofuse.core.processes import beating, describe_process, is_dead, name_user
from histofuse.core.progress import report
from histofuse.tracking.names import PROCESS_TAG, redact
from histofuse.tracking.store import Store

TOKEN_TAG: Final = "histofuse.lock"
BEAT_TAG: Final = "histofuse.lock.beat"
BEAT_SECONDS: Final = 15.0
STALE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 60.0  # between two looks at the server's clock
USER_TAG: Final = "histofuse.lock.user"

Confirm = Callable[[], None]


@contextmanager
def holding(store: Store, name: str) -> Iterator[Confirm]:
    """Hold a lock; the function that is yielded raises RegistryError if the lock was lost."""
    if store.database is not None:
        with store.locked():
            yield lambda: None
        return
    lock, token = f"lock.{name}", uuid4().hex
    _acquire(store, lock, token)

    def confirm() -> None:
        if not _is_held(store, lock, token):
            raise RegistryError(
                f"{name}: another process took the lock at {redact(store.uri)}, which this one had "
                f"not renewed, or held for more than {LONGEST_SECONDS:g} seconds. Run it again to "
                "complete what is missing."
            )

    count = itertools.count(1)
    try:
        # Uploads may take longer than `STALE_SECONDS`.
        with beating(BEAT_SECONDS, lambda: store.tag_model(lock, BEAT_TAG, str(next(count)))):
            yield confirm
    finally:
        if _is_held(store, lock, token):
            store.delete_lock(lock)


def _is_held(store: Store, lock: str, token: str) -> bool:
    return (store.read_lock(lock) or {}).get(TOKEN_TAG) == token


def _acquire(store: Store, lock: str, token: str) -> None:
    tags = {TOKEN_TAG: token, PROCESS_TAG: describe_process(), USER_TAG: name_user()}
    began = look_at = since = time.monotonic()
    seen, expired = ("", ""), False
    while not store.create_lock(lock, tags):
        held = store.read_lock(lock)
        if held is None:
            continue
        other, now = held.get(TOKEN_TAG, ""), time.monotonic()
        if now >= look_at:
            expired = _look(store, lock, token, held, waited=now - began)
            look_at = now + LOOK_SECONDS
        if (sign := (other, held.get(BEAT_TAG, ""))) != seen:
            seen, since = sign, now
        if expired or now - since > STALE_SECONDS or is_dead(held.get(PROCESS_TAG, "")):
            _break(store, lock, other, token)
            expired, look_at = False, now
        else:
            time.sleep(POLL_SECONDS)


def _look(store: Store, lock: str, token: str, held: Mapping[str, str], *, waited: float) -> bool:
    """Say who holds a lock, and tell whether its time is over."""
    age = store.measure_lock(lock, f"{lock}.{token}")
    if age is None or age > LONGEST_SECONDS:
        return age is not None
    holder = f"{held.get(USER_TAG, 'unknown')}, process {held.get(PROCESS_TAG, 'unknown')}"
    if waited > 2 * LONGEST_SECONDS:
        raise RegistryError(
            f"{lock}: held again and again for {waited:.0f} seconds, now by {holder}. Ask "
            f"there. The administrator can delete the registered model {lock} at "
            f"{redact(store.uri)}."
        )
    left = LONGEST_SECONDS - age
    report(f"waiting for another process to finish: {holder}; for {left:.0f} seconds at most")
    return False


def _break(store: Store, lock: str, stale: str, token: str) -> None:
    """Remove a stale lock; if several processes try, only one can rename it."""
    aside = f"{lock}.{token}"
    if not store.move_lock(lock, aside):
        return
    if (store.read_lock(aside) or {}).get(TOKEN_TAG) == stale or not store.move_lock(aside, lock):
        store.delete_lock(aside)
