"""The section of a tabular model is read by its kind, and each fault names its own key."""

from pathlib import Path

import pytest

from histofuse.core.errors import InputError
from histofuse.params.base import load_section
from histofuse.params.tabular import MlpParams, TabularParams, XgboostParams

LR = (
    "kind: logistic_regression, c: 0.1, imbalance: none, calibration: platt,"
    " threshold: youden_j, study: none"
)
MLP = (
    "kind: mlp, hidden: [256, 128], dropout: 0.3, learning_rate: 1e-3, weight_decay: 1e-4,"
    " batch_size: 256, epochs: 60, warmup_epochs: 3, step_epochs: 20, step_factor: 0.5,"
    " patience: 10, monitor: auroc, loss: bce, imbalance: class_weights, calibration: platt,"
    " threshold: max_f1, study: none"
)


def load(tmp_path: Path, text: str):
    path = tmp_path / "params.yaml"
    path.write_text(f"tabular: {{model: {{{text}}}}}")
    return load_section(TabularParams, "tabular.model", path).root


def faults_of(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    return [str(fault).split("params.yaml, ")[1] for fault in caught.value.faults]


def test_the_project_s_own_sections_hold():
    root = Path(__file__).parents[3] / "params.yaml"
    assert isinstance(load_section(TabularParams, "tabular.mlp", root).root, MlpParams)
    assert isinstance(load_section(TabularParams, "tabular.xgboost", root).root, XgboostParams)
    for name in ("logistic_regression", "gradient_boosting"):
        assert load_section(TabularParams, f"tabular.{name}", root).root.kind == name


def test_all_faults_are_listed_with_the_key_as_it_stands_in_the_file(tmp_path):
    text = LR.replace("c: 0.1", "c: -1").replace("imbalance: none", "imbalance: maybe") + ", x: 1"
    faults = faults_of(tmp_path, text)
    assert [f.split(":")[0] for f in faults] == [
        "tabular.model.c",
        "tabular.model.imbalance",
        "tabular.model.x",
    ]
    assert "greater than 0" in faults[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LR.replace("logistic_regression", "forest"), "tabular.model.kind: is 'forest'; expected"),
        (LR.replace("kind: logistic_regression, ", ""), "tabular.model.kind: missing"),
        (LR.replace("c: 0.1, ", ""), "tabular.model.c: missing"),
        (LR.replace("youden_j", "youden"), "tabular.model.threshold: is 'youden'; expected one of"),
        (LR.replace("youden_j", '"precision_target:2"'), "tabular.model.threshold: is"),
        (MLP.replace("warmup_epochs: 3", "warmup_epochs: 60"), "tabular.model: is"),
        (MLP.replace("hidden: [256, 128]", "hidden: []"), "tabular.model.hidden: is []"),
    ],
)
def test_a_fault_names_its_key(tmp_path, text, fault):
    (found,) = faults_of(tmp_path, text)
    assert found.startswith(fault)
