"""``histofuse doctor``: checks the installation and suggests fixes. It changes nothing."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from histofuse.commands.params import check_params as check_all_params
from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST, list_bundles
from histofuse.core.errors import HistofuseError
from histofuse.core.naming import show_count
from histofuse.core.tables import read_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.cohort import COHORT
from histofuse.data.crosswalk import count_partners, is_empty, read_crosswalk
from histofuse.data.declared.table import read_declared
from histofuse.params.base import PARAMS_FILE, load_section
from histofuse.params.data import DataParams
from histofuse.params.patients import PatientCohortParams
from histofuse.tracking.local import find_foreign_root
from histofuse.tracking.names import redact
from histofuse.tracking.provenance import read_revision, read_stages
from histofuse.tracking.publish import MODELS
from histofuse.tracking.registry import REGISTRY_LOCK
from histofuse.tracking.store import open_store

Status = Literal["ok", "warn", "fail"]

REQUIREMENTS: Final = Path("requirements.lock")
SIMULATED: Final = Path("data/simulated")
FRAMES_TABLE: Final = Path("data/annotations/frames.parquet")
COHORT_TABLE: Final = Path("data/cohort/cohort.parquet")
PYTHON: Final = (3, 11)
DISK_WARN_GB: Final = 5.0  # a run on BreCaHAD and MIMIC-IV writes less
DISK_FAIL_GB: Final = 1.0
DVC_SECONDS: Final = 120
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_NOT_COMMITTED: Final = ("no commit", "fatal: not a git repository")
_HOSP_TABLES: Final = ("patients", "admissions", "diagnoses_icd", "labevents", "prescriptions")


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    status: Status  # fail: the pipeline cannot run or its results cannot be trusted
    message: str
    remedy: str = ""  # empty if nothing needs fixing

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.name:<12}  {self.message}"
        return f"{line}\n{'':20}-> {self.remedy}" if self.remedy else line


def examine() -> Iterator[Check]:
    """Run all checks; a check that raises an error counts as failed."""
    checks = (
        check_python, check_packages, check_torch, check_params, check_data, check_disk,
        check_mlflow, check_git, check_dvc, check_browser,
    )  # fmt: skip
    for check in checks:
        try:
            yield from check()
        except HistofuseError as error:
            yield Check(check.__name__.removeprefix("check_"), "fail", str(error))


def check_python() -> Iterator[Check]:
    """Compare the interpreter with the version the project needs."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        yield Check("python", "fail", version, "make clean, then make setup PYTHON=python3.11")
    elif sys.prefix == sys.base_prefix:
        yield Check("python", "warn", f"{version}, outside a virtual environment", "make setup")
    else:
        yield Check("python", "ok", f"{version} in {sys.prefix}")


def check_packages(lock: Path = REQUIREMENTS) -> Iterator[Check]:
    """Compare the installed packages with the lock file."""
    if not lock.is_file():
        yield Check("packages", "fail", f"no {lock}", f"git checkout {lock}")
        return
    pins = read_pins(lock.read_text(encoding="utf-8"))
    installed = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    pairs = {name: (installed.get(canonicalize_name(name)), pin) for name, pin in pins.items()}
    missing = [name for name, (version, _) in pairs.items() if version is None]
    other = [
        f"{name} {version} (locked {pin})"
        for name, (version, pin) in pairs.items()
        if version is not None and version.split("+")[0] != pin.split("+")[0]
    ]
    if missing:
        yield Check("packages", "fail", f"not installed: {_shorten(missing)}", "make setup")
    if other:
        yield Check("packages", "warn", f"other versions: {_shorten(other)}", "make setup")
    if not missing and not other:
        yield Check("packages", "ok", f"{len(pins)} installed as locked")


def read_pins(text: str) -> dict[str, str]:
    """Read the names and versions that a lock file pins for this platform."""
    pins = {}
    for line in re.findall(r"^([A-Za-z0-9][^\s#]*==[^\\\n#]*)", text, flags=re.MULTILINE):
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name] = next(iter(requirement.specifier)).version
    return pins


