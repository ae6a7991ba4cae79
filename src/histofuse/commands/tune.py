"""``histofuse tune``: run the stage of a study, with one or more workers."""

import os
import subprocess
import sys
from pathlib import Path
from shlex import quote

from histofuse.core.errors import HistofuseError, InputError
from histofuse.core.progress import report
from histofuse.params.base import PARAMS_FILE, load_keys, load_section
from histofuse.params.project import EXPECTED_MODEL, name_section
from histofuse.params.tune import STUDY, StudyStorage
from histofuse.studies.run import STORAGE_VARIABLE
from histofuse.tracking.names import redact
from histofuse.tracking.studies import STUDIES, publish_studies

FUSION = "fusion"


def tune(name: str, workers: int, storage: str | None, trials: int | None) -> None:
    """Run a study with workers on this machine; several machines may do so on one storage.

    `storage` and `trials` replace those of params.yaml.
    """
    script, section = find_stage(name)
    command = [sys.executable, str(script), name, "--workers", str(workers)]
    command += [] if trials is None else ["--trials", str(trials)]
    # Not on the command line, which other users of this machine can read.
    environment = os.environ | ({} if storage is None else {STORAGE_VARIABLE: storage})
    status = _wait(subprocess.Popen(command, env=environment))
    if status:
        raise HistofuseError(f"study {name} ended with exit status {status}")
    publish_studies(STUDIES / name)
    # dvc repro does not know the options of this command.
    wanted = {f"{section}.{STUDY}": name, f"tune.{name}.trials": trials, "study_storage": storage}
    settings = [f"{key}: {redact(str(value))}" for key, value in wanted.items() if value]
    report(f"to train with it: {', '.join(settings)} in {PARAMS_FILE}, then dvc repro")
    used = environment.get(STORAGE_VARIABLE) or load_section(StudyStorage, "study_storage").root
    report(f"to look at it: optuna-dashboard {quote(redact(used))}")


def _wait(stage: subprocess.Popen[bytes]) -> int:
    """Wait for a stage, which handles Ctrl-C itself: it ends its workers."""
    while True:
        try:
            return stage.wait()
        except KeyboardInterrupt:
            continue


def find_stage(name: str) -> tuple[Path, str]:
    """Find the stage's file and the model's section of a study."""
    if name not in (known := load_keys("tune")):
        where = f"{PARAMS_FILE}, tune"
        raise InputError.of(where, f"no study {name!r}", f"one of: {', '.join(known)}")
    if name == FUSION:
        return Path("pipelines/tune_fusion.py"), FUSION
    for kind in ("tabular", "image", "patients"):
        section = name_section(kind, name)
        if section in [f"{kind}.{key}" for key in load_keys(kind)]:
            return Path(f"pipelines/tune_{kind}.py"), section
    raise InputError.of(f"{PARAMS_FILE}, tune.{name}", "no model of this name", EXPECTED_MODEL)
