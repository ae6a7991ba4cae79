"""Folds in processes of their own, some at a time.

A process ends with the one that started it, however that ended, so that no fold is ever run by two.
"""

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.errors import HistofuseError
from histofuse.core.workers import count_processors

_POLL_SECONDS: Final = 0.2
_TAIL_CHARACTERS: Final = 2000
# Whatever library adds up in parallel reads its number of threads from one of these.
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def count_workers(workers: int | Literal["auto"], threads: int) -> int:
    """Count the folds to run at a time."""
    return max(1, count_processors() // threads) if workers == "auto" else workers


def run_processes(
    commands: Mapping[str, Sequence[str]],
    logs: Path,
    *,
    workers: int,
    threads: int,
    done: Callable[[str, float], None],
) -> None:
    """Run commands by name, `workers` at a time; the first that fails ends all.

    Each command calls `end_with_parent`, computes on so many threads and prints to ``<name>.log``
    in `logs`; `done` is told the name and the seconds of each that ends well. Raises HistofuseError
    with the end of what the failing command printed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    waiting, running = deque(commands), dict[str, tuple[subprocess.Popen[Any], float]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.popleft()
                with (logs / f"{name}.log").open("wb") as log:
                    streams = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
                    process = subprocess.Popen(commands[name], env=environment, **streams)
                running[name] = (process, time.monotonic())
            time.sleep(_POLL_SECONDS)
            for name in [n for n, (process, _) in running.items() if process.poll() is not None]:
                process, began = running.pop(name)
                if process.returncode:
                    printed = (logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                    tail = printed[-_TAIL_CHARACTERS:]
                    raise HistofuseError(f"{name} exited {process.returncode}:\n{tail}")
                done(name, time.monotonic() - began)
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """End this process once the one that started it has: its end closes our standard input."""

    def watch() -> None:
        # Past Python's own buffer, whose lock this thread would still hold when all else has ended.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
