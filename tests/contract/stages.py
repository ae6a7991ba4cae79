"""What the DVC files declare of each stage, and what the stage's source says it needs.

Run as a script, it writes the code deps of every stage into them.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "histofuse"
# Tracking shows what ran; it cannot change an output, so no stage depends on it.
UNTRACKED = PACKAGE / "tracking"
# The pipeline, and the evidence that takes too long for every run of it.
DVC_FILES = (ROOT / "dvc.yaml", ROOT / "evidence" / "dvc.yaml")
LOADERS = {"load_section", "load_seed", "load_keys"}


@dataclass(frozen=True)
class Stage:
    """One stage of a DVC file.

    Attributes:
        name: Its name.
        script: Its file in pipelines/.
        params: Params declared, with ``${key}`` for the key or item of a foreach.
        deps: Deps declared, code and data.
        outs: Outs declared.
    """

    name: str
    script: Path
    params: frozenset[str]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def code(self) -> set[str]:
        """The declared deps that are code."""
        return {d for d in self.deps if d.startswith(("src/", "pipelines/"))}


def load_all_stages() -> list[Stage]:
    """Load the stages of all DVC files; their paths are from the project's root in each."""
    return [stage for path in DVC_FILES for stage in load_stages(path)]


def load_stages(path: Path) -> list[Stage]:
    stages = YAML(typ="safe", pure=True).load(path)["stages"]
    return [_to_stage(name, body.get("do", body)) for name, body in stages.items()]


def _to_stage(name: str, body: dict) -> Stage:
    script = re.search(r"pipelines/\w+\.py", body["cmd"])
    assert script, f"{name}: cmd runs no file of pipelines/"
    return Stage(
        name=name,
        script=ROOT / script.group(),
        params=frozenset(p.replace("${item}", "${key}") for p in body.get("params", [])),
        deps=tuple(body.get("deps", [])),
        outs=tuple(_name_of(o) for o in body.get("outs", []) + body.get("metrics", [])),
    )


def _name_of(out: str | dict) -> str:
    return out if isinstance(out, str) else next(iter(out))


def find_code(script: Path) -> set[str]:
    """Walk the imports of a stage: every package file it reaches, and data files beside them."""
    reached: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file in reached or file.is_relative_to(UNTRACKED):
            continue
        reached.add(file)
        if file.suffix == ".py":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            waiting += [*_imported_files(tree), *_data_files(tree, file)]
    return {f.relative_to(ROOT).as_posix() for f in reached}


def _imported_files(tree: ast.AST) -> list[Path]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [ROOT / "src" / Path(*name.split(".")).with_suffix(".py") for name in names]
    return [f for f in files if f.is_relative_to(PACKAGE) and f.is_file()]


def _data_files(tree: ast.AST, file: Path) -> list[Path]:
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    named = [
        file.parent / t for t in texts if isinstance(t, str) and re.fullmatch(r"\w+\.(json|csv)", t)
    ]
    return [f for f in named if f.is_file()]


def find_params(script: Path) -> set[str]:
    """List the sections a stage loads, an f-string's placeholder as ``${key}``."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    return {
        _section_of(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in LOADERS
    }


def _section_of(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Name)
    if call.func.id == "load_seed":
        return "seed"
    match call.args[0 if call.func.id == "load_keys" else 1]:
        case ast.Constant(value=str(name)):
            return name
        case ast.JoinedStr(values=parts):
            return "".join(p.value if isinstance(p, ast.Constant) else "${key}" for p in parts)
        case other:
            raise AssertionError(f"section name is no literal: {ast.unparse(other)}")


def find_paths(script: Path) -> set[str]:
    """List the relative paths a stage names as ``Path("…")``."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Path"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }


def write_code_deps(path: Path) -> None:
    """Bring the code deps of every stage in a DVC file in line with its imports."""
    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(path)
    for stage in load_stages(path):
        body = document["stages"][stage.name]
        body = body.get("do", body)
        data = [d for d in stage.deps if d not in stage.code]
        body["deps"] = [*data, *sorted(find_code(stage.script))]
    yaml.dump(document, path)


if __name__ == "__main__":
    for dvc_file in DVC_FILES:
        write_code_deps(dvc_file)
