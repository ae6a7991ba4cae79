"""``dvc exp run -S`` writes params.yaml again: the rest of it must stay as it is."""

import difflib
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

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
