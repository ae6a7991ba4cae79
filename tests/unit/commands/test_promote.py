import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from histofuse.cli import app
from histofuse.core.tables import read_table, write_table
from histofuse.evaluation.predictions import load_predictions
from histofuse.features.specs import FEATURES
from histofuse.promotion import evidence
from histofuse.promotion.log import LOG, read_log
from histofuse.tracking.publish import publish_all
from histofuse.tracking.store import open_store

LOGISTIC = "histofuse-logistic-regression"
FUSION = "histofuse-fusion"
LEAKY = "histofuse-fusion-label-aligned"
COMMANDS = """
from histofuse.cli import app
codes = []
for words in (["promote", "logistic_regression"], ["registry"], ["rollback", "mlp"]):
    try:
        app(words)
    except SystemExit as end:
        codes.append(end.code)
print(codes)
"""


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def find(name, number=1):
    found = open_store().list_versions()
    return next(v for v in found if (v.name, v.number) == (name, number))


def stand(name):
    status = open_store().read_status(name)
    stages = {n: s for n, s in status.stages.items() if s != "None"}
    return status.production, stages


def list_refusals(result):
    rows = [line.split() for line in result.output.splitlines()]
    return {row[1] for row in rows if row[:1] == ["REFUSED"]}


def retrain(project, **changes):
    """Train and publish another version of the logistic regression."""
    project.train_tabular(**changes)
    publish_all()


def test_first_version_is_promoted_with_its_checks_shown(published):
    result = run("promote", "fusion")

    assert result.exit_code == 0, result.output
    assert stand(FUSION) == (1, {1: "Production"})
    lines = result.stdout.splitlines()
    assert f"{FUSION} {find(FUSION).digest[:12]} (version 1), nothing in production yet" in lines[0]
    assert len([line for line in lines if line.startswith("  passed")]) >= 6


def test_stage_and_alias_both_load_what_is_in_production(published):
    import mlflow.pyfunc

    retrain(published, c=1e-5)
    for number in (1, 2):
        reason = ("--force", "--reason", "whatever it scores")
        run("promote", LOGISTIC, "--version", number, *reason)
    mlflow.set_tracking_uri(open_store().uri)
    rows = read_table(Path("data/ehr/features.parquet"), FEATURES)
    answers = {
        at: mlflow.pyfunc.load_model(f"models:/{LOGISTIC}{at}").predict(rows)
        for at in ("/1", "/2", "/Production", "@production")
    }
    assert not answers["/1"].equals(answers["/2"])
    pd.testing.assert_frame_equal(answers["/Production"], answers["/2"])
    pd.testing.assert_frame_equal(answers["@production"], answers["/2"])
    run("rollback", LOGISTIC)
    again = mlflow.pyfunc.load_model(f"models:/{LOGISTIC}@production").predict(rows)
    pd.testing.assert_frame_equal(again, answers["/1"])


def test_record_holds_intervals_checks_and_digests(published):
    run("promote", "logistic_regression")
    version = find(LOGISTIC)
    (path,) = Path(f"mlruns/artifacts/{version.run_id}/artifacts/promotion").iterdir()
    record = json.loads(path.read_text())

    auroc = record["grounds"]["metrics"]["test/auroc/mortality_1y"]
    assert auroc["low"] < auroc["value"] < auroc["high"]
    assert {check["name"] for check in record["grounds"]["checks"]} >= {"bundle", "files"}
    assert set(record["grounds"]["digests"]) == {"patient_splits", "features"}
    assert record["entry"]["digest"] == version.digest
    tags = open_store().read_status(LOGISTIC).version_tags[1]
    assert tags["histofuse.promotion.gate"] == "passed"


def test_records_name_no_patient(published):
    """Gate, tags, audit record and log are read by more people than the data."""
    result = run("promote", FUSION)
    assert result.exit_code == 0, result.output
    version = find(FUSION)
    (path,) = Path(f"mlruns/artifacts/{version.run_id}/artifacts/promotion").iterdir()
    tags = json.dumps(dict(open_store().read_status(FUSION).version_tags[1]))
    shown = result.output + path.read_text() + tags + LOG.read_text()
    rows = load_predictions(Path("models/fusion_label_blind")).of("test")
    cases = [case for case in set(rows.groups) if case in shown]
    assert cases == []


# --- refusals -----------------------------------------------------------------------------------


def test_fusion_whose_pairs_follow_the_label_is_refused(published):
    result = run("promote", LEAKY)
    assert result.exit_code == 1
    assert "alarm[pairing]" in list_refusals(result)
    assert "label_aligned" in result.output
    assert stand(LEAKY) == (None, {})
    assert not LOG.exists()


def test_model_whose_images_were_split_by_patch_is_refused(published):
    path = Path("data/splits/patches_audit.json")
    audit = json.loads(path.read_text()) | {"unit": "patch", "leaky": True}
    path.write_text(json.dumps(audit))
    result = run("promote", "simple_cnn")
    assert result.exit_code == 1
    assert list_refusals(result) == {"alarm[split_unit]"}


