"""Every kind of fault in params.yaml is told before the first stage."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from histofuse.commands.params import check_params
from histofuse.core.errors import InputError
from histofuse.params.project import REFERENCES

PARAMS = Path(__file__).parents[3] / "params.yaml"


def write(folder: Path, **changes) -> Path:
    """Write params.yaml with values changed by dotted key; None removes a key."""
    document = YAML(typ="safe", pure=True).load(PARAMS)
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = document
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[last]
        else:
            section[last] = value
    path = folder / "params.yaml"
    YAML(typ="safe", pure=True).dump(document, path)
    return path


def check(folder: Path, monkeypatch, **changes) -> list[str]:
    path = write(folder, **changes)
    monkeypatch.chdir(folder)
    try:
        check_params(Path(path.name))
    except InputError as error:
        return [str(fault) for fault in error.faults]
    return []


def test_the_params_of_the_project_are_right(tmp_path, monkeypatch):
    assert check(tmp_path, monkeypatch) == []


CASES = {
    # a section, whole
    "explain": (None, "params.yaml, explain: missing"),
    "protocl": ({}, "params.yaml, protocl: unknown key"),
    # keys and values of late sections
    "explain.case_cards": ("many", "explain.case_cards: is 'many'"),
    "promotion.alarm_at": (1.5, "promotion.alarm_at: is 1.5"),
    "promotion.margins.patches": ({"auroc/makro": 0.1}, "promotion.margins.patches.auroc/makro"),
    "alarms.feature_aroc": (0.9, "alarms.feature_aroc: unknown key"),
    "assessment.thresholds": ({"low": 0.5, "high": 0.2, "step": 0.1}, "assessment.thresholds: is"),
    "crossval.folds": (1, "crossval.folds: is 1"),
    "seed": (-1, "params.yaml, seed: is -1"),
    # names of one section in another
    "encoders.image": ("resnet50", "encoders.image: is 'resnet50'; expected a key of image"),
    "encoders.patient": ("xgboost", "encoders.patient: 'xgboost' is of kind xgboost"),
    "explain.shap_models": (["xgbost"], "explain.shap_models: is 'xgbost'"),
    "evaluation.primary_rule": ("blind", "evaluation.primary_rule: is 'blind'"),
    "evaluation.diagnoses_model": ("lr", "evaluation.diagnoses_model: is 'lr'"),
    "crossval.image_models": (["resnet50"], "crossval.image_models: is 'resnet50'"),
    "crossval.tabular_models": (["mpl"], "crossval.tabular_models: is 'mpl'"),
    "crossval.patient_models": (["imag"], "crossval.patient_models: is 'imag'"),
    "crossval.rules": (["linked"], "crossval.rules: is 'linked'"),
    "crossval.classes_required": (["mitoses"], "crossval.classes_required: is 'mitoses'"),
    "splits.images.classes_required": (["tumor"], "splits.images.classes_required: is 'tumor'"),
    "pairing.label_aligned.positive_share": (
        {"mitosis": 1.0, "tumor": 0.0},
        "pairing.*.positive_share: is 'tumor'",
    ),
    "positive_control.both": ("gate", "positive_control.both: is 'gate'; expected a key of pat"),
    "positive_control.image": ("imag", "positive_control.image: is 'imag'; expected a key of pat"),
    "positive_control.record": ("recrd", "positive_control.record: is 'recrd'; expected a key"),
    "patients.gated.study": ("gated", "patients.gated.study: is 'gated'; expected a"),
    "data.class_names": ({"mitoses": ["Mitosis"]}, "data.class_names: is 'mitoses'"),
    "studies.image": (["resnet50"], "studies.image: is 'resnet50'; expected a key of image"),
    "studies.tabular": ([], "tabular.xgboost.study: is 'xgboost'; expected a study listed"),
    "fusion.study": ("fuson", "fusion.study: is 'fuson'; expected a key of tune"),
    "image.resnet18.study": ("resnet18", "image.resnet18.study: is 'resnet18'; expected a study l"),
    # search spaces
    "tune.mlpp": (
        {
            "trials": 1,
            "metric": "auroc",
            "sampler": "tpe",
            "pruner": "none",
            "pruner_warmup_trials": 0,
            "space": {"c": {"type": "choice", "of": [1, 2]}},
        },
        "tune.mlpp: no model of this name",
    ),
    "tune.mlp.space.dropout.high": (2.0, "tune.mlp.space.dropout: holds 2.0"),
    "fusion.learning_rate": (0.5, "fusion.learning_rate: is 0.5; expected within"),
    # names that the code knows
    "cohort.target": ("death", "params.yaml, cohort.target: no target 'death'"),
    "ehr_features.labs": (["haemoglobine"], "ehr_features.labs: 'haemoglobine'"),
    "ehr_features.treatments": (["radio"], "ehr_features.treatments: 'radio'"),
    "tabular.mlp.calibration": ("plat", "tabular.mlp.calibration: is 'plat'; expected one of"),
    "image.resnet18.weights": ("w.safetensors", "image.resnet18.weights: no file w.safetensors"),
    "image.resnet18.backbone": ("resnet81", "image.resnet18.backbone: is 'resnet81'"),
}


@pytest.mark.parametrize("key", CASES)
def test_a_fault_anywhere_is_named(tmp_path, monkeypatch, key):
    value, expected = CASES[key]
    faults = check(tmp_path, monkeypatch, **{key: value})
    assert any(expected in fault for fault in faults), faults


def test_all_faults_are_listed_at_once(tmp_path, monkeypatch):
    faults = check(
        tmp_path,
        monkeypatch,
        **{"encoders.image": "resnet50", "explain.case_cards": 0, "seed": "x"},
    )
    assert len(faults) == 3


def test_a_study_that_was_tuned_by_hand_need_not_be_listed(tmp_path, monkeypatch):
    (tmp_path / "studies/resnet18").mkdir(parents=True)
    (tmp_path / "studies/resnet18/best_params.json").write_text("{}")
    assert check(tmp_path, monkeypatch, **{"image.resnet18.study": "resnet18"}) == []


def test_values_outside_the_space_of_a_study_that_does_not_run_are_allowed(tmp_path, monkeypatch):
    assert check(tmp_path, monkeypatch, **{"image.resnet18.head_learning_rate": 0.1}) == []


def test_each_reference_is_tried():
    tried = {
        key.replace("label_aligned", "*").replace("resnet18.", "*.").replace("gated.", "*.")
        for key in CASES
    }
    untried = {place.removesuffix(".keys") for place in REFERENCES} - tried
    assert untried <= {"controls.tabular", "studies.*", "tabular.*.study"}
