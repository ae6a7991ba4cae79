"""Where studies are stored: a journal file, or a database that Optuna knows."""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from histofuse.core.errors import HistofuseError, InputError

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalFileOpenLock

OPENING_ATTEMPTS: Final = 4


def open_storage(storage: str) -> "optuna.storages.BaseStorage":
    """Open a journal file, created if it does not exist, or the database of a URL."""
    import optuna

    if "://" in storage:
        return _open_database(storage)
    from optuna.storages.journal import JournalFileBackend

    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(storage, lock_obj=_make_lock(storage)))


def _open_database(url: str) -> "optuna.storages.BaseStorage":
    """Open a database and create its tables; other processes may do so at the same time."""
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for attempt in range(OPENING_ATTEMPTS):
        try:
            return optuna.storages.get_storage(url)
        except (IntegrityError, ProgrammingError):  # another process created a table meanwhile
            if attempt == OPENING_ATTEMPTS - 1:
                raise
            time.sleep(1 + attempt)
    raise AssertionError


def _make_lock(journal: str) -> "JournalFileOpenLock":
    """Create the lock of a journal whose writers may be killed, even while they write.

    A lock that a killed process left is broken after the grace period; Optuna's default lock on a
    journal with a relative path never is. An incomplete last line, which would make every later
    line unreadable, is removed.
    """
    from optuna.storages.journal import JournalFileOpenLock

    class Lock(JournalFileOpenLock):
        def acquire(self) -> bool:
            taken = super().acquire()
            try:
                drop_half_line(Path(journal))
            except BaseException:
                self.release()
                raise
            return taken

    return Lock(journal, grace_period=5)


def drop_half_line(path: Path) -> None:
    """Remove an incomplete last line from a file."""
    with path.open("rb+") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = content.rfind(b"\n") + 1
        if end < size:
            file.truncate(end)


def describe_storage(storage: str) -> str:
    """Write the options that name a storage to Optuna's own command line, without a password."""
    if "://" in storage:
        from sqlalchemy import make_url

        return f"--storage {make_url(storage).render_as_string(hide_password=True)}"
    return f"--storage {storage} --storage-class JournalFileBackend"


@contextmanager
def reaching() -> Iterator[None]:
    """Explain by HistofuseError that a storage no longer answers."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise HistofuseError(
            f"study storage: no longer answers ({_first_line(error.__cause__ or error)}). Finished "
            f"trials are kept: once it is back, the same command continues."
        ) from None


@contextmanager
def opening() -> Iterator[None]:
    """Explain by InputError why a storage cannot be opened."""
    import optuna
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    expected = "a journal file that can be written, or the URL of a database that answers"
    try:
        yield
    except (OSError, ValueError, ImportError, ArgumentError, SQLAlchemyError) as error:
        problem = f"cannot be opened ({_first_line(error)})"
    except optuna.exceptions.StorageInternalError as error:
        problem = f"cannot be reached ({_first_line(error.__cause__ or error)})"
    else:
        return
    raise InputError.of("study_storage", problem, expected, "Or give --storage.")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
