"""``histofuse doctor``: what is wrong with a set-up, and how to mend it. It changes nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import HistofuseError
from histofuse.params.base import load_section
from histofuse.params.data import DataParams
from histofuse.tracking.local import find_foreign_root
from histofuse.tracking.names import redact
from histofuse.tracking.provenance import read_revision, read_stages
from histofuse.tracking.publish import MODELS
from histofuse.tracking.store import open_store

Status = Literal["ok", "warn", "fail"]

REQUIREMENTS: Final = Path("requirements.lock")
REGISTRY_LOCK: Final = Path("registry.lock.json")
SIMULATED: Final = Path("data/simulated")
PYTHON: Final = (3, 11)
DISK_WARN_GB: Final = 5.0  # what a run on BreCaHAD and MIMIC-IV writes, with some to spare
DISK_FAIL_GB: Final = 1.0
DVC_SECONDS: Final = 120
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_HOSP_TABLES: Final = ("patients", "admissions", "diagnoses_icd", "labevents", "prescriptions")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ``fail`` where the pipeline cannot run or its numbers cannot be trusted.
        found: What was found.
        remedy: How to mend it; empty where there is nothing to mend.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.name:<12}  {self.found}"
        return f"{line}\n{'':20}-> {self.remedy}" if self.remedy else line


def examine() -> Iterator[Check]:
    """Look at everything; a check that breaks is itself a failed check."""
    checks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("python", check_python),
        ("packages", check_packages),
        ("torch", check_torch),
        ("data", check_data),
        ("disk", check_disk),
        ("mlflow", check_store),
        ("git", check_git),
        ("dvc", check_dvc),
        ("browser", check_browser),
    )
    for name, check in checks:
        try:
            yield from check()
        except HistofuseError as error:
            yield Check(name, "fail", str(error))


# --- environment --------------------------------------------------------------------------------


def check_python() -> Iterator[Check]:
    """Hold the interpreter against what the project needs."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        yield Check("python", "fail", found, "make clean, then make setup PYTHON=python3.11")
    elif sys.prefix == sys.base_prefix:
        yield Check("python", "warn", f"{found}, outside a virtual environment", "make setup")
    else:
        yield Check("python", "ok", f"{found} in {sys.prefix}")


def check_packages(lock: Path = REQUIREMENTS) -> Iterator[Check]:
    """Hold the installed packages against the lock."""
    if not lock.is_file():
        yield Check("packages", "fail", f"no {lock}", f"git checkout {lock}")
        return
    pins = read_pins(lock.read_text(encoding="utf-8"))
    missing, other = [], []
    for name, version in pins.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found.split("+")[0] != version.split("+")[0]:
            other.append(f"{name} {found} (locked {version})")
    if missing:
        yield Check("packages", "fail", f"not installed: {_shorten(missing)}", "make setup")
    if other:
        yield Check("packages", "warn", f"other versions: {_shorten(other)}", "make setup")
    if not missing and not other:
        yield Check("packages", "ok", f"{len(pins)} as locked")


def read_pins(text: str) -> dict[str, str]:
    """Read name and version of the packages a lock names for this machine."""
    from packaging.requirements import Requirement

    pins = {}
    for line in re.findall(r"^([A-Za-z0-9][^\s#]*==[^\\\n#]*)", text, flags=re.MULTILINE):
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name] = next(iter(requirement.specifier)).version
    return pins


