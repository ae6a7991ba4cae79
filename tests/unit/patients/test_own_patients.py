"""Models at patient level on patients of a crosswalk: link, train, evaluate, score as served."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.evaluation.predictions import read_view
from histofuse.promotion.scoring import TestData, score_test_split

ROOT = Path(__file__).parents[3]
METHODS = ("image", "record", "early_logistic", "gated")
DECLARED = {"patient_id": "PT-{}", "visit_id": "V-{}"}


def run(stage, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "pipelines")
    monkeypatch.setattr(sys, "argv", [f"{stage}.py"])
    runpy.run_path(str(ROOT / "pipelines" / f"{stage}.py"))["main"]()


def set_params():
    yaml, path = YAML(typ="safe"), Path("params.yaml")
    params = yaml.load(path)
    methods = {name: params["patients"][name] for name in METHODS}
    methods["gated"] |= {"epochs": 2}
    params |= {"patient_cohort": "crosswalk", "patients": methods, "encoders": ENCODERS}
    params["encoding"] |= {"fewest_patients": 3}
    params["intervals"] |= {"resamples": 100}
    params["positive_control"] |= {"shuffles": 1}
    yaml.dump(params, path)
    shutil.copytree(ROOT / "studies/none", "studies/none")


ENCODERS = {"image": "simple_cnn", "patient": "mlp"}


def write_crosswalk(name):
    """Give each case a patient of its split, both outcomes in each; one patient has two cases."""
    cohort = pd.read_parquet("data/cohort/cohort.parquet")
    ids = {split: [] for split in ("train", "validation", "test")}
    splits = pd.read_parquet("data/splits/patients.parquet").merge(cohort)
    for split, known in ids.items():
        rows = splits[splits["split"] == split]
        halves = (rows.loc[rows["target"] == outcome, "subject_id"] for outcome in (0, 1))
        known += [subject for pair in zip(*halves, strict=False) for subject in pair]
    cases = pd.read_parquet("data/splits/patches.parquet").drop_duplicates("case_id")
    dealt = {split: iter([known[0], *known]) for split, known in ids.items()}
    links = [(case, name.format(next(dealt[s]))) for case, s in cases[["case_id", "split"]].values]
    links[-1] = ("Case_99", links[-1][1])  # not among the cases
    pd.DataFrame(links, columns=["case_id", "subject_id"]).to_csv("crosswalk.csv", index=False)
    return links


@pytest.fixture(params=["{}", "PT-{}"], ids=["mimiciv", "table"])
def links(request, published, monkeypatch):
    if request.param != "{}":
        path = Path("data/cohort/cohort.parquet")
        cohort = pd.read_parquet(path)
        named = {k: cohort["subject_id"].map(v.format).astype("str") for k, v in DECLARED.items()}
        cohort.assign(**named).to_parquet(path)
    set_params()
    return write_crosswalk(request.param)


def test_own_patients_from_crosswalk_to_served_answer(links, tmp_path, monkeypatch):
    for stage in ("link_patients", "train_patients", "evaluate_patients", "positive_control"):
        run(stage, monkeypatch)

    bundles = [open_bundle(Path("models/patients") / f"patient_{name}") for name in METHODS]
    assert {b.config["cohort"] for b in bundles} == {"crosswalk"}
    assert {b.config["focus_class"] for b in bundles} == {"mortality_1y"}
    bags = pd.read_parquet("data/linked/nuclei.parquet").groupby("patient_id").size()
    assert bags[links[0][1]] == 32  # of two cases
    assert len(bags) == 26

    gain = load_json(Path("reports/positive_control/positive_control.json"))
    assert gain["own"]["partners"].startswith("29 of 30 cases have a patient of the cohort, 26 of")
    assert gain["own"]["patients"] == {"train": 17, "validation": 5, "test": 4}
    assert gain["verdict"]["answer"] == "inconclusive"
    assert "achievable" not in gain["verdict"]["sentence"]
    assert {*gain["linked"]} >= {"model/image", "model/record", "model/both", "model/by_chance"}
    assert "null" not in gain

    encoders = tmp_path / "encoders"
    shutil.copytree("models/simple_cnn", encoders / "image")
    for view in ("both", "image", "record"):
        scored = score_test_split(bundles[2], encoders, TestData(), view)
        stored = read_view(bundles[2], view).of("test")
        stored = stored.take(np.argsort(stored.keys))
        assert scored.keys.tolist() == stored.keys.tolist()
        np.testing.assert_allclose(scored.probabilities, stored.probabilities, atol=1e-6)


def test_an_encoder_of_other_splits_is_refused(links, monkeypatch):
    splits = pd.read_parquet("data/splits/patches.parquet")
    splits.iloc[::-1].to_parquet("data/splits/patches.parquet")
    with pytest.raises(InputError, match="was trained on patches of other splits"):
        run("link_patients", monkeypatch)
    assert not Path("data/linked").exists()


def test_a_split_without_linked_patients_is_refused_before_anything_is_trained(links, monkeypatch):
    table = pd.read_csv("crosswalk.csv")
    splits = pd.read_parquet("data/splits/patches.parquet").set_index("case_id")["split"].to_dict()
    table[table["case_id"].map(splits) != "test"].to_csv("crosswalk.csv", index=False)
    before = Path("data/splits/patients.parquet").read_bytes()
    with pytest.raises(InputError, match="no test patients; expected both outcomes"):
        run("split_patients", monkeypatch)
    assert Path("data/splits/patients.parquet").read_bytes() == before


def test_an_empty_crosswalk_is_refused_before_anything_is_trained(links, monkeypatch):
    Path("crosswalk.csv").write_text("case_id,subject_id\n")
    with pytest.raises(InputError, match=r"is crosswalk, but crosswalk\.csv links no case"):
        run("split_patients", monkeypatch)
