"""A model on another data set: what differs is named, nothing is refitted."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from declared_records import write_declared

from histofuse.commands.validation import validate as validation
from histofuse.commands.validation.validate import NEEDS, OUT, Request, validate
from histofuse.core.errors import InputError
from histofuse.params.promotion import VALIDATED
from histofuse.promotion.evidence import list_validations
from histofuse.tracking.store import open_store

TARGET = {
    "kind": "in_column",
    "name": "mortality_1y",
    "description": "death",
    "column": "dead",
    "positive": ["1"],
    "negative": ["0"],
}
WIDE = {"low": 0, "high": 100}
DECLARED = {
    "target": TARGET,
    "numeric": {
        "age_years": {"column": "age", "description": "Age", "unit": "years", **WIDE},
        "metastatic": {"column": "metastatic", "description": "Metastases", "unit": "", **WIDE},
        "albumin": {"column": "albumin", "description": "Albumin", "unit": "g/dL", **WIDE},
    },
    "ordinal": {},
    "categorical": {
        "insurance": {
            "column": "insurance",
            "description": "Insurance",
            "categories": ["Medicare", "Other"],
        }
    },
    "gives_away": {},
    "left_out": {},
    "access": "simulated",
}


def draw(seed, patients=300, more_deaths=0.0, grams_per_litre=False):
    """Draw as the small project's records were drawn."""
    rng = np.random.default_rng(seed)
    metastatic, age = rng.integers(0, 2, patients), rng.uniform(30, 90, patients)
    albumin = rng.normal(4 - metastatic, 0.5)
    log_odds = 3.0 * metastatic + 0.05 * (age - 60) - 2.2 + more_deaths
    dead = (rng.uniform(size=patients) < 1 / (1 + np.exp(-log_odds))).astype(int)
    albumin[rng.uniform(size=patients) < 0.2] = np.nan
    columns = {
        "patient": [f"X-{n}" for n in range(patients)],
        "age": age.round(1),
        "metastatic": metastatic,
        "albumin": albumin * (10 if grams_per_litre else 1),
        "insurance": rng.choice(["Medicare", "Other"], patients),
        "dead": dead,
    }
    return pd.DataFrame(columns).to_csv(index=False)


def ask(records=None, model="logistic_regression", name="elsewhere", **more):
    given = dict.fromkeys(("frames", "crosswalk", "recalibrate_on")) | more
    return "\n".join(validate(Request(model, records=records, name=name, **given)))


def read(model="logistic_regression", name="elsewhere"):
    return json.loads((OUT / name / model / "validation.json").read_text())


def test_the_same_population_raises_no_alarm(small_project):
    said = ask(write_declared(Path("other"), draw(5), **DECLARED))
    assert "300 admissions of 300 patients" in said
    assert "records: no difference from training was found" in said
    facts = read()
    assert facts["distance"]["records"]["alarms"] == []
    assert facts["distance"]["records"]["classifier_auroc"]["low"] < 0.5
    here = facts["scores"]["here"]
    assert here["auroc/mortality_1y"]["value"] > 0.7
    assert here["slope"]["low"] < 1 < here["slope"]["high"]
    assert {"at home", "here"} == set(facts["scores"])
    model = facts["assessment"]["models"]["logistic_regression"]
    assert model["decision_curve"]["thresholds"]
    assert model["operating_points"]
    assert model["conformal"]["methods"]
    assert set(model["subgroups"]) == {"age_band", "insurance"}  # race and sex are not recorded
    page = (OUT / "elsewhere/logistic_regression/index.html").read_text()
    assert "Inputs are like those of training" in page


def test_another_unit_and_prevalence_are_named_and_recalibration_is_said(small_project):
    table = draw(6, more_deaths=1.5, grams_per_litre=True)
    folder = write_declared(Path("other"), table, **DECLARED)
    Path("part.txt").write_text("".join(f"x-{n}\n" for n in range(100)))
    said = ask(folder, recalibrate_on=Path("part.txt"))
    assert "not used: " in said  # what the model takes as missing
    assert "records differ from training: albumin: " in said
    assert "as if in g/L" in said
    assert "outcome: mortality_1y" in said
    assert "all inputs at once (classifier)" in said
    facts = read()
    assert facts["recalibration"]["fitted_on"].endswith("of 100 patients, by platt")
    before, after = (
        abs(facts["scores"][where]["in_the_large"]["value"])
        for where in ("here, the rest", "here, the rest, recalibrated")
    )
    assert after < before
    page = (OUT / "elsewhere/logistic_regression/index.html").read_text()
    assert "Recalibrated on a part of this data set" in page


