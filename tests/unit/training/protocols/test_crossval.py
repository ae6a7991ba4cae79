import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from histofuse.core.artifacts import digest_folder, to_json, write_text
from histofuse.core.errors import InputError
from histofuse.core.tables import write_table
from histofuse.data.brecahad import FRAMES
from histofuse.data.patches import load_index
from histofuse.features.specs import FeatureSpec
from histofuse.params.base import load_section, load_seed
from histofuse.params.crossval import CrossvalParams
from histofuse.params.ehr import EncodingParams
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.image import AllImageParams
from histofuse.params.pairing import PairingsParams
from histofuse.params.patients import AllPatientParams
from histofuse.params.tabular import AllTabularParams
from histofuse.training.protocols import crossval
from histofuse.training.protocols.crossval import (
    Chain,
    Sources,
    complete_fold,
    find_fold,
    list_folds,
    name_run,
    select_models,
)

SPECS = [
    FeatureSpec("age_years", "age", "continuous", "years", "demographics", "Age"),
    FeatureSpec("metastatic", "metastatic", "binary", "", "comorbidity", "Metastases"),
    FeatureSpec("albumin", "albumin", "continuous", "g/dL", "laboratory", "Albumin", True),
    FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance"),
]
SOURCES = Sources(
    Path("data/patches"),
    Path("data/annotations/frames.parquet"),
    Path("data/cohort"),
    Path("data/ehr"),
    Path("crosswalk.csv"),
    Path("data/linked"),
)
VALUES = {
    "folds": 3,
    "validation_unit": "case",
    "classes_required": ["mitosis"],
    "image_models": ["simple_cnn"],
    "tabular_models": ["logistic_regression", "mlp"],
    "rules": ["label_blind"],
    "patient_models": [],
    "workers": 1,
    "threads": 1,
}


def write_sources():
    frames = load_index(SOURCES.patches)[["frame_id", "case_id"]].drop_duplicates()
    digests = [f"{n:064d}" for n in range(len(frames))]
    frames = frames.assign(file=frames["frame_id"], width_px=900, height_px=900)
    frames = frames.assign(pixels_sha256=digests).astype({"file": "str", "pixels_sha256": "str"})
    write_table(frames[list(FRAMES.columns)], SOURCES.frames, FRAMES)
    write_text(to_json([vars(spec) for spec in SPECS]), SOURCES.features / "features.json")
    write_text("case_id,subject_id\n", SOURCES.crosswalk)
    write_text("{}", SOURCES.linked / "meta.json")


def make_chain(**changes) -> Chain:
    images = load_section(AllImageParams, "image").root
    tabulars = load_section(AllTabularParams, "tabular").root
    cnn = images["simple_cnn"].model_copy(update={"epochs": 1, "input_px": 16})
    mlp = tabulars["mlp"].model_copy(update={"epochs": 4})
    return select_models(
        Chain(
            CrossvalParams.model_validate(VALUES | changes),
            images | {"simple_cnn": cnn},
            tabulars | {"mlp": mlp},
            load_section(PairingsParams, "pairing").root,
            load_section(AllPatientParams, "patients").root,
            load_section(EncodingParams, "encoding"),
            load_section(EncodersParams, "encoders"),
            load_section(FusionParams, "fusion").model_copy(update={"epochs": 2}),
            load_seed(),
        )
    )


