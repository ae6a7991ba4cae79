"""Each kind of leak, planted into a small project, raises its alarm and stops a promotion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.tables import read_table, write_table
from histofuse.data.cohort import COHORT
from histofuse.data.leakage import audit_patches
from histofuse.data.patches import PATCH_INDEX
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.evaluation.alarms.checks import (
    AlarmRules,
    describe_alarms,
    digest_data,
    read_alarms,
    select_checks,
)
from histofuse.evaluation.alarms.data import score_features
from histofuse.evaluation.alarms.models import (
    check_calibrator,
    check_scaler,
    check_thresholds,
    check_validation_test_gap,
    read_model,
)
from histofuse.evaluation.alarms.search import AlarmData, find_alarms
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.features.encoding import ENCODED, encode_table, fit_encoder, join_splits
from histofuse.features.specs import FEATURES, load_specs, to_json_list
from histofuse.params.base import load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import AlarmParams, PromotionParams
from histofuse.params.splits import ImageSplitParams
from histofuse.promotion.gate import FILES, Evidence, Scored, decide
from histofuse.training.calibrate import fit_calibrator
from histofuse.training.thresholds import fit_thresholds

DATA = Path("data")
ALL = ("train", "validation", "test")


def load_rules():
    intervals = load_section(IntervalParams, "intervals")
    promotion = load_section(PromotionParams, "promotion")
    return AlarmRules(
        alarms=load_section(AlarmParams, "alarms"),
        alarm_at=promotion.alarm_at,
        alarm_metrics=promotion.alarm_metrics,
        split_units=promotion.split_units,
        encoding=load_section(EncodingParams, "encoding"),
        bootstrap=Bootstrap(intervals.model_copy(update={"resamples": 200}), load_seed()),
    )


def read(name):
    return read_model(Path("models") / name, Path("models/mlp"))


def look(facts):
    """Find the alarms that concern one model, by name, and all checks of it."""
    _, checks = find_alarms([facts], AlarmData(DATA), load_rules())
    mine = select_checks(checks, facts.name, facts.kind)
    return {c.name: c for c in mine if c.outcome != "passed"}, mine


def ask_gate(facts, checks):
    """Name what refuses the promotion of a model for which these checks were made."""
    digest = open_bundle(Path("models") / facts.name).digest
    scored = Scored(1, digest, facts.config, "", facts.rows.of("test"), "", facts.rows)
    evidence = Evidence(
        candidate=scored,
        production=None,
        files=frozenset(FILES[facts.kind]),
        signature=True,
        card=True,
        seed=1,
        alarms=checks,
    )
    return {
        check.name: check.detail
        for check in decide(evidence, load_section(PromotionParams, "promotion")).refusals
    }


def require_refused(facts, *names):
    found, checks = look(facts)
    refused = ask_gate(facts, checks)
    for name in names:
        assert found[name].outcome == "alarm"
        assert refused[f"alarm[{name}]"] == found[name].detail
    return found


def read_joined():
    return join_splits(
        read_table(DATA / "ehr/features.parquet", FEATURES),
        read_table(DATA / "splits/patients.parquet", PATIENT_SPLITS),
        read_table(DATA / "cohort/cohort.parquet", COHORT),
    )


def encode(splits=("train",)):
    """Encode the records anew, by an encoder that saw these splits."""
    joined, specs = read_joined(), load_specs(DATA / "ehr/features.json")
    rows = joined[joined["split"].isin(splits)]
    encoder = fit_encoder(rows, specs, load_section(EncodingParams, "encoding"))
    for name, impute in (("imputed", True), ("with_missing", False)):
        table = encode_table(encoder, joined, impute=impute)
        write_table(table, DATA / f"encoded/{name}.parquet", ENCODED)
    write_json(encoder.to_dict(), DATA / "encoded/encoder.json")


def test_honest_models_raise_no_alarm_and_every_check_is_made(small_project):
    for name in ("simple_cnn", "logistic_regression", "mlp", "fusion_label_blind"):
        found, checks = look(read(name))
        assert found == {}
        assert len(checks) >= 7
    names = {check.name for check in checks}
    assert {"shared[images]", "shared[patients]", "feature", "encoder", "encoded_table"} <= names
    assert {"shared_rows", "too_good", "calibrator", "threshold", "scaler", "pairing"} <= names


def test_pairs_that_follow_the_label_are_an_alarm(small_project):
    require_refused(read("fusion_label_aligned"), "pairing")


# --- splits -------------------------------------------------------------------------------------


def resplit(split):
    """Split the patches anew, audit them as the stage does, and train."""
    splits = read_table(DATA / "splits/patches.parquet", PATCH_SPLITS)
    splits["split"] = pd.array(split(splits), dtype="str")
    write_table(splits, DATA / "splits/patches.parquet", PATCH_SPLITS)
    frames = pd.DataFrame({"frame_id": splits["frame_id"].unique()})
    frames["pixels_sha256"] = frames["frame_id"]
    return splits, frames


def audit(splits, frames, unit):
    index = read_table(DATA / "patches/index.parquet", PATCH_INDEX)
    params = load_section(ImageSplitParams, "splits.images")
    params = params.model_copy(update={"unit": unit, "validation_unit": unit})
    found = audit_patches(splits, index, frames, 20, params)
    write_json(found, DATA / "splits/patches_audit.json")


def test_case_in_two_splits(small_project):
    def duplicate(splits):
        moved = (splits["case_id"] == "Case_4") & (splits.index % 2 == 0)
        assert set(splits.loc[moved, "split"]) == {"test"}
        return splits["split"].where(~moved, "train")

    audit(*resplit(duplicate), "case")
    small_project.train_image()
    found = require_refused(read("simple_cnn"), "shared[images]", "shared_rows")

    assert "train-test share 1 case" in found["shared[images]"].detail
    assert found["shared_rows"].detail == "1 of its cases are in more than one split"
    # The bundle's own rows show it if the audit is out of date.
    write_json({"unit": "case", "validation_unit": "case", "leaky": False}
               | {"shared": {}, "forbidden": {}}, DATA / "splits/patches_audit.json")  # fmt: skip
    assert list(look(read("simple_cnn"))[0]) == ["shared_rows", "training_rows"]


def test_split_by_patch(small_project):
    audit(*resplit(lambda s: np.array(ALL)[np.arange(len(s)) % 3]), "patch")
    small_project.train_image()
    found = require_refused(read("simple_cnn"), "split_unit", "shared_rows")

    assert "split by patch" in found["split_unit"].detail
    assert found["split_unit"].numbers["overlapping_patches"]["train-test"] > 0


def test_current_test_case_that_the_model_was_trained_on(small_project):
    splits = read_table(DATA / "splits/patches.parquet", PATCH_SPLITS)
    case = splits.loc[splits["split"] == "train", "case_id"].iloc[0]
    moved = splits["split"].mask(splits["case_id"] == case, "test")
    write_table(splits.assign(split=moved), DATA / "splits/patches.parquet", PATCH_SPLITS)

    found = require_refused(read("simple_cnn"), "training_rows")
    assert list(found) == ["training_rows"]
    assert found["training_rows"].numbers == {"seen": {"cases": 1}}
    (DATA / "splits/patches.parquet").unlink()
    assert look(read("simple_cnn"))[0]["training_rows"].outcome == "not_made"


def test_patient_in_two_splits(small_project):
    path = DATA / "splits/patients_audit.json"
    found = load_json(path)
    found["shared"]["train-test"]["patients"] = 4
    write_json(found, path)

    require_refused(read("logistic_regression"), "shared[patients]")
    require_refused(read("fusion_label_blind"), "shared[patients]")
    assert look(read("simple_cnn"))[0] == {}


# --- features -----------------------------------------------------------------------------------


def add_feature(values):
    path = DATA / "ehr/features.parquet"
    features = read_table(path, FEATURES)
    target = read_joined().set_index("hadm_id")["target"]
    told = features["hadm_id"].map(target).to_numpy()
    write_table(features.assign(told=values(told)), path, FEATURES)
    specs = load_specs(DATA / "ehr/features.json")
    kind = "categorical" if values(told).dtype == object else "continuous"
    new = replace(specs[0], name="told", variable="told", kind=kind, indicator=False)
    write_json(to_json_list([*specs, new]), DATA / "ehr/features.json")
    encode()


def miss_where_zero(target):
    noise = np.random.default_rng(0).normal(size=len(target))
    return np.where(target == 1, noise, np.nan)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (lambda t: t + np.random.default_rng(0).normal(0, 0.2, len(t)), "told (AUROC"),
        (lambda t: np.random.default_rng(0).normal(0, 0.2, len(t)) - t, "told (AUROC"),
        (miss_where_zero, "told (missing) (AUROC 1.000)"),
        (
            lambda t: np.array([f"unit {i % 4 + 4 * v}" for i, v in enumerate(t)], dtype=object),
            "told (categories) (AUROC 1.000)",
        ),
    ],
)
def test_feature_that_encodes_the_target(small_project, values, named):
    add_feature(values)
    small_project.train_tabular()
    found = require_refused(read("logistic_regression"), "feature")
    assert named in found["feature"].detail
    assert "albumin" not in found["feature"].detail


def test_scores_of_features_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    n, target = 400, rng.integers(0, 2, 400)
    values = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n) - target)
    split = np.resize(["train", "train", "test"], n)
    facts = {"subject_id": np.arange(n), "hadm_id": np.arange(n), "split": split, "target": target}
    joined = pd.DataFrame({**facts, "x": values, "rare": np.where(np.arange(n) < 9, 1.0, np.nan)})

    found = score_features(joined, joined, 10)

    rows = (split == "train") & ~np.isnan(values)
    assert found["x"] == pytest.approx(1 - roc_auc_score(target[rows], values[rows]))
    missing = roc_auc_score(target[split == "train"], np.isnan(values[split == "train"]))
    assert found["x (missing)"] == pytest.approx(max(missing, 1 - missing))
    assert "rare" not in found


# --- fits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [ALL, ("train", "test")])
def test_encoder_fitted_on_more_than_training_rows(small_project, splits):
    encode(splits)
    small_project.train_tabular()
    found = require_refused(read("logistic_regression"), "encoder")
    assert "are not those of the" in found["encoder"].detail
    both = [c for c in look(read("logistic_regression"))[1] if c.name == "encoder"]
    assert [c.model for c in both] == [None, "logistic_regression"]
    assert all(c.outcome == "alarm" for c in both)


def test_encoder_of_a_model_counts_where_the_tables_are_honest(small_project):
    encode(ALL)
    small_project.train_tabular()
    encode()
    _, checks = look(read("logistic_regression"))
    assert [(c.name, c.model) for c in checks if c.outcome == "alarm"] == [
        ("encoder", "logistic_regression")
    ]


def test_table_that_does_not_come_out_of_its_encoder(small_project):
    path = DATA / "encoded/with_missing.parquet"
    table = read_table(path, ENCODED)
    table["albumin"] *= 1.01
    write_table(table, path, ENCODED)
    found = require_refused(read("logistic_regression"), "encoded_table")
    assert "albumin" in found["encoded_table"].detail


@pytest.mark.parametrize("splits", [("test",), ALL])
@pytest.mark.parametrize("name", ["simple_cnn", "logistic_regression", "fusion_label_blind"])
def test_calibrator_and_threshold_fitted_on_what_they_must_not_see(small_project, name, splits):
    facts = read(name)
    assert check_calibrator(facts, 1e-4).outcome == "passed"
    mask = np.isin(facts.rows.split, splits)
    logits, labels = facts.rows.logits[mask], facts.rows.labels[mask]
    planted = fit_calibrator(logits, labels, facts.rows.groups[mask], facts.calibrator.method)
    found = check_calibrator(replace(facts, calibrator=planted), 1e-4)
    assert found.outcome == "alarm"

    probabilities = facts.calibrator.probabilities(logits)
    planted = fit_thresholds(probabilities, labels, facts.thresholds.rule)
    found = check_thresholds(replace(facts, thresholds=planted), 1e-4)
    assert found.outcome == "alarm"


def test_calibrator_that_hides_what_it_was_fitted_on_is_found_by_its_values(small_project):
    facts = read("logistic_regression")
    rows = facts.rows.of("test")
    planted = fit_calibrator(rows.logits, rows.labels, rows.groups, "platt")
    planted = replace(planted, fitted_on=facts.calibrator.fitted_on)
    found = require_refused(replace(facts, calibrator=planted), "calibrator")
    assert "differs from a fit on validation rows" in found["calibrator"].detail
    assert "states" not in found["calibrator"].detail


def test_calibrator_that_says_another_number_of_rows(small_project):
    facts = read("logistic_regression")
    fitted_on = replace(facts.calibrator.fitted_on, per_class=(10, 10))
    lying = replace(facts, calibrator=replace(facts.calibrator, fitted_on=fitted_on))
    assert "states 20 rows" in check_calibrator(lying, 1e-4).detail


def test_scaler_fitted_on_every_pair(small_project):
    facts = read("fusion_label_blind")
    parts, _ = AlarmData(DATA).embed_pairs("label_blind")
    everything = np.concatenate([parts[s] for s in ALL])
    spread = everything.std(axis=0)
    planted = everything.mean(axis=0), np.where(spread > 1e-6, spread, 1.0)
    found = require_refused(replace(facts, scaler=planted), "scaler")
    assert "differs from the training pairs" in found["scaler"].detail


def test_what_a_held_out_head_fitted_is_looked_for_in_validation(small_project):
    small_project.train_fusion(head_rows="held_out")
    facts = read("fusion_label_blind")
    alarms, checks = look(facts)
    assert alarms == {}
    details = {c.name: c.detail for c in checks}
    assert all("validation" in details[n] for n in ("scaler", "calibrator", "threshold"))
    claimed = facts.config["params"] | {"head_rows": "in_sample"}
    lying = replace(facts, config=facts.config | {"params": claimed})
    require_refused(lying, "scaler")


def test_model_that_does_not_standardise_has_no_scaler_to_fit(small_project):
    facts = read("fusion_label_blind")
    plain = replace(facts, scaler=(np.zeros(3), np.ones(3)))
    assert check_scaler(plain, {}, standardised=False, tolerance=1e-4).outcome == "passed"
    shifted = replace(facts, scaler=(np.ones(3), np.ones(3)))
    assert check_scaler(shifted, {}, standardised=False, tolerance=1e-4).outcome == "alarm"


# --- scores -------------------------------------------------------------------------------------


def test_test_score_too_good_to_be_true(small_project):
    facts = read("simple_cnn")
    perfect = np.eye(3)[facts.rows.labels]
    rows = replace(facts.rows, probabilities=perfect, predictions=facts.rows.labels)
    found = require_refused(replace(facts, rows=rows), "too_good")
    assert "auroc/macro 1.000" in found["too_good"].detail


def test_large_gap_between_validation_and_test(small_project):
    rules, facts = load_rules(), read("simple_cnn")

    def look(probabilities, margin=0.1):
        rows = replace(facts.rows, probabilities=probabilities)
        gap = rules.alarms.validation_test_gap
        gap = gap.model_copy(update={"patches": {"auroc/macro": margin}})
        params = rules.alarms.model_copy(update={"validation_test_gap": gap})
        return next(check_validation_test_gap(rows, params, rules.bootstrap))

    rng = np.random.default_rng(0)
    noise = rng.dirichlet(np.ones(3), len(facts.rows.labels))
    good = 0.8 * np.eye(3)[facts.rows.labels] + 0.2 * noise
    of_test = (facts.rows.split == "test")[:, None]
    for probabilities, sign in ((np.where(of_test, good, noise), 1), (np.where(of_test, noise, good), -1)):  # fmt: skip # noqa: E501
        found = look(probabilities)
        assert found.outcome == "alarm"
        assert found.numbers["difference"] * sign > 0.1
    within = look(np.where(of_test, good, noise), margin=0.9)
    assert within.numbers["low"] > 0
    assert within.outcome == "passed"
    assert look(good).outcome == "passed"
    small = look(np.where(of_test, good, good * 0.9 + 0.1 * noise))
    assert small.outcome == "passed"


# --- the file -----------------------------------------------------------------------------------


def write_alarms(names):
    models = [read(name) for name in names]
    _, checks = find_alarms(models, AlarmData(DATA), load_rules())
    facts = {
        m.name: {"digest": open_bundle(Path("models") / m.name).digest, "kind": m.kind}
        for m in models
    }
    names = ["splits/patches_audit.json", "encoded/encoder.json"]
    path = Path("reports/alarms.json")
    write_json(describe_alarms(checks, facts, digest_data(DATA, names)), path)
    return path, facts


def test_alarms_are_read_back_for_their_version_alone(small_project):
    encode(ALL)
    small_project.train_tabular()
    path, facts = write_alarms(["simple_cnn", "logistic_regression"])

    digest = facts["logistic_regression"]["digest"]
    checks = read_alarms(path, digest, DATA)
    refused = ask_gate(read("logistic_regression"), checks)
    assert set(refused) == {"alarm[encoder]"}
    assert all(c.model in (None, "logistic_regression") for c in checks)
    assert not any("images" in c.name for c in checks)
    assert read_alarms(path, "f" * 64, DATA) is None
    assert read_alarms(Path("nowhere.json"), digest, DATA) is None
    encode()
    assert read_alarms(path, digest, DATA) is None


def test_file_says_how_many_and_names_no_case_and_no_patient(small_project):
    path, _ = write_alarms(["simple_cnn", "fusion_label_aligned"])
    found = load_json(path)
    assert found["summary"]["alarms"] == len(found["alarms"]) == 1
    assert found["summary"]["passed"] == len(found["checks"]) - 1
    text = path.read_text()
    rows = read("fusion_label_aligned").rows
    assert not [g for g in set(rows.groups) if g in text]


def test_what_cannot_be_looked_at_is_refused_not_passed(small_project):
    (DATA / "ehr/features.json").unlink()
    facts = replace(read("fusion_label_blind"), encoder=None)
    found, checks = look(facts)
    assert {c.outcome for c in found.values()} == {"not_made"}
    assert "alarm[encoder]" in ask_gate(facts, checks)

    facts = replace(read("simple_cnn"), rows=None)
    assert set(look(facts)[0]) == {
        "shared_rows",
        "training_rows",
        "too_good",
        "validation_test_gap",
        "calibrator",
        "threshold",
    }