def make_frames(folder, cases=12):
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "groundTruth").mkdir()
    for case in range(cases):
        pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
        tifffile.imwrite(folder / "images" / f"Case_{case}-01.tif", pixels, photometric="rgb")
        points = {
            key: [{"x": x, "y": y} for x in (0.2, 0.5, 0.8)]
            for key, y in (("mitosis", 0.3), ("tumor", 0.6), ("non_tumor", 0.8))
        }
        (folder / "groundTruth" / f"Case_{case}-01.json").write_text(json.dumps(points))
    return folder


def test_frames_of_another_scanner_are_told_from_those_of_training(small_project):
    said = ask(model="models/simple_cnn", frames=make_frames(Path("frames")))
    assert "images differ from training: patch: sharpness" in said
    facts = read("simple_cnn")
    assert facts["size"] == "n = 108 patches of 12 cases"
    assert facts["distance"]["images"]["classifier_auroc"]["low"] > 0.9


def test_few_frames_are_not_called_like_those_of_training(small_project):
    said = ask(model="simple_cnn", frames=make_frames(Path("frames"), cases=1))
    assert "images: too few cases or patients for a difference from training to show" in said
    assert read("simple_cnn")["distance"]["images"]["few_units"]
    page = (OUT / "elsewhere/simple_cnn/index.html").read_text()
    assert "Inputs against training: inconclusive" in page
    assert "alike" not in page
    assert "The model was trained on simulated data" in page


def test_fusion_reads_each_case_with_its_own_patient_and_the_run_is_attached(published):
    links = "".join(f"Case_{n},X-{n}\n" for n in range(12))
    Path("links.csv").write_text(f"case_id,subject_id\n{links}")
    folder = write_declared(Path("other"), draw(5), **DECLARED)
    more = {"frames": make_frames(Path("frames")), "crosswalk": Path("links.csv")}
    said = ask(folder, "fusion_label_blind", **more)
    assert "records: no difference" in said
    assert "in MLflow" in said
    facts = read("fusion_label_blind")
    store = open_store()
    version = next(v for v in store.list_versions() if v.digest == facts["digest"])
    tags = store.read_status(version.name).version_tags[version.number]
    assert "validated.elsewhere" in tags
    assert list_validations(store, version.digest) == ("elsewhere",)
    assert list_validations(store, "0" * 64) == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"records": None}, "--records: nothing; expected a path"),
        ({"model": "simple_cnn"}, "--frames: nothing"),
        ({"model": "simple_cnn"}, "--records: given; expected nothing, for simple_cnn"),
        ({"crosswalk": Path("links.csv")}, "--crosswalk: given; expected nothing"),
        ({"name": "../x"}, "--name: is '../x'"),
        ({"recalibrate_on": Path("nobody.txt")}, "nobody.txt: no such file"),
        ({"recalibrate_on": Path("unknown.txt")}, "line 1: 'Y-1' is not in the data"),
    ],
)
def test_what_is_missing_is_named(small_project, changes, problem):
    Path("unknown.txt").write_text("Y-1\nX-1\n")
    folder = write_declared(Path("other"), draw(5, 60), **DECLARED)
    with pytest.raises(InputError, match=problem):
        ask(**({"records": folder} | changes))


@pytest.mark.parametrize("kind", ["patient", "detector"])
def test_a_model_that_is_not_measured_elsewhere_is_refused(small_project, monkeypatch, kind):
    bundle = SimpleNamespace(name="simple_cnn", config={"kind": kind})
    monkeypatch.setattr(validation, "find_bundle", lambda _: bundle)
    with pytest.raises(InputError, match=f"MODEL: simple_cnn is a {kind} model; expected one of"):
        ask(frames=Path("frames"))


def test_kinds_that_are_measured_are_those_that_the_gate_may_ask_it_of():
    assert tuple(NEEDS) == VALIDATED


def test_another_target_is_refused(small_project):
    changes = DECLARED | {"target": TARGET | {"name": "relapse"}}
    with pytest.raises(
        InputError, match="predicts mortality_1y, and the cohort's target is relapse"
    ):
        ask(write_declared(Path("other"), draw(5, 60), **changes))
