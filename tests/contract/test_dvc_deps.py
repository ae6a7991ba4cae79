"""The DVC files against the sources: an undeclared dep goes stale, an extra one wastes hours."""

import re
import shutil

import pytest
from ruamel.yaml import YAML
from stages import (
    DVC_FILES,
    ROOT,
    find_code,
    find_params,
    find_paths,
    load_all_stages,
    load_stages,
    write_code_deps,
)

STAGES = load_all_stages()
IDS = [s.name for s in STAGES]
MEND = "run `make deps`"


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
def test_code_deps_are_the_imports(stage):
    needed = find_code(stage.script)
    assert stage.code == needed, (
        f"{stage.name}: missing {sorted(needed - stage.code)}, "
        f"too many {sorted(stage.code - needed)}: {MEND}"
    )


@pytest.mark.parametrize("stage", STAGES, ids=IDS)
def test_params_are_the_sections_loaded(stage):
    assert stage.params == find_params(stage.script)


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
    files = {f.name for f in (ROOT / "pipelines").glob("*.py")}
    assert files == {s.script.name for s in STAGES}


def test_no_section_is_loaded_behind_a_stage():
    """Only pipelines/ load params (and tracking, which changes no output)."""
    loading = [
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / "src").rglob("*.py")
        if re.search(r"\bload_(section|seed|keys)\(", f.read_text())
    ]
    allowed = (
        "src/histofuse/params/base.py",
        "src/histofuse/tracking/",
        "src/histofuse/cli.py",
        "src/histofuse/commands/",
    )
    assert [f for f in loading if not f.startswith(allowed)] == []


def test_dropped_line_is_seen(tmp_path):
    """The test above can fail: each line dropped from dvc.yaml is missed."""
    text = (ROOT / "dvc.yaml").read_text()
    line = re.search(r"\n *- src/histofuse/models/fusion\.py", text)
    assert line
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(text.replace(line.group(), "", 1))

    broken = [s for s in load_stages(tmp_path / "dvc.yaml") if s.code != find_code(s.script)]

    assert len(broken) == 1
    assert find_code(broken[0].script) - broken[0].code == {"src/histofuse/models/fusion.py"}


def test_imports_are_followed_through_functions_and_data_files():
    reached = find_code(ROOT / "pipelines" / "ehr_features.py")
    assert "src/histofuse/data/mimic.py" in reached
    assert any(f.endswith(".json") for f in reached)
    assert not any("tracking" in f for f in reached)


@pytest.mark.parametrize("path", DVC_FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_make_deps_mends_each_file(path, tmp_path):
    text = path.read_text()
    line = re.search(r"\n *- src/histofuse/core/errors\.py", text)
    assert line
    copy = tmp_path / path.name
    copy.write_text(text.replace(line.group(), "", 1))

    write_code_deps(copy)

    assert all(s.code == find_code(s.script) for s in load_stages(copy))


def test_evidence_runs_from_the_root_and_keeps_its_own_outs():
    """Its paths are from the root, as those of the pipeline, and no run of one stales the other."""
    stages = YAML(typ="safe").load(DVC_FILES[1])["stages"]
    assert {body["wdir"] for body in stages.values()} == {".."}
    outs = [out for stage in load_stages(DVC_FILES[1]) for out in stage.outs]
    assert outs
    assert all(out.startswith("evidence/") for out in outs)
