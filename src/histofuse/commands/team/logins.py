"""Logins to the team server: as slow for unknown users, and paused after repeated failures."""

import hashlib
import math
import secrets
import time
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Final

from cachetools import TTLCache

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization

FREE_ATTEMPTS: Final = 5  # in a row; after each further one the pause is twice as long
LONGEST_PAUSE_SECONDS: Final = 60.0
REMEMBERED_SECONDS: Final = 900
_MOST_NAMES: Final = 10_000


class Attempts:
    """Failed attempts by user name, whether there is such a user or not; of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        # The digest of a name to how many there were, and until when there may be no other.
        self._failed: TTLCache[bytes, tuple[int, float]] = TTLCache(
            _MOST_NAMES, REMEMBERED_SECONDS, timer=clock
        )

    def find_pause(self, name: str) -> float:
        """Give the seconds until the next attempt."""
        with self._lock:
            _, until = self._failed.get(_digest(name), (0, 0.0))
        return max(0.0, until - self._clock())

    def fail(self, name: str) -> None:
        """Note a failure."""
        key = _digest(name)
        with self._lock:
            count = self._failed.get(key, (0, 0.0))[0] + 1
            pause = 2.0 ** min(count - FREE_ATTEMPTS, 10) if count >= FREE_ATTEMPTS else 0.0
            self._failed[key] = count, self._clock() + min(pause, LONGEST_PAUSE_SECONDS)

    def succeed(self, name: str) -> None:
        """Forget the failures of a user."""
        with self._lock:
            self._failed.pop(_digest(name), None)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


_attempts = Attempts()


def authenticate() -> "Authorization | Response":
    """Authenticate a request by its name and password, as MLflow does."""
    from flask import Response, request
    from mlflow.server import auth
    from werkzeug.security import check_password_hash

    given = request.authorization
    if given is None or not given.username or given.password is None:
        return auth.make_basic_auth_response()
    if _is_remembered(given.username, given.password):
        return given  # so that nobody can lock out a user who works
    if wait := _attempts.find_pause(given.username):
        seconds = str(math.ceil(wait))
        message = f"too many failed logins; try again in {seconds} seconds"
        return Response(message, 429, {"Retry-After": seconds})
    if not auth.store.has_user(given.username):
        check_password_hash(_make_decoy(), given.password)
    login = auth.authenticate_request_basic_auth()
    note = _attempts.fail if isinstance(login, Response) else _attempts.succeed
    note(given.username)
    return login


def _is_remembered(name: str, password: str) -> bool:
    from mlflow.server import auth

    with auth._USER_AUTH_CACHE_LOCK:
        known = auth._USER_AUTH_CACHE
        return known is not None and auth._auth_cache_key(name, password) in known


@cache
def _make_decoy() -> str:
    """Make the hash of a password that nobody has."""
    from werkzeug.security import generate_password_hash

    return generate_password_hash(secrets.token_urlsafe(18))