@pytest.mark.parametrize("file", ["weights.safetensors", "threshold.json"])
def test_version_altered_in_the_registry_is_refused(published, file):
    bundle = Path(find(LOGISTIC).source) / "artifacts/bundle"
    (bundle / file).write_bytes(b"{}")
    result = run("promote", LOGISTIC)
    assert result.exit_code == 1
    assert "bundle" in list_refusals(result)
    assert f"{file} has sha256" in result.output
    assert "/tmp" not in result.output


def crash(*_):
    """What some files of models do to the library that reads them."""
    os.kill(os.getpid(), signal.SIGSEGV)


def test_version_whose_loading_crashes_the_process_is_refused(published, monkeypatch):
    monkeypatch.setattr(evidence, "_load_and_score", crash)
    result = run("promote", LOGISTIC)
    assert result.exit_code == 1
    assert "bundle" in list_refusals(result)
    assert "loading and scoring it crashed: the process was ended by SIGSEGV" in result.output
    assert stand(LOGISTIC) == (None, {})


def test_version_without_its_calibrator_is_refused(published):
    (Path(find(LOGISTIC).source) / "artifacts/bundle/calibrator.json").unlink()
    result = run("promote", LOGISTIC)
    assert result.exit_code == 1
    assert {"bundle", "files"} <= list_refusals(result)
    assert "lacks bundle/calibrator.json" in result.output


def test_version_whose_encoder_was_altered_is_refused(published):
    folder = Path(find(FUSION).source) / "artifacts/encoders/image"
    (folder / "config.json").write_text("{}")
    result = run("promote", FUSION)
    assert result.exit_code == 1
    assert "bundle" in list_refusals(result)
    assert "config.json has sha256" in result.output


def test_version_without_a_signature_is_refused(published):
    path = Path(find(LOGISTIC).source) / "MLmodel"
    path.write_text(path.read_text().partition("signature:")[0])
    result = run("promote", LOGISTIC)
    assert "files" in list_refusals(result)
    assert "lacks signature" in result.output


def test_version_without_a_model_card_is_refused(published):
    open_store().client.update_model_version(LOGISTIC, "1", "")
    result = run("promote", LOGISTIC)
    assert list_refusals(result) == {"files"}
    assert "lacks model card" in result.output


def test_version_worse_than_the_one_in_production_is_refused(published):
    assert run("promote", LOGISTIC).exit_code == 0
    retrain(published, shuffled=True)

    result = run("promote", LOGISTIC)

    assert result.exit_code == 1
    assert "not_worse[auroc/mortality_1y]" in list_refusals(result)
    assert "(version 1):" in result.output
    assert stand(LOGISTIC) == (1, {1: "Production"})


def test_version_as_good_as_the_one_in_production_is_promoted(published):
    run("promote", LOGISTIC)
    retrain(published, c=0.11)
    result = run("promote", LOGISTIC)
    assert result.exit_code == 0, result.output
    assert stand(LOGISTIC) == (2, {1: "Archived", 2: "Production"})
    assert "version 2" in result.stdout.splitlines()[0]


def test_score_too_good_to_be_true_is_refused(published):
    path = Path("data/ehr/features.parquet")
    features = read_table(path, FEATURES)
    target = pd.read_parquet("data/cohort/cohort.parquet").set_index("subject_id")["target"]
    told = features["subject_id"].map(target)
    write_table(features.assign(metastatic=told, age_years=30 + 60.0 * told), path, FEATURES)
    result = run("promote", LOGISTIC)
    assert result.exit_code == 1
    assert {"alarm[too_good]", "alarm[feature]"} <= list_refusals(result)
    assert "age_years (AUROC 1.000)" in result.output


@pytest.mark.parametrize("lost", ["weights", "all"])
def test_production_that_can_no_longer_be_scored_is_a_check_not_a_crash(published, lost):
    assert run("promote", LOGISTIC).exit_code == 0
    retrain(published, c=0.11)
    source = Path(find(LOGISTIC, 1).source)
    if lost == "weights":
        (source / "artifacts/bundle/weights.safetensors").write_bytes(b"")
    else:
        shutil.rmtree(source)
    result = run("promote", LOGISTIC)
    assert result.exit_code == 1
    assert list_refusals(result) == {"not_worse"}
    assert "(version 1) in production could not be scored" in result.output
    assert run("promote", LOGISTIC, "--force", "--reason", "it is lost").exit_code == 0
    assert stand(LOGISTIC) == (2, {1: "Archived", 2: "Production"})
    assert "is not in this registry" in run("rollback", LOGISTIC).output or lost == "weights"


# --- overriding ---------------------------------------------------------------------------------


def test_force_without_a_reason_is_refused(published):
    result = run("promote", LEAKY, "--force")
    assert result.exit_code == 1
    assert "--reason" in result.output
    assert stand(LEAKY) == (None, {})


