"""What a stage shows while it runs: a bar for long work, a line for what it read and wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from tqdm import tqdm

from histofuse.core.errors import Fault, HistofuseError, InputError
from histofuse.core.stage_times import Stopwatch

T = TypeVar("T")


def report(message: str) -> None:
    """Write one line to standard error, beside any progress bar."""
    tqdm.write(f"  {message}", file=sys.stderr)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Wrap an iterable in a progress bar; silent where nobody watches a terminal."""
    return tqdm(items, desc=f"  {description}", total=total, leave=False, disable=None)


def run_stage(main: Callable[..., None], *, shared: bool = False) -> None:
    """Run a stage with the command line's words as its arguments.

    A fault the user can mend ends the process with its message and exit status 1; any other
    exception is a defect and keeps its traceback.

    Args:
        main: The stage.
        shared: Whether the processes that torchrun starts share its work. Each of them would do
            all of it otherwise, and write over the others' outputs: such a start is refused.
    """
    stopwatch = Stopwatch()
    try:
        if not shared:
            _require_one_process()
        main(*sys.argv[1:])
    except HistofuseError as error:
        sys.exit(f"{main.__globals__['__file__']}: {error}")
    stopwatch.write()


def _require_one_process() -> None:
    launched, processes = "TORCHELASTIC_RUN_ID" in os.environ, os.environ.get("WORLD_SIZE", "1")
    if launched and int(processes) > 1:
        remedy = "Run it with python; train_image alone is shared."
        raise InputError(
            [Fault("torchrun", f"{processes} processes for this stage", "one", remedy)]
        )