def _shorten(items: list[str], limit: int = 5) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def check_torch() -> Iterator[Check]:
    """Check that torch and torchvision belong together."""
    try:
        import torch
        import torchvision

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
        kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)
        if kept.tolist() != [0]:
            raise RuntimeError("nms returns a wrong result")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        yield Check("torch", "fail", f"torch and torchvision do not match: {reason}", "make setup")
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, uses the CPU"
    versions = f"{torch.__version__}, torchvision {torchvision.__version__}"
    yield Check("torch", "ok", f"{versions}; {device}")


def check_disk() -> Iterator[Check]:
    """Check the disk space for data, models and runs."""
    free = shutil.disk_usage(Path()).free / 1e9
    status = "fail" if free < DISK_FAIL_GB else "warn" if free < DISK_WARN_GB else "ok"
    remedy = "Free some space: dvc gc --workspace removes outputs that the workspace does not use."
    yield Check("disk", status, f"{free:.1f} GB free", "" if status == "ok" else remedy)


def check_params() -> Iterator[Check]:
    """Check all of params.yaml."""
    check_all_params()
    yield Check("params", "ok", f"{PARAMS_FILE} is complete, and its names exist")


def check_data() -> Iterator[Check]:
    """Check that both data sets exist with the expected layout, and who is in both."""
    params = load_section(DataParams, "data")
    yield check_brecahad(Path(params.brecahad), params.annotations)
    if params.records.kind == "table":
        yield check_declared(Path(params.records.path))
    else:
        yield check_mimiciv(Path(params.records.path))
    cohort = load_section(PatientCohortParams, "patient_cohort").root
    yield from check_crosswalk(Path(params.crosswalk), cohort)


def check_brecahad(folder: Path, annotations: str = "brecahad") -> Check:
    """Check that each frame has an annotation and the reverse; a CSV is of many frames."""
    if (pending := _check_simulated("brecahad", folder)) is not None:
        return pending
    images = {p.stem for p in folder.glob("images/*.tif*")}
    suffix = {"brecahad": "json", "geojson": "*json", "csv": "csv"}[annotations]
    annotated = {p.stem for p in folder.glob(f"groundTruth/*.{suffix}")}
    if not images or not annotated:
        held = f"{show_count(images, 'images')}, {show_count(annotated, 'annotations')}"
        message = f"{folder}: {held}"
        remedy = _advise("brecahad", "data.brecahad", "images/ and groundTruth/")
        return Check("brecahad", "fail", message, remedy)
    if annotations != "csv" and (unmatched := sorted(images ^ annotated)):
        message = f"{folder}: {_shorten(unmatched)} without image or annotation"
        return Check("brecahad", "fail", message, "Add the missing files, or remove these.")
    return Check("brecahad", "ok", f"{folder}: {show_count(images, 'frames')}")


def check_mimiciv(folder: Path) -> Check:
    """Check that the tables of the hosp module exist."""
    if (pending := _check_simulated("mimiciv", folder)) is not None:
        return pending
    missing = [t for t in _HOSP_TABLES if not (folder / "hosp" / f"{t}.csv.gz").is_file()]
    if missing:
        files = ", ".join(f"hosp/{t}.csv.gz" for t in missing)
        remedy = _advise("mimic-demo", "data.records.path", "hosp/")
        return Check("mimiciv", "fail", f"{folder}: no {files}", remedy)
    return Check("mimiciv", "ok", f"{folder}: {len(_HOSP_TABLES)} tables")


def check_declared(folder: Path) -> Check:
    """Read the declared table as the first stage does."""
    declared = read_declared(folder)
    patients = declared.cells["subject_id"].n_unique()
    counts = f"{show_count(declared.cells, 'rows')} of {show_count(patients, 'patients')}"
    return Check("records", "ok", f"{declared.path}: {counts}")


def check_crosswalk(path: Path, patient_cohort: str) -> Iterator[Check]:
    """Count the cases and the patients of the cohort that find a partner."""
    if is_empty(path):
        if patient_cohort == "crosswalk":
            remedy = "Name its file in data.crosswalk, or set patient_cohort: simulated."
            yield Check("crosswalk", "fail", f"{path}: links no case", remedy)
        return
    if not (FRAMES_TABLE.is_file() and COHORT_TABLE.is_file()):
        remedy = "dvc repro annotations cohort"
        yield Check("crosswalk", "warn", f"{path}: cases and patients not read yet", remedy)
        return
    frames, cohort = read_table(FRAMES_TABLE, FRAMES), read_table(COHORT_TABLE, COHORT)
    found = count_partners(read_crosswalk(path, frames, cohort), frames, cohort)
    lacking = found.cases - found.paired_cases
    if lacking:
        remedy = (
            f"The nuclei alone are used of {show_count(lacking, 'cases')}; name their patients."
        )
        yield Check("crosswalk", "warn", f"{path}: {found}", remedy)
    else:
        yield Check("crosswalk", "ok", f"{path}: {found}")


