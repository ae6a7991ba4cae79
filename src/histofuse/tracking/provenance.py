"""The origin of a model, read from git and ``dvc.lock``."""

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import digest_text, to_json
from histofuse.core.progress import report

LOCK: Final = Path("dvc.lock")
PROMOTIONS: Final = Path("promotions.jsonl")

_report_once = cache(report)
Stages = dict[str, dict[str, Any]]  # name of a stage -> its entry in dvc.lock


@dataclass(frozen=True)
class Revision:
    """The state of the sources."""

    commit: str | None  # none outside git, before the first commit, or where git refuses
    dirty: bool  # whether files differ from that commit
    problem: str = ""  # why git does not say, in its own words


def read_revision() -> Revision:
    """Read the state of the sources from git.

    Changes of ``dvc.lock``, which every run rewrites, and of the log of promotions, which no output
    depends on, do not count.
    """
    commit, problem = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Revision(None, dirty=False, problem=problem or "no commit yet")
    changes, problem = _git(
        "status", "--porcelain", "--", ".", *(f":!{path}" for path in (LOCK, PROMOTIONS))
    )
    return Revision(commit, dirty=bool(changes or problem), problem=problem)


def _git(*arguments: str) -> tuple[str, str]:
    """Run git; return what it says, and the error it says, in one line."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except OSError as error:
        return "", f"git cannot be run ({error.strerror})"
    except subprocess.TimeoutExpired:
        return "", f"git {arguments[0]} takes more than 30 seconds"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return "", " ".join(done.stderr.split())


def read_stages(path: Path = LOCK) -> Stages:
    """Read the entry of each stage in ``dvc.lock``; empty without the file."""
    if not path.is_file():
        return {}
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path).get("stages", {})


def find_stage(stages: Stages, out: Path) -> tuple[str, dict[str, Any]] | None:
    """Find the stage that writes an output, or a folder that holds it, and its entry."""
    for name, stage in stages.items():
        if any(out.is_relative_to(made["path"]) for made in stage.get("outs", [])):
            return name, stage
    return None


def describe_revision(revision: Revision) -> dict[str, str]:
    """Describe the state of the sources, as tags of a run; warn once if they are not known."""
    if revision.problem:
        _report_once(f"warning: runs do not record the state of their sources: {revision.problem}")
    warning = {"histofuse.git_warning": revision.problem} if revision.problem else {}
    if revision.commit is None:
        return warning
    return warning | {
        "mlflow.source.git.commit": revision.commit,
        "histofuse.git_commit": revision.commit,
        "histofuse.git_dirty": str(revision.dirty).lower(),
    }


def describe_stage(name: str, stage: dict[str, Any]) -> dict[str, str]:
    """Describe the stage that made a model, as tags of a run."""
    return {
        "mlflow.source.name": f"dvc.yaml: {name}",
        "histofuse.dvc_stage": name,
        "histofuse.dvc_lock_digest": digest_text(to_json(stage)),
    }
