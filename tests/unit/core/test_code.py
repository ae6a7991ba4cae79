"""Digests of code: what counts, what is followed, and what a stage under DVC refuses."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from histofuse.core.code import LISTS, find_code, read_source, write_code_list
from histofuse.core.errors import InputError

ROOT = Path(__file__).parents[3]
MODULE = '''
"""What it is."""

from __future__ import annotations

LIMIT = 3  # a comment


def scale(values: list[float], by: float = 2.0) -> str:
    """Scale values."""
    total = sum(v * by for v in values)
    return f"{total:.2f} of " f"{len(values)!r}, at {by:>{LIMIT}}" "é"


class Scale:
    """A scale."""

    by: float
    """What to scale by."""
'''


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """A project with one package, ``toy``, and one stage, ``train``."""
    put(tmp_path / "src/toy/__init__.py", "")
    put(tmp_path / "src/toy/head.py", "WIDTH = 8\n")
    put(tmp_path / "src/toy/unused.py", "")
    put(tmp_path / "pipelines/train.py", "from toy.head import WIDTH\n")
    return tmp_path


def reach(root: Path, *ignored: str) -> set[str]:
    folders = [root / folder for folder in ignored]
    found = find_code([root / "pipelines/train.py"], root / "src", folders)
    return {file.relative_to(root).as_posix() for file in found} - {"pipelines/train.py"}


# --- one file -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # a comment", "", True),
        ('    """Scale values."""\n', "", True),
        ("What it is.", "What it was.", True),
        ("What to scale by.", "The factor.", True),
        ("(values: list[float], by:", "(\n    values: list[float],\n    by:", True),
        ("LIMIT = 3", "LIMIT = (3)", True),
        ("LIMIT = 3", "LIMIT = 4", False),
        ("LIMIT = 3", "LIMIT = 3.0", False),
        ("LIMIT = 3", "LIMIT = '3'", False),
        ("LIMIT = 3", "LIMIT: int = 3", False),
        ("list[float]", "list[int]", False),
        ("    by: float\n", "    by: int\n", False),
        (" of ", " from ", False),
        ("é", "e", False),
    ],
)
def test_what_runs_counts_and_what_is_for_the_reader_does_not(tmp_path, old, new, same):
    assert old in MODULE
    before = read_source(put(tmp_path / "a.py", MODULE)).digest
    after = read_source(put(tmp_path / "b.py", MODULE.replace(old, new))).digest
    assert (after == before) is same


def test_what_only_a_type_checker_sees_does_not_count(tmp_path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\nelse:\n    X = 1\n"
    before = read_source(put(tmp_path / "a.py", text.format("from toy import a")))
    after = read_source(put(tmp_path / "b.py", text.format("from toy import b")))
    assert after.digest == before.digest
    assert read_source(put(tmp_path / "c.py", text.replace("X = 1", "X = 2"))) != before


def test_a_syntax_error_names_file_and_line(root):
    put(root / "src/toy/head.py", "WIDTH = 8\nDEPTH = = 2\n")
    with pytest.raises(InputError, match=r"src/toy/head\.py, line 2: syntax error"):
        reach(root)


# The digest of MODULE. It changes only with the way digests are made.
GOLDEN = "4b66e5fd6ed0e569"
OTHERS = Path("~/.pyenv/versions").expanduser().glob("3.1[1-9]*/bin/python")


@pytest.mark.parametrize("python", [sys.executable, *sorted(map(str, OTHERS))])
def test_every_python_gives_the_same_digest(tmp_path, python):
    path = put(tmp_path / "module.py", MODULE)
    code = f"from histofuse.core.code import *; print(read_source(Path({str(path)!r})).digest)"
    done = subprocess.run(
        [python, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == GOLDEN, done.stderr


# --- what is followed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "reached"),
    [
        ("from toy.head import WIDTH", {"toy/head.py"}),
        ("from toy import head", {"toy/head.py"}),
        ("import toy.head as h", {"toy/head.py"}),
        ("import toy", set()),
        ("import numpy.linalg, json", None),
        ("def late():\n    from toy import head", {"toy/head.py"}),
        (
            "if True:\n    try:\n        import toy.head\n    except ImportError: pass",
            {"toy/head.py"},
        ),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import toy.head", None),
        ("import typing\nif typing.TYPE_CHECKING:\n    import toy.head", None),
    ],
)
def test_imports_are_followed_wherever_they_run(root, script, reached):
    (root / "pipelines/train.py").write_text(script)
    expected = set() if reached is None else {"toy/__init__.py", *reached}
    assert reach(root) == {f"src/{file}" for file in expected}


def test_relative_imports_and_packages_are_followed(root):
    put(root / "src/toy/net/__init__.py", "from . import layers\n")
    put(root / "src/toy/net/layers.py", "from ..head import WIDTH\nfrom .sizes import BIG\n")
    put(root / "src/toy/net/sizes.py", "BIG = 2\n")
    put(root / "pipelines/train.py", "import toy.net\n")
    modules = {"__init__", "head", "net/__init__", "net/layers", "net/sizes"}
    assert reach(root) == {f"src/toy/{module}.py" for module in modules}


def test_modules_next_to_the_script_are_followed(root):
    put(root / "pipelines/_stage.py", "import toy\n")
    put(root / "pipelines/train.py", "import _stage\n")
    assert reach(root) == {"pipelines/_stage.py", "src/toy/__init__.py"}


def test_data_files_that_a_module_names_count_by_their_bytes(root):
    put(root / "src/toy/head.py", "TABLE = 'units.json'\nPAGES = 'templates'\nTOY = 'toy'\n")
    put(root / "src/toy/units.json", "{}")
    put(root / "src/toy/other.json", "{}")
    put(root / "src/toy/templates/page.html", "<p>")
    data = {"src/toy/units.json", "src/toy/templates/page.html"}
    assert reach(root) == {"src/toy/__init__.py", "src/toy/head.py"} | data

    before = read_source(root / "src/toy/units.json")
    put(root / "src/toy/units.json", "{} ")
    assert read_source(root / "src/toy/units.json") != before


def test_a_checkout_behind_a_link_is_followed_once(root, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "root"
    link.symlink_to(root)
    found = find_code([link / "pipelines/train.py"], link / "src", [link / "src/toy/show"])
    assert found == find_code([root / "pipelines/train.py"], root / "src")


def test_an_ignored_folder_is_neither_listed_nor_followed(root):
    put(root / "src/toy/show/__init__.py", "import toy.unused\n")
    put(root / "pipelines/train.py", "import toy.head, toy.show\n")
    assert reach(root, "src/toy/show") == {"src/toy/__init__.py", "src/toy/head.py"}
    assert len(reach(root)) == 4


def test_a_list_has_one_line_a_file(root):
    path = root / LISTS / "train.txt"
    assert write_code_list(root / "pipelines/train.py", path, ["src/toy/show"]) == 3
    digest = read_source(root / "src/toy/head.py").digest
    assert path.read_text().splitlines()[2:] == [
        f"{digest} src/toy/head.py",
        "ignored          src/toy/show",
    ]


# --- a stage under DVC --------------------------------------------------------------------------

STAGE = """
    import sys
    from pathlib import Path
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    from histofuse.core.stage import run_stage
    from toy.head import WIDTH

    def main():
        {body}
        print("ran with", WIDTH)

    if __name__ == "__main__":
        run_stage(main)
