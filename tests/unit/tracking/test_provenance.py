import os
import shutil
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
    revision = read_revision()
    assert (revision.commit, revision.dirty) == (None, False)
    assert revision.problem.startswith("fatal: not a git repository")
    assert describe_revision(revision) == {"histofuse.git_warning": revision.problem}


def test_before_the_first_commit_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    assert read_revision() == Revision(None, dirty=False, problem="no commit yet")


def test_a_checkout_of_another_user_gives_git_s_own_message(repository, monkeypatch, capsys):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for _ in range(2):
        tags = describe_revision(read_revision())
    assert list(tags) == ["histofuse.git_warning"]
    said = tags["histofuse.git_warning"]
    assert said.startswith("fatal: detected dubious ownership in repository at")
    assert f"git config --global --add safe.directory {repository}" in said
    shown = capsys.readouterr().err
    assert shown.count("warning: runs do not record the state of their sources: fatal: det") == 1


def test_git_that_fails_half_way_leaves_the_sources_in_doubt(repository, monkeypatch):
    """A git whose ``status`` fails, in front of the real one."""
    fake = repository / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = status ] && {{ echo "fatal: odd" >&2; exit 128; }}\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    revision = read_revision()
    assert (len(revision.commit), revision.dirty, revision.problem) == (40, True, "fatal: odd")
    tags = describe_revision(revision)
    assert tags["histofuse.git_commit"] == revision.commit
    assert tags["histofuse.git_warning"] == "fatal: odd"


def test_without_git_it_is_said(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository / "none"))
    assert "git cannot be run (No such file" in read_revision().problem


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
    assert find_stage(stages, Path("models/mlp/inner")) == (name, stage)
    assert find_stage(stages, Path("models/mlp_wide")) is None
    assert read_stages(tmp_path / "none.lock") == {}