def test_forced_promotion_is_on_record(published):
    result = run("promote", LEAKY, "--force", "--reason", "to show what a leak looks like")
    assert result.exit_code == 0, result.output
    assert "alarm[pairing]" in list_refusals(result)
    assert stand(LEAKY) == (1, {1: "Production"})
    (entry,) = read_log()
    assert (entry.forced, entry.reason) == (True, "to show what a leak looks like")
    assert "alarm[pairing]" in entry.gate
    tags = open_store().read_status(LEAKY).version_tags[1]
    assert tags["histofuse.promotion.forced"] == "true"


def test_force_that_was_not_needed_is_not_on_record_as_one(published):
    run("promote", LOGISTIC, "--force", "--reason", "in a hurry")
    (entry,) = read_log()
    assert (entry.forced, entry.reason, entry.gate) == (False, "in a hurry", "passed")


def test_dry_run_changes_nothing(published):
    before = Path("mlruns/mlflow.db").read_bytes()
    assert run("promote", LOGISTIC, "--dry-run").exit_code == 0
    assert run("promote", LEAKY, "--dry-run").exit_code == 1
    assert Path("mlruns/mlflow.db").read_bytes() == before
    assert not LOG.exists()


def test_rollback_by_the_model_s_own_name(published):
    run("promote", LOGISTIC)
    retrain(published, c=0.11)
    run("promote", "logistic_regression")
    result = run("rollback", "logistic_regression", "--reason", "complaints")
    assert result.exit_code == 0, result.output
    assert stand(LOGISTIC) == (1, {1: "Production", 2: "Archived"})
    assert read_log()[-1].reason == "complaints"
    assert run("rollback", LOGISTIC).exit_code == 1


def test_version_in_production_is_reported(published):
    run("promote", LOGISTIC)
    result = run("promote", LOGISTIC)
    assert result.exit_code == 0
    assert "is already in production" in result.output
    assert len(read_log()) == 1


# --- which version ------------------------------------------------------------------------------


@pytest.fixture
def two(published):
    """Two versions, of which models/ holds the first."""
    retrain(published, c=0.11)
    published.train_tabular()
    return published


def asked(*arguments):
    """Run without its consequences; return the version it was about."""
    output = run("promote", LOGISTIC, *arguments, "--dry-run").stdout
    return output.splitlines()[0].partition("(version ")[2].partition(")")[0]


def test_version_that_models_holds_is_meant_unless_another_is_named(two):
    assert asked() == "1"
    assert asked("--version", 2) == "2"
    assert asked("--digest", find(LOGISTIC, 2).digest[:8].upper()) == "2"


def test_latest_is_chosen_if_models_holds_none(two):
    shutil.rmtree("models/logistic_regression")
    assert asked() == "2"


def test_bundle_that_was_never_published_is_not_replaced_by_another(two):
    two.train_tabular(c=0.2)
    result = run("promote", LOGISTIC)
    assert result.exit_code == 1
    assert "which is not in the registry" in result.output
    assert "histofuse publish" in result.output


def test_digits_of_several_versions_are_refused_with_all_of_them(two):
    result = run("promote", LOGISTIC, "--digest", "")
    assert result.exit_code == 1
    for number in (1, 2):
        assert f"{find(LOGISTIC, number).digest[:12]} (version {number})" in result.output


@pytest.mark.parametrize("choice", [("--version", 9), ("--digest", "xyz")])
def test_version_that_is_not_there_is_refused_with_those_that_are(two, choice):
    result = run("promote", LOGISTIC, *choice)
    assert result.exit_code == 1
    assert "(version 1)" in result.output
    assert "(version 2)" in result.output


def test_model_that_is_not_there_is_refused_with_those_that_are(published):
    for command in ("promote", "rollback"):
        result = run(command, "resnet99")
        assert result.exit_code == 1
        assert FUSION in result.output


# --- the list -----------------------------------------------------------------------------------


def test_registry_shows_aliases_and_stages(two):
    run("promote", LOGISTIC)
    run("promote", LOGISTIC, "--version", 2)

    lines = run("registry").output.splitlines()
    rows = [line.split() for line in lines]
    assert rows[0][:2] == ["model", "version"]
    first, second = (row for row in rows if LOGISTIC in row)
    assert first[:5] == ["*", LOGISTIC, "1", find(LOGISTIC, 1).digest[:12], "Archived"]
    assert second[:5] == [LOGISTIC, "2", find(LOGISTIC, 2).digest[:12], "production", "Production"]
    assert len(second[5]) == len("2026-01-31")

    listed = json.loads(run("registry", "--json").output)
    found = next(r for r in listed if (r["model"], r["version"]) == (LOGISTIC, 2))
    assert found["digest"] == find(LOGISTIC, 2).digest
    assert (found["aliases"], found["stage"]) == (["production"], "Production")


def test_commands_work_with_warnings_as_errors(published):
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    command = [sys.executable, "-W", "error", "-c", COMMANDS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Warning" not in done.stderr, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 1]", done.stderr
    assert stand(LOGISTIC) == (1, {1: "Production"})
