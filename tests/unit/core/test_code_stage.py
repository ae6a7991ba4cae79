"""The stage ``code`` in a pipeline of two other stages, run by DVC."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
from pathlib import Path
from _stage import run_stage
from toy.{module} import WIDTH


def main():
    Path("{module}.txt").write_text(str(WIDTH))


if __name__ == "__main__":
    run_stage(main)
"""
PIPELINE = """
stages:
  code:
    cmd: python pipelines/digest_code.py
    deps: [src/toy, pipelines, params.yaml]
    outs:
      - code_digests: {cache: false, persist: true}
  head:
    cmd: python pipelines/head.py
    deps: [code_digests/head.txt]
    outs: [head.txt]
  tail:
    cmd: python pipelines/tail.py
    deps: [code_digests/tail.txt]
    outs: [tail.txt]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A pipeline once run and committed."""
    root = tmp_path_factory.mktemp("template") / "toy"
    (root / "src/toy").mkdir(parents=True)
    (root / "src/toy/__init__.py").touch()
    (root / "pipelines").mkdir()
    for name in ("_stage.py", "digest_code.py"):
        shutil.copy(ROOT / "pipelines" / name, root / "pipelines")
    for module in ("head", "tail"):
        (root / f"src/toy/{module}.py").write_text("WIDTH = 8\n")
        (root / f"pipelines/{module}.py").write_text(SCRIPT.format(module=module))
    (root / "dvc.yaml").write_text(PIPELINE)
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copy(ROOT / ".dvcignore", root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch, root)
        call(root, "git", "init", "--quiet")
        call(root, "dvc", "init", "--quiet")
        assert repro(root) == ["code", "head", "tail"]
        call(root, "git", "add", "--all")
        call(root, "git", "commit", "--quiet", "--message", "Start")
    return root


@pytest.fixture
def toy(template, tmp_path, monkeypatch) -> Path:
    """A copy of the pipeline that a test may change."""
    root = tmp_path / "toy"
    shutil.copytree(template, root)
    set_environment(monkeypatch, root)
    return root


def set_environment(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Find the package in this very checkout, as if by ``pip install -e``, after the root's."""
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}{os.pathsep}{ROOT / 'src'}")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "test")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "test@localhost")


def call(folder: Path, *command: str, fails: bool = False) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert bool(done.returncode) is fails, done.stderr
    return done.stdout + done.stderr


def repro(folder: Path, *arguments: str) -> list[str]:
    """Run ``dvc repro`` and list the stages that ran."""
    return re.findall(r"Running stage '([^']+)'", call(folder, "dvc", "repro", *arguments))


def test_a_comment_reruns_code_alone_and_a_constant_what_imports_it(toy):
    head = toy / "src/toy/head.py"

    head.write_text("# How wide.\nWIDTH = 8\n")
    assert repro(toy) == ["code"]

    head.write_text("WIDTH = 9\n")
    assert repro(toy / "src", "../dvc.yaml") == ["../dvc.yaml:code", "../dvc.yaml:head"]
    assert (toy / "head.txt").read_text() == "9"
    changed = call(toy, "git", "diff", "--stat=200", "--", "code_digests")
    assert "head.txt" in changed
    assert "tail.txt" not in changed


def test_a_stage_run_past_its_list_refuses(toy):
    (toy / "src/toy/head.py").write_text("WIDTH = 9\n")
    said = call(toy, "dvc", "repro", "--single-item", "--force", "head", fails=True)
    assert "`dvc repro code`" in said
    assert not (toy / "head.txt").exists()


def test_another_worktree_and_a_temporary_experiment_import_their_own_package(toy):
    other = toy.with_name("other")
    call(toy, "git", "worktree", "add", "--quiet", str(other))
    (other / "src/toy/head.py").write_text("WIDTH = 9\n")
    assert repro(other, "head") == ["code", "head"]
    assert (other / "head.txt").read_text() == "9"

    (toy / "src/toy/tail.py").write_text("WIDTH = 7\n")
    call(toy, "dvc", "exp", "run", "--temp", "--name", "narrow")
    assert (toy / "tail.txt").read_text() == "8"
    call(toy, "dvc", "exp", "apply", "narrow")
    assert (toy / "tail.txt").read_text() == "7"


KEYED = """
  keyed:
    foreach: ${image}
    do:
      cmd: python pipelines/keyed.py
      deps: [code_digests/keyed.txt]
      outs: ['models/${key}']
"""
KEYED_SCRIPT = """
from pathlib import Path
from _stage import run_stage
import toy


def main(key: str) -> None:
    Path("models").mkdir(exist_ok=True)
    Path("models", key).write_text(key)


if __name__ == "__main__":
    run_stage(main)
"""


def test_keys_reach_stages_by_the_name_of_the_stage_and_never_a_shell(toy):
    (toy / "dvc.yaml").write_text(PIPELINE + KEYED)
    (toy / "pipelines/keyed.py").write_text(KEYED_SCRIPT)
    keys = ["resnet18", "simple_cnn"]
    assert {f"keyed@{key}" for key in keys} <= set(repro(toy))
    assert [(toy / "models" / key).read_text() for key in keys] == keys

    params = (toy / "params.yaml").read_text()
    (toy / "params.yaml").write_text(params.replace("  resnet18:", "  'x; touch f':", 1))
    done = subprocess.run(["dvc", "repro"], cwd=toy, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "the key 'x; touch f'" in done.stderr
    subprocess.run(["dvc", "repro", "-s", "keyed"], cwd=toy, capture_output=True, check=False)
    assert not (toy / "f").exists()


def test_a_fault_late_in_params_stops_the_first_stage(toy):
    params = (toy / "params.yaml").read_text()
    (toy / "params.yaml").write_text(params.replace("  case_cards: 1", "  case_card: 1"))
    done = subprocess.run(["dvc", "repro"], cwd=toy, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "explain.case_card: unknown key" in done.stderr
    assert "Running stage 'head'" not in done.stdout
