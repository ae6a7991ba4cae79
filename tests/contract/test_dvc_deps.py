"""The DVC files against the sources: an undeclared dep goes stale, an extra one wastes hours."""

import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML
from stages import DVC_FILES, ROOT, find_params, find_paths, load_all_stages, load_stages

from histofuse.core.code import LISTS
from histofuse.params.base import NAMED, NAMING

STAGES = load_all_stages()
IDS = [s.name for s in STAGES]
# Writes the lists of code that every other stage depends on.
CODE = "code"


@pytest.mark.parametrize("stage", [s for s in STAGES if s.name != CODE], ids=lambda s: s.name)
def test_the_list_of_a_stage_is_its_only_code_dep(stage):
    code = [dep for dep in stage.deps if dep.startswith(("src", "pipelines", LISTS))]
    assert code == [f"{LISTS}/{stage.script.stem}.txt"]


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
def test_the_package_next_to_the_stage_is_found_before_an_installed_one(stage):
    """``_stage`` puts it on the path, so it comes before the package."""
    imports = re.findall(r"^(?:from|import) (_stage|histofuse)", stage.script.read_text(), re.M)
    assert imports[0] == "_stage"


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
def test_params_are_the_sections_loaded(stage):
    read = set() if "params.yaml" in stage.deps else find_params(stage.script)  # all of it
    assert stage.params == read


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
def test_paths_named_are_deps_or_outs(stage):
    declared = [*stage.deps, *stage.outs]
    named = {path for path in find_paths(stage.script) if not path.startswith(STATE)}
    for path in named - UNDECLARED:
        related = [
            d for d in declared if f"{d}/".startswith(f"{path}/") or path.startswith(f"{d}/")
        ]
        assert related, f"{stage.name} names {path}, which is no dep and no out of it"


# The registry's own store, the reports folder of publish and the params themselves.
UNDECLARED = {"params.yaml", "mlruns"}
# State between runs of a stage, which changes no output.
STATE = ".histofuse/"


def test_every_pipeline_file_is_a_stage():
    files = {f.name for f in (ROOT / "pipelines").glob("[!_]*.py")}
    assert files == {s.script.name for s in STAGES}


def test_no_section_is_loaded_behind_a_stage():
    """Only pipelines/ load params (and tracking, which changes no output)."""
    loading = [
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / "src").rglob("*.py")
        if re.search(r"\bload_(section|value|seed|keys)\(", f.read_text())
    ]
    allowed = (
        "src/histofuse/params/base.py",
        "src/histofuse/tracking/",
        "src/histofuse/cli.py",
        "src/histofuse/commands/",
    )
    assert [f for f in loading if not f.startswith(allowed)] == []


def test_evidence_runs_from_the_root_and_keeps_its_own_outs():
    """Its paths are from the root, as those of the pipeline, and no run of one stales the other."""
    stages = YAML(typ="safe").load(DVC_FILES[1])["stages"]
    assert {body["wdir"] for body in stages.values()} == {".."}
    outs = [out for stage in load_stages(DVC_FILES[1]) for out in stage.outs]
    assert outs
    assert all(out.startswith("evidence/") for out in outs)


@pytest.mark.parametrize("path", DVC_FILES, ids=lambda path: path.parent.name)
def test_no_param_is_part_of_a_command(path):
    """DVC puts params into commands before any of our code runs, and the shell runs them."""
    for name, body in YAML(typ="safe").load(path)["stages"].items():
        assert "$" not in str(body.get("do", body)["cmd"]), name


@pytest.mark.parametrize("path", DVC_FILES, ids=lambda path: path.parent.name)
def test_params_in_paths_and_names_are_those_that_are_checked(path):
    used = set(re.findall(r"\$\{([\w.]+)\}", path.read_text()))
    known = [re.escape(place).replace(r"\*", r"\w+") for place in NAMING]
    keyed = {"image", "pairing", "patients", "tabular"}
    for name in used - keyed - {"key", "item", "item.study"}:
        assert name.startswith("data.") or any(re.fullmatch(k, name) for k in known), name
    assert keyed <= set(NAMED)


def test_evidence_is_out_of_sight_of_dvc_until_asked_for():
    tracked = subprocess.run(
        ["git", "ls-files", "evidence"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert tracked.stdout.split() == ["evidence/stages.yaml"]
    # DVC reads no file that git ignores.
    ignored = subprocess.run(["git", "check-ignore", "evidence/dvc.yaml"], cwd=ROOT, check=False)
    assert ignored.returncode == 1


def test_make_dag_lists_each_stage_once_with_what_it_needs():
    dot = """strict digraph {
    "train@a" -> "evaluate";
    "train@b" -> "evaluate";
    "split" -> "evaluate";
    "split" -> "train@a";
    "code" -> "split";
    }"""
    done = subprocess.run(
        [sys.executable, ROOT / "pipelines/_list_stages.py"],
        input=dot, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["split", "train     split", "evaluate  train"]
