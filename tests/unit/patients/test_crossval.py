"""Models at patient level over folds: simulated patients, and those of a crosswalk."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_patients import ENCODING, draw_bags, make_params
from sklearn.metrics import roc_auc_score

from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError, LeakageError
from histofuse.core.tables import write_table
from histofuse.data.patches import load_index
from histofuse.data.splits import PATCH_SPLITS
from histofuse.evaluation.crossval.patients import compare_patients
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.models.backbones import load_image_model
from histofuse.params.base import load_section
from histofuse.params.crossval import CrossvalParams
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.intervals import IntervalParams
from histofuse.patients import crossval
from histofuse.patients.bags import describe_record
from histofuse.patients.crossval import complete_with_patients, is_complete, split_cohort
from histofuse.patients.link import LinkedPatients, write_linked
from histofuse.training.image import apply_network
from histofuse.training.protocols.crossval import Chain, Sources, find_fold

RUN, LINKED, FOLDS = Path("run"), Path("data/linked"), 3
SOURCES = Sources(*map(Path, ("data/patches", "frames", "cohort", "ehr", "links")), LINKED)
INTERVALS = IntervalParams(resamples=100, confidence=0.9, method="percentile", fewest_groups=10)


def make_chain(*methods):
    params = load_section(CrossvalParams, "crossval").model_copy(update={"folds": FOLDS})
    encoders = load_section(EncodersParams, "encoders").model_copy(update={"image": "simple_cnn"})
    patients = {name: make_params(name) for name in methods}
    fusion = load_section(FusionParams, "fusion")
    return Chain(params, {}, {}, {}, patients, ENCODING, encoders, fusion, 1)


def write_patients(kind, patients, nuclei, embeddings, logits):
    meta = {
        "cohort": kind,
        "target": "death",
        "source": "simulated",
        "encoder": {"name": "simple_cnn", "digest": "0" * 64},
    }
    specs = describe_record(patients.drop(columns=["patient_id", "split", "outcome"]))
    write_linked(LinkedPatients(patients, specs, nuclei, embeddings, logits, meta), LINKED)


@pytest.fixture
def simulated(small_project):
    """Folds whose cases were run, and simulated patients."""
    bags = draw_bags(120)
    ids = {"patient_id": bags.patient_ids, "split": bags.split, "outcome": bags.outcome}
    patients = pd.DataFrame(ids).astype({"patient_id": "str", "split": "str"}).join(bags.records)
    of = bags.patient_ids[bags.bag_of]
    nuclei = pd.DataFrame({"patient_id": of, "patch_id": [f"{n:05d}" for n in range(len(of))]})
    write_patients("simulated", patients, nuclei.astype("str"), bags.embeddings, bags.logits)
    SOURCES.crosswalk.write_text("case_id,subject_id\n")
    for fold in range(FOLDS):
        find_fold(RUN, fold).mkdir(parents=True)
    return bags


def test_each_simulated_patient_is_tested_once_with_intervals_over_patients(simulated):
    chain = make_chain("image", "record", "early_logistic")
    for fold in range(FOLDS):
        assert not is_complete(chain, fold, RUN)
        complete_with_patients(chain, SOURCES, fold, RUN)
        assert is_complete(chain, fold, RUN)

    folds = [find_fold(RUN, fold) for fold in range(FOLDS)]
    results = compare_patients(folds, Bootstrap(INTERVALS, 1))

    tables = [
        pd.read_parquet(fold / "patients/patient_early_logistic/predictions.parquet")
        for fold in folds
    ]
    tested = pd.concat([table[table["split"] == "test"] for table in tables])
    assert sorted(tested["patient_id"]) == sorted(simulated.patient_ids)
    assert results.summary["patients"] == len(simulated)
    assert list(results.summary["methods"]) == [
        f"patient_{name}" for name in ("image", "record", "early_logistic")
    ]
    fused = results.summary["methods"]["patient_early_logistic"]
    expected = roc_auc_score(tested["target"], tested["probability"])
    assert fused["views"]["both"]["value"] == pytest.approx(expected, abs=1e-6)
    assert fused["gain"]["low"] is not None
    assert "each tested once over 3 folds" in results.table.caption
    assert "Simulated data" in results.table.caption


def test_a_fold_that_has_its_patients_is_not_run_again(simulated, monkeypatch):
    chain = make_chain("image", "record")
    complete_with_patients(chain, SOURCES, 0, RUN)
    monkeypatch.setattr(crossval, "train_patients", None)

    complete_with_patients(chain, SOURCES, 0, RUN)


def test_without_methods_no_patients_are_read(small_project):
    find_fold(RUN, 0).mkdir(parents=True)

    complete_with_patients(make_chain(), SOURCES, 0, RUN)

    assert is_complete(make_chain(), 0, RUN)


def test_a_patient_tested_twice_stops_it(simulated):
    chain = make_chain("image", "record")
    complete_with_patients(chain, SOURCES, 0, RUN)
    fold = find_fold(RUN, 0)

    with pytest.raises(LeakageError, match="tested in more than one fold"):
        compare_patients([fold, fold], Bootstrap(INTERVALS, 1))


def test_patients_of_the_crosswalk_follow_their_cases_and_the_encoder_of_the_fold(small_project):
    small_project.train_image()
    index = load_index(Path("data/patches"))
    cases = sorted(index["case_id"].unique())
    outcome = np.arange(len(cases)) % 2
    main = np.resize(["train", "train", "validation", "validation", "test", "test"], len(cases))
    patients = pd.DataFrame({"patient_id": cases, "split": main, "outcome": outcome})
    patients = patients.astype({"patient_id": "str", "split": "str"}).assign(
        age=np.random.default_rng(0).normal(size=len(cases))
    )
    nuclei = index[["case_id", "patch_id"]].rename(columns={"case_id": "patient_id"})
    nuclei = nuclei.sort_values(["patient_id", "patch_id"], ignore_index=True)
    none = np.zeros((len(nuclei), 4), np.float32)
    write_patients("crosswalk", patients, nuclei, none, none[:, :3])
    fold, of_fold = find_fold(RUN, 0), np.roll(main, 2)
    shutil.copytree("models/simple_cnn", fold / "models/simple_cnn")
    splits = index.assign(
        split=index["case_id"].map(dict(zip(cases, of_fold, strict=True))).astype("str")
    )
    write_table(splits[list(PATCH_SPLITS.columns)], fold / "splits/patches.parquet", PATCH_SPLITS)

    cohort = split_cohort(make_chain("image", "record"), SOURCES, 0, fold)

    bundle = open_bundle(Path("models/simple_cnn"))
    rows = nuclei[["patch_id"]].merge(index, on="patch_id")
    own = apply_network(load_image_model(bundle), Path("data/patches"), rows)
    np.testing.assert_array_equal(cohort.bags.embeddings, own.embeddings)
    np.testing.assert_array_equal(cohort.bags.logits, own.logits)
    split_of = dict(zip(cohort.bags.patient_ids, cohort.bags.split, strict=True))
    assert split_of == dict(zip(cases, of_fold, strict=True))
    assert cohort.encoder["digest"] == bundle.digest


def test_patients_too_few_for_a_fold_are_refused(simulated):
    one = (np.arange(120) == 5).astype(np.int64)

    with pytest.raises(InputError, match="patient with target 1 left outside the test split"):
        crossval.deal_patients(replace(simulated, outcome=one), FOLDS, 0, 1)
