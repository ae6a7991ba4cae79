import subprocess
from pathlib import Path

import pytest

from histofuse.tracking.provenance import (
    Revision,
    describe_revision,
    find_stage,
    read_revision,
    read_stages,
)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    Path("dvc.lock").write_text("stages: {}\n")
    Path("code.py").touch()
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def test_files_that_commands_write_make_nothing_dirty(repository):
    Path("dvc.lock").write_text("stages: {a: {}}\n")
    Path("promotions.jsonl").write_text("{}\n")
    revision = read_revision()
    assert len(revision.commit) == 40
    assert not revision.dirty
    Path("new.py").touch()
    assert read_revision().dirty


def test_outside_git_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_revision() == Revision(None, dirty=False)
    assert describe_revision(read_revision()) == {}


def test_stage_of_an_output_is_found(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "schema: '2.0'\nstages:\n  train_tabular@mlp:\n    cmd: python x\n"
        "    outs:\n    - path: models/mlp\n      md5: abc.dir\n"
    )
    stages = read_stages(lock)
    name, stage = find_stage(stages, Path("models/mlp"))
    assert name == "train_tabular@mlp"
    assert stage["outs"][0]["md5"] == "abc.dir"
    assert find_stage(stages, Path("models/xgboost")) is None
    assert read_stages(tmp_path / "none.lock") == {}
