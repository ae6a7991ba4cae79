import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.core.tables import read_table, write_table
from histofuse.data.splits import PATCH_SPLITS
from histofuse.evaluation.metrics.classification import classification_metrics
from histofuse.evaluation.predictions import load_predictions
from histofuse.features.specs import FEATURES
from histofuse.promotion import scoring
from histofuse.promotion.scoring import TestData, score_test_split

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
        metrics = classification_metrics(
            rows.labels, rows.probabilities, rows.predictions, rows.classes, "test"
        )
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
    with pytest.raises(InputError, match="16 test patches are not in the index"):
        score_test_split(open_bundle(Path("models/simple_cnn")))


def test_pairs_whose_patient_has_no_features_are_counted(small_project, tmp_path):
    path = Path("data/ehr/features.parquet")
    features = read_table(path, FEATURES)
    paired = TestData().read_pairs("label_blind")["subject_id"].unique()
    write_table(features[features["subject_id"] != paired[0]], path, FEATURES)
    with pytest.raises(InputError, match=f"1 of {len(paired)} paired admissions have no features"):
        score("fusion_label_blind", tmp_path)
