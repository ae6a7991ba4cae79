import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import open_bundle, writing_bundle
from histofuse.core.errors import BundleError, InputError
from histofuse.evaluation.predictions import concatenate, load_predictions


def test_patches_and_admissions_come_in_one_form(models):
    image, tabular = (model.of("test") for model in models[:2])

    assert image.labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]
    assert image.predictions.tolist() == [1, 1, 0, 1, 1, 1, 1, 1, 2, 2]
    assert image.probabilities[0].tolist() == [0.1, 0.8, 0.1]
    assert tabular.labels.tolist() == [0, 0, 0, 1] * 2
    assert tabular.probabilities[1].tolist() == pytest.approx([0.1, 0.9])
    assert tabular.predictions.tolist() == [0, 1, 0, 1, 0, 0, 0, 1]


def test_sizes_are_described(models):
    assert models[0].splits == ["train", "validation", "test"]
    assert models[1].splits == ["train", "test"]
    assert models[0].of("test").describe_size() == "n = 10 patches of 2 cases"
    assert models[1].of("test").describe_size() == "n = 8 admissions of 8 patients"
    assert models[0].of("test").count_classes() == {"mitosis": 2, "tumour": 6, "non_tumour": 2}


def test_rows_have_unique_keys_and_are_taken_whole(models):
    image, tabular = models[:2]

    assert image.keys.tolist()[:2] == ["train/0000", "train/0001"]
    assert tabular.keys.tolist()[:2] == ["0/0", "1/1"]
    taken = models[2].take(np.array([4, 0]))
    assert taken.keys.tolist() == ["train/0004", "train/0000"]
    assert taken.groups.tolist() == ["Case_train_0", "Case_train_0"]
    assert taken.subjects.tolist() == [0, 0]
    assert len(taken.split) == len(taken.labels) == len(taken.probabilities) == 2


def test_logits_admissions_and_digest_are_of_the_bundle(tmp_path, models):
    table = pd.read_parquet(tmp_path / "mlp" / "predictions.parquet")
    config = {"name": "mlp", "kind": "tabular", "classes": ["no_death", "death"]}
    with writing_bundle(tmp_path / "mlp", "mlp") as folder:
        table.assign(logit=np.arange(40.0)).to_parquet(folder / "predictions.parquet")
        (folder / "history.csv").write_text("epoch\n1\n")
        write_json(config, folder / "config.json")
    found = load_predictions(tmp_path / "mlp")

    assert models[1].logits is None
    assert found.logits[3].tolist() == [0.0, 3.0]
    assert found.of("test").logits[4].tolist() == [0.0, 20.0]
    assert found.admissions[3] == found.keys[3] == "3/3"
    assert found.digest == open_bundle(tmp_path / "mlp").digest != models[1].digest
    assert models[0].admissions is None
    assert models[2].admissions[:6].tolist() == ["0/0"] * 5 + ["1/1"]


def test_parts_are_concatenated_in_order(models):
    image = models[2]
    whole = concatenate([image.of("test"), image.of("train")])

    assert whole.keys.tolist() == [*image.keys[20:], *image.keys[:10]]
    assert whole.subjects.tolist() == [*image.subjects[20:], *image.subjects[:10]]
    assert whole.logits is None
    assert whole.name == image.name


def rewrite(path, table):
    with writing_bundle(path, path.name) as folder:
        table.to_parquet(folder / "predictions.parquet")
        (folder / "history.csv").write_text("epoch\n1\n")
        write_json({"kind": "image", "classes": ["a", "b"]}, folder / "config.json")
    return path


def test_missing_columns_and_unknown_classes_are_all_named(tmp_path):
    table = pd.DataFrame(
        {"patch_id": ["p"], "case_id": ["c"], "split": ["test"], "label": ["z"], "prediction": "y"}
    )
    with pytest.raises(InputError, match="no column 'probability_b'"):
        load_predictions(rewrite(tmp_path / "m", table.assign(probability_a=0.5)))
    whole = table.assign(probability_a=0.5, probability_b=0.5)
    with pytest.raises(InputError) as error:
        load_predictions(rewrite(tmp_path / "m", whole))
    assert len(error.value.faults) == 2


def test_altered_bundle_is_refused(tmp_path, models):
    (tmp_path / "resnet18" / "history.csv").write_text("epoch\n1\n")
    with pytest.raises(BundleError, match=r"history\.csv has sha256"):
        load_predictions(tmp_path / "resnet18")
