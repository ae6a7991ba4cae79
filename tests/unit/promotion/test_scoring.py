import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_patients import ENCODING, make_params

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.core.tables import read_table, write_table
from histofuse.data.patches import INDEX, PATCH_INDEX, PatchMeta, load_index
from histofuse.data.simulate.linked.cohort import CLASSES
from histofuse.data.simulate.linked.files import Cutting, simulate_linked
from histofuse.data.splits import PATCH_SPLITS
from histofuse.evaluation.alarms.checks import AlarmRules
from histofuse.evaluation.alarms.models import read_model
from histofuse.evaluation.alarms.search import AlarmData, find_alarms
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.weighted import measure_rows
from histofuse.evaluation.predictions import load_predictions, read_view
from histofuse.features.specs import FEATURES
from histofuse.models.backbones import load_image_model
from histofuse.params.base import load_section
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import AlarmParams
from histofuse.params.simulation import LinkedSimulationParams
from histofuse.patients.link import read_simulated, write_linked
from histofuse.patients.train import load_cohort, train_patients
from histofuse.promotion import scoring
from histofuse.promotion.scoring import TestData, score_test_split
from histofuse.training.image import apply_network
from histofuse.training.recorder import Recorder

PROJECT_PARAMS = Path(__file__).parents[3] / "params.yaml"
SIMULATED = Path("data/simulated/linked")

MODELS = [
    "simple_cnn", "logistic_regression", "mlp", "fusion_label_blind", "fusion_label_aligned",
]  # fmt: skip


def collect_encoders(folder):
    """Put the encoders of a fusion model where a registered version has them."""
    shutil.copytree("models/simple_cnn", folder / "image")
    shutil.copytree("models/mlp", folder / "patient")
    return folder


def score(name, tmp_path):
    fusion = name.startswith("fusion")
    encoders = collect_encoders(tmp_path / "encoders") if fusion else None
    return score_test_split(open_bundle(Path("models") / name), encoders)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_served_is_what_the_pipeline_predicted(small_project, tmp_path, name, monkeypatch):
    monkeypatch.setattr(scoring, "ROWS_AT_ONCE", 50)  # several parts, the last one short
    scored = score(name, tmp_path)
    stored = load_predictions(Path("models") / name).of("test")

    assert set(scored.split) == {"test"}
    place = {key: row for row, key in enumerate(stored.keys)}
    stored = stored.take(np.array([place[key] for key in scored.keys]))
    assert len(scored) == len(stored) == (120 if name in {"logistic_regression", "mlp"} else 96)
    np.testing.assert_allclose(scored.probabilities, stored.probabilities, rtol=0, atol=1e-6)
    for what in ("labels", "predictions", "groups", "subjects"):
        np.testing.assert_array_equal(getattr(scored, what), getattr(stored, what))


def test_rows_come_by_key_whatever_the_order_of_the_tables(small_project, tmp_path):
    before = score("fusion_label_blind", tmp_path)
    for path in ("data/splits/patches", "data/pairs/label_blind", "data/ehr/features"):
        file = Path(f"{path}.parquet")
        pd.read_parquet(file).sample(frac=1, random_state=0).to_parquet(file)
    shutil.rmtree(tmp_path / "encoders")
    after = score("fusion_label_blind", tmp_path)
    assert after.keys.tolist() == before.keys.tolist() == sorted(before.keys)
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-6)


def test_test_split_of_today_is_scored_not_that_of_training(small_project):
    path = Path("data/splits/patches.parquet")
    splits = read_table(path, PATCH_SPLITS)
    splits["split"] = splits["split"].replace({"test": "train", "validation": "test"})
    write_table(splits, path, PATCH_SPLITS)
    scored = score_test_split(open_bundle(Path("models/simple_cnn")))
    assert set(scored.groups) == set(splits.loc[splits["split"] == "test", "case_id"])


def test_scores_are_far_from_chance_and_from_perfect(small_project, tmp_path):
    """Without this, the fixture's models could not tell one version from another."""
    for name in MODELS:
        shutil.rmtree(tmp_path / "encoders", ignore_errors=True)
        rows = score(name, tmp_path)
        metrics = measure_rows(rows, "test")
        assert 0.7 < metrics["test/auroc/macro"] < 0.98


def test_model_of_other_classes_is_refused(small_project):
    path = Path("data/splits/patches.parquet")
    splits = read_table(path, PATCH_SPLITS)
    splits["label"] = splits["label"].replace({"tumour": "tubule"})
    write_table(splits, path, PATCH_SPLITS)
    with pytest.raises(InputError, match=r"simple_cnn: predicts .* contain \['tubule'\]"):
        score_test_split(open_bundle(Path("models/simple_cnn")))


def test_model_of_another_target_is_refused(small_project):
    write_json({"target": "readmission_30d"}, Path("data/cohort/meta.json"))
    with pytest.raises(InputError, match="predicts mortality_1y, and the cohort's target is readm"):
        score_test_split(open_bundle(Path("models/mlp")))