def _shorten(items: list[str], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def check_torch() -> Iterator[Check]:
    """Make sure that torch and torchvision were built for each other."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
        if kept.tolist() != [0]:
            raise RuntimeError("nms gives a wrong answer")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        yield Check("torch", "fail", f"torch and torchvision do not match: {reason}", "make setup")
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, runs on CPU"
    yield Check(
        "torch", "ok", f"{torch.__version__}, torchvision {torchvision.__version__}; {device}"
    )


def check_disk(folder: Path = Path()) -> Iterator[Check]:
    """Look at the space left for data, models and runs."""
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.1f} GB free"
    remedy = "Make room: dvc gc --workspace drops what no commit here needs."
    if free < DISK_FAIL_GB:
        yield Check("disk", "fail", found, remedy)
    elif free < DISK_WARN_GB:
        yield Check("disk", "warn", found, remedy)
    else:
        yield Check("disk", "ok", found)


# --- data ---------------------------------------------------------------------------------------


def check_data() -> Iterator[Check]:
    """Look for both data sets and their layout."""
    params = load_section(DataParams, "data")
    yield check_brecahad(Path(params.brecahad))
    yield check_mimiciv(Path(params.mimiciv))


def check_brecahad(folder: Path) -> Check:
    """Look for frames and their annotations."""
    name = "brecahad"
    if (made := _check_simulated(name, folder)) is not None:
        return made
    images = {p.stem for p in folder.glob("images/*.tif*")}
    annotated = {p.stem for p in folder.glob("groundTruth/*.json")}
    remedy = (
        "histofuse fetch brecahad, or set data.brecahad in params.yaml to the folder that holds "
        "images/ and groundTruth/"
    )
    if not images or not annotated:
        found = f"{folder}: {len(images)} images, {len(annotated)} annotations"
        return Check(name, "fail", found, remedy)
    if odd := sorted(images ^ annotated):
        found = f"{folder}: {_shorten(odd)} without image or annotation"
        return Check(name, "fail", found, "Complete the data set, or take these out of it.")
    return Check(name, "ok", f"{folder}: {len(images)} frames")


def check_mimiciv(folder: Path) -> Check:
    """Look for the tables of the hosp module."""
    name = "mimiciv"
    if (made := _check_simulated(name, folder)) is not None:
        return made
    missing = [t for t in _HOSP_TABLES if not (folder / "hosp" / f"{t}.csv.gz").is_file()]
    if missing:
        files = ", ".join(f"hosp/{t}.csv.gz" for t in missing)
        remedy = (
            "histofuse fetch mimic-demo, or set data.mimiciv in params.yaml to the folder that "
            "holds hosp/"
        )
        return Check(name, "fail", f"{folder}: no {files}", remedy)
    return Check(name, "ok", f"{folder}: {len(_HOSP_TABLES)} tables")


def _check_simulated(name: str, folder: Path) -> Check | None:
    if folder.exists() or SIMULATED not in folder.parents:
        return None
    return Check(name, "ok", f"{folder}: not there yet, dvc repro simulates it")


# --- MLflow, git, DVC ---------------------------------------------------------------------------


def check_store() -> Iterator[Check]:
    """Hold the MLflow store against models/ and registry.lock.json."""
    store = open_store()
    at = redact(store.uri)
    mend = "histofuse publish"
    if store.database is not None and (there := find_foreign_root(store.database)) is not None:
        yield Check("mlflow", "warn", f"{at}: its files are looked for in {there}", mend)
        return
    held = {v.digest for v in store.list_versions()}
    wanted = {path.parent.name: digest_file(path) for path in sorted(MODELS.glob(f"*/{MANIFEST}"))}
    if REGISTRY_LOCK.is_file():
        wanted |= load_json(REGISTRY_LOCK)
    missing = [name for name, digest in wanted.items() if digest not in held]
    if missing:
        yield Check("mlflow", "warn", f"{at}: does not hold {_shorten(missing)}", mend)
    elif abandoned := store.list_abandoned():
        found = f"{at}: {len(abandoned)} runs of processes that died are said to be running"
        yield Check("mlflow", "warn", found, mend)
    else:
        yield Check("mlflow", "ok", f"{at}: {len(held)} registered bundles")


def check_git() -> Iterator[Check]:
    """Look at the state of the sources, which every run is labelled with."""
    revision = read_revision()
    if revision.commit is None:
        remedy = "git init && git add --all && git commit, so that runs can name their sources"
        yield Check("git", "warn", "no commit", remedy)
    elif revision.dirty:
        found = f"{revision.commit[:12]}, with uncommitted changes"
        yield Check("git", "warn", found, "git commit, so that runs can name their sources")
    else:
        yield Check("git", "ok", revision.commit[:12])


def check_dvc() -> Iterator[Check]:
    """Ask DVC what has changed, and look for outputs that are not there."""
    if not Path(".dvc").is_dir():
        yield Check("dvc", "fail", "no .dvc/", "git checkout .dvc")
        return
    outs = [Path(out["path"]) for s in read_stages().values() for out in s.get("outs", [])]
    missing = [str(out) for out in outs if not out.exists()]
    if not outs:
        yield Check("dvc", "warn", "nothing was run here yet", "dvc repro")
    elif missing:
        yield Check("dvc", "warn", f"not there: {_shorten(missing)}", "dvc checkout, or dvc repro")
    else:
        yield _ask_dvc()


def _ask_dvc() -> Check:
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=DVC_SECONDS
        )
        changed = sorted(set(json.loads(done.stdout)) - {"publish"})
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        reason = "no answer" if isinstance(error, subprocess.TimeoutExpired) else "it fails"
        return Check("dvc", "warn", f"asked for its status: {reason}", "dvc status")
    if changed:
        return Check("dvc", "ok", f"all outputs are there; dvc repro would run {_shorten(changed)}")
    return Check("dvc", "ok", "all outputs are there and up to date")


# --- what only some work needs ------------------------------------------------------------------


def check_browser() -> Iterator[Check]:
    """Look for the browser that the tests of MLflow's pages drive."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        yield Check("browser", "ok", found)
    else:
        remedy = "Only for the tests of MLflow's pages, which are skipped: apt-get install chromium"
        yield Check("browser", "ok", "no Chromium found", remedy)
