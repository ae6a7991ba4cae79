"""Descriptions of processes, from which another process can tell whether one has ended."""

import getpass
import hashlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

# What a server that we start gets of our environment; the rest may hold passwords.
_INHERITED: Final = (
    "CUDA_", "GOMP_", "HOME", "KMP_", "LANG", "LC_", "LD_LIBRARY_PATH", "LOGNAME", "MKL_",
    "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PATH", "PYTHON", "SHELL", "TMPDIR", "TORCH_", "TZ",
    "USER", "VIRTUAL_ENV", "XDG_",
)  # fmt: skip


def list_inherited(*others: str) -> dict[str, str]:
    """List the variables that a process we start may see: the usual ones, and others by prefix."""
    return {k: v for k, v in os.environ.items() if k.startswith((*_INHERITED, *others))}


def forget_environment() -> None:
    """Remove the variables that servers need not see from this process and those it starts."""
    kept = list_inherited()
    os.environ.clear()
    os.environ.update(kept)


def describe_process() -> str:
    """Describe this process by host and process id."""
    return f"{_name_host()}:{os.getpid()}"


def name_user() -> str:
    """Name the user of this process, without the name of the machine."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def is_dead(process: str) -> bool:
    """Say whether a process of `describe_process` is known to have ended; elsewhere none is."""
    host, _, pid = process.rpartition(":")
    return host == _name_host() and pid.isdigit() and not is_running(int(pid))


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine runs, of whatever user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _name_host() -> str:
    """Name this machine by a hash: host names do not belong in a shared store."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


class ChildError(Exception):
    """A process that `call_in_child` started and that died, or took too long to answer."""


def call_in_child(function: Callable[..., Result], *arguments: Any, seconds: float) -> Result:
    """Call a function in a process of its own, which may crash or hang without this one doing so.

    Function, arguments and result are pickled; the function must not raise. Raises ChildError if
    the process dies, with the signal or exit status in words, or does not answer within `seconds`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(sending, function, arguments), daemon=True)
    child.start()
    sending.close()
    try:
        if not receiving.poll(seconds):
            raise ChildError(f"did not end within {seconds:g} seconds")
        return receiving.recv()
    except EOFError:
        child.join()
        code = child.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise ChildError(f"crashed: the process {how}") from None
    finally:
        receiving.close()
        child.kill()
        child.join()


def _answer(sending: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sending.send(function(*arguments))


@contextmanager
def beating(seconds: float, beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` every so many seconds, in a thread, until the block ends; errors are ignored."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):  # a store that is away for a moment gets the next beat
                beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