def _advise(data_set: str, key: str, content: str) -> str:
    return f"histofuse fetch {data_set}, or set {key} in params.yaml to the folder with {content}"


def _check_simulated(name: str, folder: Path) -> Check | None:
    if folder.exists() or SIMULATED not in folder.parents:
        return None
    return Check(name, "ok", f"{folder}: not simulated yet, dvc repro does it")


def check_mlflow() -> Iterator[Check]:
    """Compare the MLflow store with models/ and registry.lock.json."""
    store = open_store()
    address = redact(store.uri)
    remedy = "histofuse publish"
    if store.database is not None and (root := find_foreign_root(store.database)) is not None:
        yield Check("mlflow", "warn", f"{address}: expects its files in {root}", remedy)
        return
    held = {v.digest for v in store.list_versions()}
    bundles = {path.name: path / MANIFEST for path in list_bundles(MODELS)}
    wanted = {name: digest_file(path) for name, path in bundles.items()}
    if REGISTRY_LOCK.is_file():
        wanted |= load_json(REGISTRY_LOCK)
    missing = [name for name, digest in wanted.items() if digest not in held]
    if missing:
        yield Check("mlflow", "warn", f"{address}: lacks {_shorten(missing)}", remedy)
    elif abandoned := store.list_abandoned():
        runs = show_count(abandoned, "runs")
        message = f"{address}: {runs} marked running although the process has ended"
        yield Check("mlflow", "warn", message, remedy)
    else:
        yield Check("mlflow", "ok", f"{address}: {len(held)} registered bundles")


def check_git() -> Iterator[Check]:
    """Check that the sources are committed: every run is tagged with the commit."""
    revision, purpose = read_revision(), "so that runs record their sources"
    if revision.problem.startswith(_NOT_COMMITTED):
        remedy = f"git init && git add --all && git commit, {purpose}"
        yield Check("git", "warn", revision.problem, remedy)
    elif revision.problem or revision.commit is None:
        yield Check("git", "warn", revision.problem, f"Do what git says, {purpose}.")
    elif revision.dirty:
        message = f"{revision.commit[:12]}, with uncommitted changes"
        yield Check("git", "warn", message, f"git commit, {purpose}")
    else:
        yield Check("git", "ok", revision.commit[:12])


def check_dvc() -> Iterator[Check]:
    """Check for missing outputs, and ask DVC what has changed."""
    if not Path(".dvc").is_dir():
        yield Check("dvc", "fail", "no .dvc/", "git checkout .dvc")
        return
    outs = [Path(out["path"]) for s in read_stages().values() for out in s.get("outs", [])]
    missing = [str(out) for out in outs if not out.exists()]
    if not outs:
        yield Check("dvc", "warn", "no stage has run yet", "dvc repro")
    elif missing:
        yield Check("dvc", "warn", f"missing: {_shorten(missing)}", "dvc checkout, or dvc repro")
    else:
        yield _ask_dvc()


def _ask_dvc() -> Check:
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=DVC_SECONDS)
        changed = sorted(set(json.loads(done.stdout)) - {"publish"})
    except subprocess.TimeoutExpired:
        return Check("dvc", "warn", "dvc status takes too long", "dvc status")
    except ValueError:
        return Check("dvc", "warn", "dvc status fails", "dvc status")
    if changed:
        return Check("dvc", "ok", f"all outputs exist; dvc repro would run {_shorten(changed)}")
    return Check("dvc", "ok", "all outputs exist and are up to date")


def check_browser() -> Iterator[Check]:
    """Look for the browser that tests of MLflow's pages use."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    remedy = "Only tests of MLflow's pages need it, and are skipped: apt-get install chromium"
    yield Check("browser", "ok", browser or "no Chromium found", "" if browser else remedy)
