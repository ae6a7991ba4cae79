"""What the DVC files declare of each stage, and what the stage's source says it needs."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
# The pipeline, and the evidence that takes too long for every run of it.
DVC_FILES = (ROOT / "dvc.yaml", ROOT / "evidence" / "stages.yaml")
LOADERS = {"load_section", "load_value", "load_seed", "load_keys"}


@dataclass(frozen=True)
class Stage:
    """One stage of a DVC file.

    Attributes:
        name: Its name.
        script: Its file in pipelines/.
        params: Params declared, with ``${key}`` for a key that is filled in.
        deps: Deps declared, the list of the stage's code and data.
        outs: Outs declared.
    """

    name: str
    script: Path
    params: frozenset[str]
    deps: tuple[str, ...]
    outs: tuple[str, ...]


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
        params=frozenset(re.sub(r"\$\{[\w.]+\}", "${key}", p) for p in body.get("params", [])),
        deps=tuple(body.get("deps", [])),
        outs=tuple(_name_of(o) for o in body.get("outs", []) + body.get("metrics", [])),
    )


def _name_of(out: str | dict) -> str:
    return out if isinstance(out, str) else next(iter(out))


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
