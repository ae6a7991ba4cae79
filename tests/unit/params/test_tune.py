"""Search spaces refuse nonsense, and tuned values go through the section's own checks."""

from pathlib import Path

import pytest

from histofuse.core.errors import InputError
from histofuse.params.base import load_keys, load_section
from histofuse.params.fusion import FusionParams
from histofuse.params.image import ImageParams
from histofuse.params.patients import PatientParams
from histofuse.params.project import name_section
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import StudyParams, StudyStorage, apply_values, check_space

ROOT = Path(__file__).parents[3] / "params.yaml"
FUSION = load_section(FusionParams, "fusion", ROOT)
RATE = "{type: float, low: 1e-5, high: 1e-2, log: true}"


def load_study(tmp_path, space, **changes):
    values = {"trials": 3, "metric": "auroc", "sampler": "tpe", "pruner": "median"}
    values |= {"pruner_warmup_trials": 2} | changes
    text = ", ".join(f"{key}: {value}" for key, value in values.items())
    path = tmp_path / "params.yaml"
    path.write_text(f"tune: {{fusion: {{{text}, space: {space}}}}}")
    return load_section(StudyParams, "tune.fusion", path)


def faults_of(tmp_path, space, **changes):
    with pytest.raises(InputError) as caught:
        check_space(load_study(tmp_path, space, **changes), FUSION, "tune.fusion", "fusion")
    return [str(fault).split("params.yaml, ")[1] for fault in caught.value.faults]


def test_the_project_s_own_studies_fit_their_models():
    for name in load_keys("tune", ROOT):
        study = load_section(StudyParams, f"tune.{name}", ROOT)
        if name == "fusion":
            check_space(study, FUSION, "tune.fusion", "fusion")
        elif name in load_keys("image", ROOT):
            section = load_section(ImageParams, f"image.{name}", ROOT).root
            check_space(study, section, f"tune.{name}", f"image.{name}")
        elif section_name := name_section("patients", name):
            section = load_section(PatientParams, section_name, ROOT).root
            check_space(study, section, f"tune.{name}", section_name)
        else:
            section = load_section(TabularParams, f"tabular.{name}", ROOT).root
            check_space(study, section, f"tune.{name}", f"tabular.{name}")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{}", "tune.fusion.space"),
        ("{dropout: {type: float, low: 0.5, high: 0.1, log: false}}", "low below high"),
        ("{dropout: {type: float, low: 0.0, high: 0.5, log: true}}", "low above 0"),
        ("{dropout: {type: float, low: 0.0, high: .inf, log: false}}", "finite"),
        ("{dropout: {type: float, low: 0.0, log: false}}", "dropout.high: missing"),
        ("{dropout: {type: number, low: 0.0, high: 0.5, log: false}}", "is 'number'"),
        ("{dropout: {low: 0.0, high: 0.5, log: false}}", "dropout.type: missing"),
        ("{batch_size: {type: int, low: 2.5, high: 64, log: false}}", "batch_size.low: is 2.5"),
        ("{dropout: {type: choice, of: [0.1]}}", "dropout.of"),
        ("{dropout: {type: choice, of: [0.1, 0.1]}}", "values that differ"),
        (
            "{drop: {type: choice, of: [0.1, 0.3]}}",
            "drop: no key of fusion; expected one of: calibration, threshold, hidden",
        ),
        ("{study: {type: choice, of: [a, b]}}", "study: no key"),
        ("{dropout: {type: float, low: 0.0, high: 1.5, log: false}}", "holds 1.5, which fusion"),
        ("{hidden: {type: choice, of: [[256, 128], [0]]}}", "holds [0], which fusion refuses"),
        ("{learning_rate: {type: float, low: 0.01, high: 0.1, log: true}}", "is 0.0001"),
        ("{hidden: {type: choice, of: [[64], [32]]}}", "fusion.hidden: is [256, 128]"),
    ],
)
def test_nonsense_is_refused_with_the_key_named(tmp_path, space, said):
    faults = faults_of(tmp_path, space)
    assert any(said in fault for fault in faults), faults


def test_all_faults_of_a_space_are_listed(tmp_path):
    space = (
        "{drop: {type: choice, of: [0.1, 0.3]},"
        " dropout: {type: float, low: 0.0, high: 1.5, log: false}}"
    )
    assert len(faults_of(tmp_path, space)) == 2


@pytest.mark.parametrize("change", [{"trials": 0}, {"metric": "accuracy"}, {"sampler": "grid"}])
def test_settings_are_checked(tmp_path, change):
    (fault,) = faults_of(tmp_path, f"{{learning_rate: {RATE}}}", **change)
    assert fault.startswith(f"tune.fusion.{next(iter(change))}")


def test_a_range_s_end_need_not_go_with_every_other_value(tmp_path):
    study = load_study(tmp_path, "{warmup_epochs: {type: int, low: 0, high: 80, log: false}}")
    mlp = load_section(TabularParams, "tabular.mlp", ROOT).root
    check_space(study, mlp, "tune.mlp", "tabular.mlp")  # though 80 is above its 60 epochs


def test_values_are_put_in_by_dotted_key_and_checked():
    image = load_section(ImageParams, "image.resnet18", ROOT).root
    changed = apply_values(image, {"augmentation.hue": 0.2, "epochs": 3})
    assert (changed.augmentation.hue, changed.epochs) == (0.2, 3)
    assert changed.augmentation.flips == image.augmentation.flips
    assert image.augmentation.hue != 0.2
    assert apply_values(image, {}) == image
    with pytest.raises(InputError, match=r"augmentation\.hue: is 0\.9"):
        apply_values(image, {"augmentation.hue": 0.9})
    with pytest.raises(InputError, match=r"augmentation\.hues: no key"):
        apply_values(image, {"augmentation.hues": 0.1})


def test_a_password_has_no_place_in_params(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("study_storage: postgresql://me@host/studies")
    assert load_section(StudyStorage, "study_storage", path).root.endswith("studies")
    path.write_text("study_storage: postgresql://me:secret@host/studies")
    with pytest.raises(InputError, match="without a password"):
        load_section(StudyStorage, "study_storage", path)