"""


@pytest.fixture
def stage(root) -> Path:
    return write_stage(root, "pass")


def write_stage(root: Path, body: str) -> Path:
    text = STAGE.format(body=body)
    script = put(root / "pipelines/train.py", text)
    write_code_list(script, root / LISTS / "train.txt", ["src/toy/show"])
    return script


def run(script: Path, **environment: str) -> str:
    """Run a stage as DVC does, from the root, and return what it printed."""
    done = subprocess.run(
        [sys.executable, f"pipelines/{script.name}"],
        cwd=script.parents[1],
        env=os.environ | {"DVC_STAGE": "train", "PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) is bool(done.stderr)
    return done.stdout + done.stderr


def test_a_stage_runs_if_its_list_is_right(stage):
    assert run(stage) == "ran with 8\n"
    head = stage.parents[1] / "src/toy/head.py"
    head.write_text('"""A comment."""\n' + head.read_text())
    assert run(stage) == "ran with 8\n"


def test_a_stage_refuses_a_changed_module_and_says_what_to_run(stage):
    put(stage.parents[1] / "src/toy/head.py", "WIDTH = 9\n")
    said = run(stage)
    assert "src/toy/head.py" in said
    assert "`dvc repro code`" in said
    assert len(said.splitlines()) == 1


def test_a_stage_refuses_without_its_list(stage):
    (stage.parents[1] / LISTS / "train.txt").unlink()
    assert "`dvc repro code`" in run(stage)


def test_a_stage_by_hand_is_not_checked(stage, monkeypatch):
    put(stage.parents[1] / "src/toy/head.py", "WIDTH = 9\n")
    assert run(stage, DVC_STAGE="") == "ran with 9\n"


def test_a_module_imported_by_name_only_is_refused(root):
    script = write_stage(root, "__import__('importlib').import_module('toy.' + 'unused')")
    said = run(script)
    assert "src/toy/unused.py" in said
    assert "ran with 8" in said


def test_an_ignored_module_and_what_it_alone_imports_are_not_compared(root):
    put(root / "src/toy/show/__init__.py", "import toy.unused\n")
    script = write_stage(root, "import toy.show")
    put(root / "src/toy/show/__init__.py", "import toy.unused\nCOLOUR = 1\n")
    assert run(script) == "ran with 8\n"


def test_a_module_of_another_checkout_is_refused(stage, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    put(other / "toy/__init__.py", "")
    put(other / "toy/head.py", "WIDTH = 7\n")
    text = stage.read_text().replace('Path(__file__).parents[1] / "src"', repr(str(other)))
    stage.write_text(text)
    write_code_list(stage, stage.parents[1] / LISTS / "train.txt")
    said = run(stage)
    assert str(other / "toy") in said
    assert str(stage.parents[1] / "src") in said