def test_features_a_model_needs_and_nobody_has_any_more_are_named(small_project):
    path = Path("data/ehr/features.parquet")
    write_table(read_table(path, FEATURES).drop(columns="albumin"), path, FEATURES)
    with pytest.raises(InputError, match="albumin"):
        score_test_split(open_bundle(Path("models/mlp")))


def test_patches_that_are_not_there_are_counted(small_project):
    path = Path("data/patches/index.parquet")
    index = pd.read_parquet(path)
    index[index["case_id"] != "Case_4"].to_parquet(path)
    with pytest.raises(InputError, match="16 test patches not in the index"):
        score_test_split(open_bundle(Path("models/simple_cnn")))


def test_pairs_whose_patient_has_no_features_are_counted(small_project, tmp_path):
    path = Path("data/ehr/features.parquet")
    features = read_table(path, FEATURES)
    paired = TestData().read_pairs("label_blind")["subject_id"].unique()
    write_table(features[features["subject_id"] != paired[0]], path, FEATURES)
    with pytest.raises(InputError, match=f"1 of {len(paired)} paired admissions have no features"):
        score("fusion_label_blind", tmp_path)


@pytest.fixture
def linked(small_project):
    """Train a model at patient level on simulated patients, whose nuclei the small CNN reads."""
    encoder = open_bundle(Path("models/simple_cnn"))
    spec = load_image_model(encoder).spec
    meta = PatchMeta(
        spec.patch_px, spec.margin_px, spec.patch_px + 2 * spec.margin_px,
        list(CLASSES), "simulated", "none", spec.patch_um,
    )  # fmt: skip
    drawn = load_section(LinkedSimulationParams, "simulation.linked", PROJECT_PARAMS)
    drawn = drawn.model_copy(update={"patients": 50, "nuclei_per_patient": 3, "validation": 0.3})
    simulate_linked(drawn, Cutting(meta, 64), 1, SIMULATED)
    outputs = apply_network(load_image_model(encoder), SIMULATED, load_index(SIMULATED))
    embeddings = SIMULATED.with_name("linked_embeddings")
    embeddings.mkdir()
    np.save(embeddings / "image.npy", outputs.embeddings)
    np.save(embeddings / "logits.npy", outputs.logits)
    facts = {"name": "simple_cnn", "digest": encoder.digest, "registered": "histofuse-simple-cnn"}
    write_json({"source": "simulated", "encoder": facts}, embeddings / "meta.json")
    write_linked(read_simulated(SIMULATED, embeddings), Path("data/linked"))
    cohort = load_cohort(Path("data/linked"))
    path = Path("models/patients/patient_gated")
    train_patients(cohort, make_params("gated", epochs=2), ENCODING, 1, Recorder(), path)
    return path


@pytest.mark.parametrize("view", ["both", "image", "record"])
def test_patients_are_scored_as_they_were_in_training(linked, tmp_path, view, monkeypatch):
    monkeypatch.setattr(scoring, "BAGS_AT_ONCE", 4)
    bundle = open_bundle(linked)
    stored = read_view(bundle, view).of("test")

    scored = score_test_split(bundle, collect_encoders(tmp_path / "encoders"), view=view)

    assert scored.keys.tolist() == sorted(stored.keys)
    stored = stored.take(np.argsort(stored.keys))
    np.testing.assert_allclose(scored.probabilities, stored.probabilities, rtol=0, atol=1e-6)
    for what in ("labels", "predictions", "groups", "subjects"):
        np.testing.assert_array_equal(getattr(scored, what), getattr(stored, what))


def test_nuclei_of_patients_that_are_not_in_the_index_are_refused(linked):
    _, nuclei = TestData().read_patients()
    index = load_index(SIMULATED)
    kept = index[index["patch_id"] != nuclei["patch_id"].iloc[0]]
    write_table(kept, SIMULATED / INDEX, PATCH_INDEX)
    with pytest.raises(InputError, match="1 test patch not in the index"):
        TestData().read_patients()


def test_patients_with_another_outcome_are_refused(linked):
    path = Path("data/linked/meta.json")
    write_json(load_json(path) | {"target": "relapse"}, path)
    with pytest.raises(InputError, match="predicts outcome, and the cohort's target is relapse"):
        score_test_split(open_bundle(linked))


def test_alarms_of_a_patient_model_know_its_patients(linked):
    rules = AlarmRules(
        alarms=load_section(AlarmParams, "alarms", PROJECT_PARAMS),
        encoding=ENCODING,
        bootstrap=Bootstrap(load_section(IntervalParams, "intervals", PROJECT_PARAMS), 1),
        alarm_at=1.1,
        alarm_metrics=["auroc/macro"],
        split_units=["case"],
    )

    def find():
        _, checks = find_alarms([read_model(linked)], AlarmData(Path("data")), rules)
        return {c.name: c for c in checks if c.model == "patient_gated"}

    made = find()
    assert {made[n].outcome for n in ("shared_rows", "training_rows", "encoder")} == {"passed"}

    path = Path("data/linked/patients.parquet")
    table = pd.read_parquet(path)
    table["split"] = table["split"].replace({"test": "train", "train": "test"})
    table.to_parquet(path)
    made = find()
    assert made["training_rows"].outcome == made["encoder"].outcome == "alarm"
