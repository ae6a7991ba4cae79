"""How long each stage took when it last ran: a note beside the run, never one of its outputs."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import load_json, to_json, write_text

FOLDER: Final = Path(".histofuse/seconds")
# A stage imports this first, before anything that takes long to import.
_STARTED: Final = time.perf_counter()


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage, without what DVC does before and after.

    Attributes:
        start_up: From the first import of this package to the stage's own code.
        work: From there to its end; modules that are imported on first use are in it.
    """

    start_up: float
    work: float

    @property
    def total(self) -> float:
        """Both."""
        return self.start_up + self.work


class Stopwatch:
    """Started where a stage's own code begins; stopped where it ends well."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def write(self, folder: Path = FOLDER) -> None:
        """Note the seconds under the name by which DVC runs this stage; without DVC, nothing."""
        if name := os.environ.get("DVC_STAGE"):
            spent = StageTime(self.began - _STARTED, time.perf_counter() - self.began)
            rounded = {key: round(value, 3) for key, value in asdict(spent).items()}
            write_text(to_json(rounded), folder / f"{name}.json")


def read_stage_times(root: Path = Path()) -> dict[str, StageTime]:
    """Read the seconds of all stages that were timed here, the longest first."""
    files = sorted((root / FOLDER).glob("*.json"))
    times = {file.stem: StageTime(**load_json(file)) for file in files}
    return dict(sorted(times.items(), key=lambda item: -item[1].total))
