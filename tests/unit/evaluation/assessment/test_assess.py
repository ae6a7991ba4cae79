import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from histofuse.core.artifacts import to_json, write_json
from histofuse.core.bundle import writing_bundle
from histofuse.core.errors import InputError
from histofuse.evaluation.assessment.assess import (
    assess_model,
    describe_assessments,
    require_logits,
)
from histofuse.evaluation.assessment.figures import draw_assessment
from histofuse.evaluation.assessment.tables import make_assessment_tables
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.results import evaluate_model
from histofuse.evaluation.performance.tables import render_csv, render_markdown
from histofuse.evaluation.predictions import load_predictions
from histofuse.params.evaluation import AssessmentParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.calibrate import Choice
from histofuse.training.decision import fit_decision, load_decision

CLASSES = ["mitosis", "tumour", "non_tumour"]
INTERVALS = IntervalParams(resamples=100, confidence=0.9, method="bca", fewest_groups=10)
BOOTSTRAP = Bootstrap(INTERVALS, seed=1)
PARAMS = AssessmentParams.model_validate(
    {
        "thresholds": {"low": 0.1, "high": 0.6, "step": 0.1},
        "specificities": [0.9],
        "sensitivities": [0.9],
        "coverage": 0.8,
        "conformal_score": "lac_by_class",
        "age_bands_years": [50, 65],
        "fewest_in_subgroup": 5,
    }
)
N = 240


