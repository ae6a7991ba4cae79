"""What a stage shows while it runs: a progress bar, and a line for what it read and wrote."""

import sys
import threading
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

# By default tqdm also takes a semaphore, which a child that is killed leaves behind.
tqdm.set_lock(threading.RLock())


def report(message: str) -> None:
    """Write one line to standard error, next to any progress bar."""
    tqdm.write(f"  {message}", file=sys.stderr)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Wrap an iterable in a progress bar; silent without a terminal."""
    return tqdm(items, desc=f"  {description}", total=total, leave=False, disable=None)
