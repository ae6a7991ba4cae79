"""Folds in processes of their own, some at a time.

A process ends with the one that started it, however that ended, so that no fold is ever run by two.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from histofuse.core.errors import HistofuseError
from histofuse.core.workers import count_processors

_POLL_SECONDS: Final = 0.2
_TAIL_CHARACTERS: Final = 2000
# Whatever library adds up in parallel reads its number of threads from one of these.
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def count_workers(workers: int | Literal["auto"], threads: int) -> int:
    """Count the folds to run at a time."""
    return max(1, count_processors() // threads) if workers == "auto" else workers


@dataclass(frozen=True)
class _Running:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    began: float


def run_processes(
    commands: Mapping[str, Sequence[str]],
    logs: Path,
    *,
    workers: int,
    threads: int,
    done: Callable[[str, float], None],
) -> None:
    """Run commands, `workers` at a time; the first that fails ends all.

    Args:
        commands: Name to command; each calls `end_with_parent`.
        logs: Folder for what each prints, ``<name>.log``.
        workers: The most that run at once.
        threads: Of each command.
        done: Called with the name and the seconds of each that ends well.

    Raises:
        HistofuseError: With the end of what the failing command printed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = deque(commands), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.popleft()
                running.append(_start(name, commands[name], logs, threads))
            time.sleep(_POLL_SECONDS)
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                _require_success(one)
                done(one.name, time.monotonic() - one.began)
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()


def _start(name: str, command: Sequence[str], logs: Path, threads: int) -> _Running:
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    log = logs / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
        )
    return _Running(name, process, log, time.monotonic())


def _require_success(one: _Running) -> None:
    if one.process.returncode:
        tail = one.log.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARACTERS:]
        raise HistofuseError(f"{one.name} exited {one.process.returncode}:\n{tail}")


def end_with_parent() -> None:
    """End this process once the one that started it has: its end closes our standard input."""

    def watch() -> None:
        # Past Python's own buffer, whose lock this thread would still hold when all else has ended.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