def draw_splits():
    return np.repeat(["train", "validation", "test"], N // 3)


def write(path, table, config, decision):
    calibrator, thresholds = decision
    with writing_bundle(path, path.name) as folder:
        table.to_parquet(folder / "predictions.parquet")
        (folder / "history.csv").write_text("epoch\n1\n")
        write_json({"name": path.name, **config}, folder / "config.json")
        write_json(calibrator.to_dict(), folder / "calibrator.json")
        write_json(thresholds.to_dict(), folder / "threshold.json")
    return path


def write_patches(folder, name, kind):
    rng = np.random.default_rng(0)
    logits, split = rng.normal(size=(N, 3)) * 2, draw_splits()
    labels = np.array([rng.choice(3, p=p) for p in softmax(logits / 2, axis=1)])
    here = split == "validation"
    cases = np.array([f"{s}{i % 12}" for i, s in enumerate(split)])
    decision = fit_decision(logits[here], labels[here], cases[here], "temperature_bias", "max_f1")
    p = decision[0].probabilities(logits)
    named = np.array(CLASSES, dtype=object)
    table = pd.DataFrame(
        {
            "patch_id": [f"p{i}" for i in range(N)],
            "case_id": cases,
            "split": split,
            "label": named[labels],
            "prediction": named[decision[1].decide(p)],
            **{f"logit_{c}": logits[:, k] for k, c in enumerate(CLASSES)},
            **{f"probability_{c}": p[:, k] for k, c in enumerate(CLASSES)},
        }
    )
    config = {"kind": kind, "classes": CLASSES, "focus_class": "mitosis"}
    if kind == "fusion":
        table["subject_id"] = table["hadm_id"] = np.arange(N)
        config["encoders"] = {"image": {"name": "resnet18"}, "patient": {"name": "mlp"}}
    return write(folder / name, table, config, decision)


def write_admissions(folder):
    rng = np.random.default_rng(1)
    logit, split = rng.normal(size=N) * 2, draw_splits()
    target = (rng.random(N) < 1 / (1 + np.exp(-logit / 2))).astype(int)
    columns, here = np.column_stack([np.zeros(N), logit]), split == "validation"
    decision = fit_decision(columns[here], target[here], np.arange(N)[here], "isotonic", "youden_j")
    p = decision[0].probabilities(columns)
    table = pd.DataFrame(
        {
            "subject_id": np.arange(N),
            "hadm_id": np.arange(N),
            "split": split,
            "target": target,
            "logit": logit,
            "probability": p[:, 1],
            "prediction": decision[1].decide(p),
        }
    )
    return write(
        folder / "mlp",
        table,
        {"kind": "tabular", "classes": ["no", "death"], "focus_class": "death"},
        decision,
    )


@pytest.fixture
def paths(tmp_path):
    return [
        write_patches(tmp_path, "resnet18", "image"),
        write_admissions(tmp_path),
        write_patches(tmp_path, "fusion_label_blind", "fusion"),
    ]


@pytest.fixture
def assess(paths, context):
    features = pd.DataFrame(
        {
            "subject_id": np.arange(N),
            "hadm_id": np.arange(N),
            "age_years": np.linspace(30, 90, N).round(),
            "sex": np.where(np.arange(N) % 40 == 0, "M", "F"),
            "race_group": np.resize(["white", "black"], N),
            "insurance": "other",
        }
    )

    def run(**changes):
        known = context(**changes)
        found = []
        for path in paths:
            result = evaluate_model(load_predictions(path), known)
            calibrator = load_decision(path).calibrator
            found.append(
                assess_model(result, calibrator, features, known, PARAMS, bootstrap=BOOTSTRAP)
            )
        return found, known

    return run


def test_json_holds_every_part_of_every_model_and_no_row(assess):
    found, known = assess()
    text = to_json(describe_assessments(found, known, PARAMS, INTERVALS))
    again = describe_assessments(assess()[0], known, PARAMS, INTERVALS)
    assert text == to_json(again)

    models = json.loads(text)["models"]
    assert list(models) == ["fusion_label_blind", "mlp", "resnet18"]
    image, health = models["resnet18"], models["mlp"]
    assert (image["focus"], health["focus"]) == ("mitosis", "death")
    assert image["subgroups"] is None
    assert "knows no patients" in image["subgroups_note"]
    assert "other people" in models["fusion_label_blind"]["subgroups_note"]
    assert "other people" not in health["subgroups_note"]
    assert set(image["conformal"]["quantile"]) == set(CLASSES)
    by_class = image["conformal"]["methods"]["lac_by_class"]["rule"]["quantiles"]
    assert [image["conformal"]["quantile"][c] for c in CLASSES] == by_class
    assert set(health["conformal"]["methods"]) == {"lac", "lac_by_class"}
    assert set(image["calibration"]["quality"]) == {*CLASSES, "all"}
    assert '"79/79"' not in text


def test_json_says_which_calibrator_auto_took(assess):
    found, known = assess()
    choice = Choice("platt", {"platt": 0.4}, 0.1, 5, 12)
    chosen = [replace(a, calibrator=replace(a.calibrator, choice=choice)) for a in found]
    described = describe_assessments(chosen, known, PARAMS, INTERVALS)["models"]["mlp"]
    assert described["calibration"]["choice"] == vars(choice)


def test_logits_stand_for_what_was_before_calibration(assess, paths):
    image = assess()[0][0]
    rows = image.result.model.of("test")
    table = pd.read_parquet(paths[0] / "predictions.parquet")
    logits = table.loc[table["split"] == "test", [f"logit_{c}" for c in CLASSES]].to_numpy()
    before = softmax(logits, axis=1)
    squared = (before[:, 0] - (rows.labels == 0)) ** 2
    assert image.quality["mitosis"].before["brier"].value == pytest.approx(squared.mean())
    scaling = image.calibrator.scaling
    assert np.ptp(scaling.biases) > 0.01
    cooled = softmax(np.log(before) / scaling.temperature + np.array(scaling.biases), axis=1)
    np.testing.assert_allclose(cooled, rows.probabilities)


@pytest.mark.parametrize(
    ("column", "message"), [("logit", "no logits"), ("probability", "differ by up to")]
)
def test_a_bundle_whose_probabilities_are_not_its_logits_is_refused(paths, column, message):
    table = pd.read_parquet(paths[1] / "predictions.parquet")
    changed = table.drop(columns="logit") if column == "logit" else table.assign(probability=0.5)
    texts = {f.name: f.read_text() for f in paths[1].glob("*.json") if f.name != "manifest.json"}
    with writing_bundle(paths[1], "mlp") as folder:
        changed.to_parquet(folder / "predictions.parquet")
        (folder / "history.csv").write_text("epoch\n1\n")
        for name, text in texts.items():
            (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        require_logits(load_predictions(paths[1]), load_decision(paths[1]).calibrator)


def test_tables_are_marked_and_explained(assess):
    found, known = assess()
    tables = {t.name: t for t in make_assessment_tables(found, known, PARAMS, INTERVALS)}
    assert list(tables) == ["calibration", "operating_points", "conformal", "subgroups"]
    for table in tables.values():
        assert "test split. Simulated data: no patients" in table.caption
        assert all(set(row) == set(table.headings) for row in table.rows)
        assert render_csv(table).count("\n") == len(table.rows) + 1
        assert "90% intervals" in render_markdown(table)
    assert "ECE, reliability and resolution are biased" in render_markdown(tables["calibration"])
    assert list(tables["calibration"].headings)[:4] == [
        "model",
        "class",
        "ece_before",
        "ece_after",
    ]
    methods = {row["method"] for row in tables["calibration"].rows}
    assert methods == {"temperature bias", "isotonic"}
    described = describe_assessments(found, known, PARAMS, INTERVALS)
    assert described["method_of"]["ece"] == "basic"
    calibration = tables["calibration"].rows[0]
    sum_of_parts = (
        calibration["reliability"].value
        - calibration["resolution"].value
        + calibration["uncertainty"].value
        + calibration["within_bins"]
    )
    assert calibration["brier_after"].value == pytest.approx(sum_of_parts)
    text = render_markdown(tables["subgroups"])
    assert "too few: fewer than 5 patients" in text
    assert "patients are paired with patches of other people" in text


def test_restricted_records_show_no_small_cell(assess):
    found, known = assess(patient_source="restricted")
    described = describe_assessments(found, known, PARAMS, INTERVALS)["models"]["mlp"]
    for attribute in described["subgroups"].values():
        for subgroup in attribute["subgroups"]:
            assert subgroup["rows"] is None or subgroup["patients"] >= 10
    sex = described["subgroups"]["sex"]["subgroups"]
    assert [s["rows"] for s in sex] == [None, None]
    bins = described["calibration"]["reliability"]["after"]["death"]
    assert all(b["groups"] >= 10 for b in bins)


def test_figures_are_the_same_bytes_each_time(assess, tmp_path):
    image, _, fusion = assess()[0]
    for folder in ("a", "b"):
        draw_assessment(fusion, "test", 0.9, tmp_path / folder)
    names = sorted(f.name for f in (tmp_path / "a").iterdir())
    assert names == ["decision_curve.png", "reliability.png", "subgroups.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    draw_assessment(image, "test", 0.9, tmp_path / "c")
    assert sorted(f.name for f in (tmp_path / "c").iterdir()) == names[:2]

    for attribute in fusion.subgroups.values():
        for subgroup in attribute.subgroups:
            subgroup.intervals.clear()
    draw_assessment(fusion, "test", 0.9, tmp_path / "d")
    assert sorted(f.name for f in (tmp_path / "d").iterdir()) == names[:2]
