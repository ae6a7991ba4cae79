import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofuse.core.artifacts import digest_folder
from histofuse.core.bundle import open_bundle
from histofuse.training.protocols import paper
from histofuse.training.protocols.paper import split_as_paper, train_as_paper


def make_index(patches=200):
    number = np.arange(patches)
    labels = np.where(number % 10 == 0, "mitosis", "tumour")
    return pd.DataFrame(
        {
            "patch_id": [f"Case_{n % 4}-01/{n:04d}" for n in number],
            "frame_id": [f"Case_{n % 4}-01" for n in number],
            "case_id": [f"Case_{n % 4}" for n in number],
            "label": pd.array(labels, dtype="str"),
        }
    )


def test_one_patch_in_five_is_set_apart_whatever_its_case():
    splits = split_as_paper(make_index(), 5, seed=1)

    assert splits["split"].value_counts().to_dict() == {"train": 160, "validation": 40}
    assert (splits.groupby("case_id")["split"].nunique() == 2).all()
    mitoses = splits[splits["label"] == "mitosis"]["split"].value_counts()
    assert mitoses["validation"] == 4
    assert splits["patch_id"].tolist() == make_index()["patch_id"].tolist()


def test_the_same_model_is_trained_under_the_other_split(small_project, monkeypatch):
    honest = open_bundle(Path("models/simple_cnn"))
    checkpoints = sorted(Path(".histofuse").rglob("*"))
    arguments = honest.config, Path("data/patches"), 5

    path = train_as_paper(*arguments, Path("work"))
    again = train_as_paper(*arguments, Path("again"))

    config = json.loads((path / "config.json").read_text())
    assert config["params"] == honest.config["params"]
    assert config["seed"] == honest.config["seed"]
    splits = pd.read_parquet(path / "predictions.parquet")
    assert set(splits["split"]) == {"train", "validation"}
    assert digest_folder(path) == digest_folder(again)
    assert sorted(Path(".histofuse").rglob("*")) == checkpoints
    monkeypatch.setattr(paper, "train_image", None)
    assert train_as_paper(*arguments, Path("work")) == path


def test_another_fold_count_is_another_model(small_project, monkeypatch):
    trained = []
    monkeypatch.setattr(paper, "train_image", lambda *a: trained.append(a[-1]))
    honest = open_bundle(Path("models/simple_cnn"))
    for folds in (4, 5):
        train_as_paper(honest.config, Path("data/patches"), folds, Path("work"))
    assert len(set(trained)) == 2
    assert (
        pytest.approx(0.25)
        == (pd.read_parquet(trained[0].parent / "patches.parquet")["split"] == "validation").mean()
    )
