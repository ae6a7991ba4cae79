"""``dvc exp run -S`` writes params.yaml again: the rest of it must stay as it is."""

import difflib
from itertools import pairwise
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

PARAMS = Path(__file__).parents[3] / "params.yaml"


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("fusion.learning_rate=0.0003", "  learning_rate: 0.0003"),
        ("image.resnet18.epochs=3", "    epochs: 3"),
        ("splits.images.unit=patch", "    unit: patch          # case | frame | patch (as in"),
        ("cohort.icd10=[]", "  icd10: []"),
        (
            "tune.xgboost.space.max_depth.high=4",
            "      max_depth: {type: int, low: 2, high: 4,",
        ),
        ("classes.tumour=[tumor,other]", "classes: {mitosis: [mitosis], tumour: [tumor, other]"),
    ],
)
def test_dvc_changes_the_line_of_the_key_alone(tmp_path, override, changed):
    path = tmp_path / "params.yaml"
    path.write_bytes(PARAMS.read_bytes())
    apply_overrides(path, [override])
    before, after = PARAMS.read_text().splitlines(), path.read_text().splitlines()
    diff = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    added = [line[1:] for line in diff if line.startswith("+")]
    assert len(added) == 1, diff
    assert added[0].startswith(changed)
    assert len(before) - len(after) in {0, 1}  # an empty list takes one line less


LISTS = ("cohort.icd9", "encoding.strata", "controls.metrics", "assessment.specificities")


@pytest.mark.parametrize("key", LISTS)
def test_a_list_may_become_empty(tmp_path, key):
    """The writer breaks the file where a comment stands at or after the list."""
    path = tmp_path / "params.yaml"
    path.write_bytes(PARAMS.read_bytes())
    apply_overrides(path, [f"{key}=[]", "cohort.target=in_hospital_mortality"])
    before, after = (YAML(typ="safe", pure=True).load(file) for file in (PARAMS, path))
    section, _, name = key.partition(".")
    before[section][name] = []
    before["cohort"]["target"] = "in_hospital_mortality"
    assert after == before
    assert path.read_text().count("#") == PARAMS.read_text().count("#")


def test_no_comment_stands_at_or_after_a_list():
    lines = PARAMS.read_text().splitlines()
    for line, following in pairwise(lines):
        if following.lstrip().startswith("- "):
            assert "#" not in line, line
        if line.lstrip().startswith("- "):
            assert following.strip(), f"{line}: an empty line after it"
            assert not following.lstrip().startswith("#"), following
