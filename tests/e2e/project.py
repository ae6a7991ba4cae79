"""A copy of the project in a folder of its own, driven as a user drives it: through commands."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SOURCE = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Project:
    """A checkout with its own git, DVC and MLflow state."""

    root: Path
    settings: Mapping[str, str] = field(
        default_factory=dict
    )  # of the environment, beside the user's

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment, with this checkout's sources before any installed ones."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_", "GIT_"))
        }
        return kept | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
            **self.settings,
        }

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout; a failure shows all it printed."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            output = f"{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
            raise AssertionError(f"{' '.join(command)} exited {done.returncode}:\n{output}")
        return done

    def repro(self, *arguments: str) -> list[str]:
        """Run ``dvc repro`` and list the stages that ran."""
        done = self.run("dvc", "repro", *arguments)
        return re.findall(r"Running stage '([^']+)'", done.stdout)

    def kill_when(self, ready: Callable[[], bool], *command: str, seconds: float = 180) -> None:
        """Start a command, wait for a state, and kill its whole process group with SIGKILL."""
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + seconds
        while not ready():
            assert process.poll() is None, f"{command} ended before it could be killed"
            assert time.monotonic() < deadline, f"{command} never came to the state to kill it in"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def get_param(self, key: str) -> Any:
        """Read a value of params.yaml by dotted key."""
        value = YAML(typ="safe", pure=True).load(self.root / "params.yaml")
        for part in key.split("."):
            value = value[part]
        return value

    def set_params(self, changes: Mapping[str, Any]) -> None:
        """Change values of params.yaml by dotted key; a key that is not there is a mistake."""
        path = self.root / "params.yaml"
        yaml = YAML()
        document = yaml.load(path)
        for key, value in changes.items():
            *parents, last = key.split(".")
            section = document
            for parent in parents:
                section = section[parent]
            assert last in section, f"no {key} in params.yaml"
            section[last] = value
        yaml.dump(document, path)

    def set_image_model(self, name: str, section: Mapping[str, Any]) -> None:
        """Make one image model take the place of all, wherever params.yaml names them."""
        others = set(self.get_param("image")) - {name}
        studies = self.get_param("tune")
        self.set_params(
            {
                "image": {name: section},
                "encoders.image": name,
                "crossval.image_models": [name],
                "tune": {key: study for key, study in studies.items() if key not in others},
            }
        )

    def commit(self, message: str) -> None:
        """Commit all that git tracks or would track."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    @property
    def lock(self) -> str:
        """The text of dvc.lock."""
        return (self.root / "dvc.lock").read_text()

    @property
    def digests(self) -> dict[str, Any]:
        """What dvc.lock holds of each stage, whatever their order."""
        return YAML(typ="safe", pure=True).load(self.lock)["stages"]

    def drop_stages(self, *names: str) -> None:
        """Remove the outputs and lock entries of stages, as if they had never run."""
        path = self.root / "dvc.lock"
        yaml = YAML()
        document = yaml.load(path)
        for name in names:
            for out in document["stages"].pop(name).get("outs", []):
                target = self.root / out["path"]
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        yaml.dump(document, path)


def copy_sources(target: Path) -> Project:
    """Copy what git tracks, or would track, of this checkout into a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (SOURCE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SOURCE / name, target / name)
    (target / "dvc.lock").unlink(missing_ok=True)
    project = Project(target)
    project.run("git", "init", "--quiet")
    project.commit("Start")
    return project
