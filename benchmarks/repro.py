"""What `dvc repro` costs beside the stages' own work; a run with nothing to do; `histofuse --help`.

A clone of this checkout runs the whole pipeline with nothing cached, as committed in the full mode,
with fewer and smaller inputs in the short one, where start-up weighs more. Python itself
(`-X importtime`) says how long each process imported, and each stage how long it took; what is left
of the wall time is interpreters starting and DVC.
Run: python benchmarks/repro.py [--short]
"""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from claims import Claim, best_seconds, main
from histofuse.core.stage import read_stage_times

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from project import Project  # noqa: E402  # a checkout driven as the end-to-end tests drive theirs

# A line of `-X importtime` that is not indented: what it imported in turn is in it.
IMPORT = re.compile(r"^import time:\s+\d+ \|\s+(\d+) \| \S", re.MULTILINE)
HEADER = "import time: self [us]"
# A third of the frames, of cases that suffice for every split, and a third of the patients.
SHORT = {
    "simulation.brecahad.cases": 20,
    "splits.images.folds": 3,
    "simulation.mimiciv.patients": 1600,
    "simulation.linked.patients": 100,
}


def clone(folder: Path, *, short: bool) -> Project:
    root = folder / "histofuse"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
    project = Project(root)
    if short:
        project.set_params(SHORT)
    return project


def read_import_seconds(log: str) -> float:
    """Add up the imports of all processes but the first, which is DVC's own."""
    of_stages = log.split(HEADER)[2:]
    return sum(int(spent) for part in of_stages for spent in IMPORT.findall(part)) / 1e6


def measure_repro(project: Project, *, short: bool) -> Claim:
    profiled = replace(project, settings={"PYTHONPROFILEIMPORTTIME": "1"})
    start = time.perf_counter()
    log = profiled.run("dvc", "repro").stderr
    wall = time.perf_counter() - start
    times = read_stage_times(project.root)
    inside = sum(t.total for t in times.values())
    imports = read_import_seconds(log)
    inner = inside - imports
    overhead = (wall - inner) / len(times)
    longest = ", ".join(f"{name} {t.total:.0f} s" for name, t in list(times.items())[:5])
    size = "small" if short else "default"
    return Claim(
        8,
        f"`dvc repro` of {len(times)} stages, nothing cached, {size} project",
        f"{wall:.0f} s",
        f"inner work of the stages {inner:.0f} s",
        f"imports {imports:.0f} s",
        overhead,
        "start-up, imports and DVC ≤ 3 s a stage",
        overhead <= 3,
        f"The longest stages: {longest}.",
    )


def measure_nothing_to_do(project: Project) -> Claim:
    seconds = best_seconds(lambda: project.run("dvc", "repro"), repeats=2)
    return Claim(
        9,
        "`dvc repro` with nothing to do",
        f"{seconds:.1f} s",
        "",
        "",
        seconds,
        "≤ 5 s",
        seconds <= 5,
    )


def measure_help(project: Project) -> Claim:
    seconds = best_seconds(lambda: project.run("histofuse", "--help"), repeats=5)
    plain = best_seconds(lambda: project.run("python", "-c", "pass"), repeats=5)
    return Claim(
        9,
        "`histofuse --help`",
        f"{seconds:.2f} s",
        "",
        f"a bare Python {plain:.2f} s",
        seconds,
        "≤ 0.5 s",
        seconds <= 0.5,
    )


def measure(short: bool) -> list[Claim]:
    with TemporaryDirectory() as scratch:
        project = clone(Path(scratch), short=short)
        return [
            measure_repro(project, short=short),
            measure_nothing_to_do(project),
            measure_help(project),
        ]


if __name__ == "__main__":
    main(measure)
