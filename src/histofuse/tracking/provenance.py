"""The origin of a model, read from git and ``dvc.lock``."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import digest_text, to_json

LOCK: Final = Path("dvc.lock")
PROMOTIONS: Final = Path("promotions.jsonl")

Stages = dict[str, dict[str, Any]]  # name of a stage -> its entry in dvc.lock


@dataclass(frozen=True)
class Revision:
    """The state of the sources."""

    commit: str | None  # None outside git or before the first commit
    dirty: bool  # whether files differ from that commit


def read_revision() -> Revision:
    """Read the state of the sources from git.

    Changes of ``dvc.lock``, which every run rewrites, and of the log of promotions, which no output
    depends on, do not count.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Revision(None, dirty=False)
    written = f":!{LOCK}", f":!{PROMOTIONS}"
    return Revision(commit, dirty=bool(_git("status", "--porcelain", "--", ".", *written)))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def read_stages(path: Path = LOCK) -> Stages:
    """Read the entry of each stage in ``dvc.lock``; empty without the file."""
    if not path.is_file():
        return {}
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path).get("stages", {})


def find_stage(stages: Stages, out: Path) -> tuple[str, dict[str, Any]] | None:
    """Find the stage that writes an output, and its entry."""
    for name, stage in stages.items():
        if any(Path(made["path"]) == out for made in stage.get("outs", [])):
            return name, stage
    return None


def describe_revision(revision: Revision) -> dict[str, str]:
    """Describe the state of the sources, as tags of a run."""
    if revision.commit is None:
        return {}
    return {
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