@pytest.fixture(scope="module")
def project(small_template, tmp_path_factory):
    """A small project in which every fold has been run."""
    root = tmp_path_factory.mktemp("crossval") / "project"
    shutil.copytree(small_template, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_sources()
        chain = make_chain()
        for fold in list_folds(chain, SOURCES):
            complete_fold(chain, SOURCES, fold, Path("run"))
    return root


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def read_predictions(fold, model):
    path = find_fold(Path("run"), fold) / "models" / model / "predictions.parquet"
    return pd.read_parquet(path)


@pytest.mark.parametrize(
    ("model", "row", "group"),
    [
        ("simple_cnn", "patch_id", "case_id"),
        ("fusion_label_blind", "patch_id", "case_id"),
        ("mlp", "hadm_id", "subject_id"),
        ("logistic_regression", "hadm_id", "subject_id"),
    ],
)
def test_every_case_and_patient_is_tested_once_and_never_by_a_model_fitted_on_it(
    here, model, row, group
):
    tested = []
    for fold in range(3):
        table = read_predictions(fold, model)
        test = table[table["split"] == "test"]
        assert not set(test[group]) & set(table.loc[table["split"] != "test", group])
        tested += test[row].tolist()
    assert len(tested) == len(set(tested)) == len(read_predictions(0, model))


def test_patients_of_a_patch_are_of_its_split(here):
    for fold in range(3):
        pairs = read_predictions(fold, "fusion_label_blind")
        patients = pd.read_parquet(find_fold(Path("run"), fold) / "splits" / "patients.parquet")
        of = patients.set_index("hadm_id")["split"]
        assert (of.loc[pairs["hadm_id"]].to_numpy() == pairs["split"].to_numpy()).all()


def test_encoder_is_fitted_on_the_training_patients_of_the_fold(here):
    fold = find_fold(Path("run"), 1)
    patients = pd.read_parquet(fold / "splits" / "patients.parquet")
    encoder = json.loads((fold / "models" / "mlp" / "encoder.json").read_text())
    assert encoder["rows"] == (patients["split"] == "train").sum()


def test_the_same_fold_twice_is_the_same_bytes(here, tmp_path):
    again = complete_fold(make_chain(), SOURCES, 0, tmp_path)
    assert digest_folder(again) == digest_folder(find_fold(Path("run"), 0))


def test_a_fold_that_is_there_is_not_run_again(here, monkeypatch):
    monkeypatch.setattr(crossval, "train_image", None)
    path = find_fold(Path("run"), 0)
    before = (path / "models" / "mlp" / "manifest.json").stat().st_mtime_ns

    complete_fold(make_chain(), SOURCES, 0, Path("run"))

    assert (path / "models" / "mlp" / "manifest.json").stat().st_mtime_ns == before


def test_a_killed_fold_goes_on_after_the_models_it_has(here, tmp_path, monkeypatch):
    whole = crossval.train_fusion

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(crossval, "train_fusion", die)
    with pytest.raises(KeyboardInterrupt):
        complete_fold(make_chain(), SOURCES, 0, tmp_path)
    assert not find_fold(tmp_path, 0).exists()
    monkeypatch.setattr(crossval, "train_fusion", whole)
    monkeypatch.setattr(crossval, "train_image", die)

    done = complete_fold(make_chain(), SOURCES, 0, tmp_path)

    assert digest_folder(done) == digest_folder(find_fold(Path("run"), 0))
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_is_named_by_what_can_change_its_folds(here):
    name = name_run(make_chain(), SOURCES)
    assert name == name_run(make_chain(), SOURCES)
    assert name == name_run(make_chain(workers=7), SOURCES)
    assert name != name_run(make_chain(threads=2), SOURCES)
    assert name != name_run(make_chain(folds=4), SOURCES)
    assert name != name_run(make_chain(tabular_models=["mlp"]), SOURCES)


def test_of_fewer_cases_than_folds_each_is_one(here):
    assert list_folds(make_chain(folds=5), SOURCES) == range(5)
    assert list_folds(make_chain(folds=500), SOURCES) == range(30)


def test_unknown_models_and_encoders_left_out_are_said(here):
    with pytest.raises(InputError) as error:
        make_chain(image_models=["resnet1"], tabular_models=["logistic_regression"])

    text = str(error.value)
    assert len(error.value.faults) == 3
    assert "crossval.image_models: unknown 'resnet1'" in text
    assert "holds no 'mlp', which section encoders names" in text


def test_models_at_patient_level_are_compared_with_both_sides_alone(here):
    with pytest.raises(InputError) as error:
        make_chain(patient_models=["image", "gate"])

    text = str(error.value)
    assert len(error.value.faults) == 2
    assert "crossval.patient_models: unknown 'gate'" in text
    assert "holds no 'record', which fusion is measured against" in text


def test_params_of_the_project_name_models_there_are():
    assert set(VALUES) == set(crossval.CrossvalParams.model_fields)
