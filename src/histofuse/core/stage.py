"""Running a stage: its arguments, its errors, the check of its code, and how long it took."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import load_json, to_json, write_text
from histofuse.core.code import CodeList
from histofuse.core.disk import naming_full_disk
from histofuse.core.errors import HistofuseError, InputError

SECONDS: Final = Path(".histofuse/seconds")
# A stage imports this first, before anything that takes long to import.
_STARTED: Final = time.perf_counter()


def run_stage(main: Callable[..., None], *, shared: bool = False, listed: bool = True) -> None:
    """Run a stage with the arguments of the command line, or the key of DVC's ``stage@key``.

    An error that the user can fix ends the process with its message and exit status 1; any other
    exception is a bug and keeps its traceback. Only a `shared` stage may be started by torchrun in
    several processes. The code of a `listed` one is compared with its list when DVC runs it.
    """
    began = time.perf_counter()
    stage = os.environ.get("DVC_STAGE")
    script = Path(main.__globals__["__file__"])
    try:
        if not shared:
            require_one_process("Run it with python; only train_image can be shared.")
        code = CodeList(script) if stage and listed else None
        if code:
            code.check_sources()
            code.check_imports()
        with naming_full_disk(Path.cwd()):
            key = (stage or "").rpartition(":")[2].partition("@")[2]
            main(*(sys.argv[1:] or ([key] if key else [])))
        if code:
            code.check_imports()  # with those on first use
    except HistofuseError as error:
        sys.exit(f"{script}: {error}")
    if stage:
        _write_seconds(stage, began)


def require_one_process(remedy: str) -> None:
    """Refuse to do one piece of work in each of the processes that torchrun has started."""
    launched, processes = "TORCHELASTIC_RUN_ID" in os.environ, os.environ.get("WORLD_SIZE", "1")
    if launched and int(processes) > 1:
        raise InputError.of("torchrun", f"{processes} processes for this stage", "one", remedy)


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage, without DVC's own before and after.

    `start_up` is from the first import of this package to the stage's own code, `work` from there
    to its end, including modules imported on first use.
    """

    start_up: float
    work: float

    @property
    def total(self) -> float:
        """Start-up and work."""
        return self.start_up + self.work


def _write_seconds(stage: str, began: float) -> None:
    """Note how long a stage took: next to the run, never in an output."""
    spent = StageTime(began - _STARTED, time.perf_counter() - began)
    rounded = {key: round(value, 3) for key, value in asdict(spent).items()}
    write_text(to_json(rounded), SECONDS / f"{stage}.json")


def read_stage_times(root: Path = Path()) -> dict[str, StageTime]:
    """Read the seconds of all stages that were timed here, the longest first."""
    files = sorted((root / SECONDS).glob("*.json"))
    times = {file.stem: StageTime(**load_json(file)) for file in files}
    return dict(sorted(times.items(), key=lambda item: -item[1].total))
