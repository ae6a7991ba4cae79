import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from declared_records import TABLE, write_declared

from histofuse.commands import doctor
from histofuse.core.bundle import writing_bundle
from histofuse.core.errors import InputError

LOCK = """
# a comment
numpy==0.0.1 \\
    --hash=sha256:0
no-such-package==1.0 ; sys_platform == 'nowhere' \\
    --hash=sha256:0
{missing}
"""


def one(checks):
    (check,) = checks
    return check


def write_lock(folder, missing=""):
    path = folder / "requirements.lock"
    path.write_text(LOCK.format(missing=missing))
    return path


def test_other_versions_are_named_and_foreign_platforms_left_out(tmp_path):
    check = one(doctor.check_packages(write_lock(tmp_path)))
    assert check.status == "warn"
    assert "(locked 0.0.1)" in check.message
    assert "no-such-package" not in check.message


def test_missing_package_fails(tmp_path):
    lock = write_lock(tmp_path, "no-such-package==2.0")
    statuses = {c.status: c.message for c in doctor.check_packages(lock)}
    assert "no-such-package" in statuses["fail"]


def test_missing_lock_fails(tmp_path):
    assert one(doctor.check_packages(tmp_path / "none")).status == "fail"


@pytest.mark.parametrize(("free_gb", "status"), [(100, "ok"), (3, "warn"), (0.5, "fail")])
def test_disk(monkeypatch, free_gb, status):
    usage = shutil._ntuple_diskusage(0, 0, int(free_gb * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert one(doctor.check_disk()).status == status


def test_frames_without_annotation_are_named(tmp_path):
    for name in ("images/Case_1-01.tif", "images/Case_1-02.tif", "groundTruth/Case_1-01.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    check = doctor.check_brecahad(tmp_path)
    assert check.status == "fail"
    assert "Case_1-02" in check.message
    (tmp_path / "groundTruth/Case_1-02.json").touch()
    assert doctor.check_brecahad(tmp_path).status == "ok"


def test_missing_tables_are_named(tmp_path):
    (tmp_path / "hosp").mkdir()
    for table in ("patients", "admissions", "labevents", "prescriptions"):
        (tmp_path / f"hosp/{table}.csv.gz").touch()
    check = doctor.check_mimiciv(tmp_path)
    assert check.message == f"{tmp_path}: no hosp/diagnoses_icd.csv.gz"
    assert "data.records.path" in check.remedy


def test_simulated_data_need_not_be_there_but_real_data_must():
    assert doctor.check_brecahad(Path("data/simulated/brecahad")).status == "ok"
    assert doctor.check_mimiciv(Path("data/real/mimiciv")).status == "fail"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_model_that_is_not_registered_is_named(project):
    assert one(doctor.check_mlflow()).status == "ok"
    with writing_bundle(Path("models/mlp"), "mlp") as folder:
        (folder / "config.json").write_text("{}")
    check = one(doctor.check_mlflow())
    assert (check.status, check.remedy) == ("warn", "histofuse publish")
    assert "mlp" in check.message


def test_lock_that_the_registry_does_not_hold_is_named(project):
    Path("registry.lock.json").write_text(json.dumps({"histofuse-mlp": "0" * 64}))
    assert "histofuse-mlp" in one(doctor.check_mlflow()).message


def test_lost_outputs_are_named(project):
    assert one(doctor.check_dvc()).status == "fail"
    Path(".dvc").mkdir()
    assert one(doctor.check_dvc()).remedy == "dvc repro"
    Path("dvc.lock").write_text("stages: {a: {outs: [{path: models/mlp}]}}\n")
    check = one(doctor.check_dvc())
    assert check.status == "warn"
    assert "models/mlp" in check.message


def test_check_that_breaks_is_a_failed_check(project, monkeypatch):
    Path("params.yaml").write_text("data: {brecahad: 1}\n")
    monkeypatch.setattr(doctor, "check_torch", lambda: iter(()))
    failed = [c for c in doctor.examine() if c.name == "data"]
    assert failed[0].status == "fail"
    assert "params.yaml, data.records: missing" in failed[0].message


def test_browser_that_only_some_tests_need_is_no_fault(monkeypatch):
    assert one(doctor.check_browser()).status == "ok"
    monkeypatch.setattr(doctor, "BROWSERS", ())
    check = one(doctor.check_browser())
    assert check.status == "ok"
    assert "apt-get install chromium" in check.remedy


def test_git_s_own_message_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    check = one(doctor.check_git())
    assert (check.status, check.message) == ("warn", "no commit yet")
    assert check.remedy.startswith("git init")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    check = one(doctor.check_git())
    assert check.status == "warn"
    assert check.message.startswith("fatal: detected dubious ownership")
    assert f"safe.directory {tmp_path}" in check.message
    assert check.remedy.startswith("Do what git says")


def test_a_declared_table_is_read_as_the_first_stage_reads_it(tmp_path):
    check = doctor.check_declared(write_declared(tmp_path))
    assert check.message == f"{tmp_path}/patients.csv: 7 rows of 7 patients"
    with pytest.raises(InputError, match="line 3, patient: no id"):
        doctor.check_declared(write_declared(tmp_path, TABLE.replace("P-10", "")))


def test_a_crosswalk_says_how_many_found_a_partner(project):
    path = Path("crosswalk.csv")
    path.write_text("case_id,subject_id\n")
    assert list(doctor.check_crosswalk(path, "simulated")) == []
    assert one(doctor.check_crosswalk(path, "crosswalk")).status == "fail"
    path.write_text("case_id,subject_id\nCase_1,P-2\n")
    assert one(doctor.check_crosswalk(path, "simulated")).remedy == "dvc repro annotations cohort"
    for table in (doctor.FRAMES_TABLE, doctor.COHORT_TABLE):
        table.parent.mkdir(parents=True)
    frames = pd.DataFrame({"frame_id": ["Case_1-01", "Case_2-01"], "case_id": ["Case_1", "Case_2"]})
    frames = frames.assign(file="x.tif", width_px=1, height_px=1, pixels_sha256="0")
    frames.to_parquet(doctor.FRAMES_TABLE)
    ids = {"subject_id": [1, 2], "hadm_id": [1, 2], "target": [0, 1]}
    ids |= {"patient_id": ["P-1", "P-2"], "visit_id": ["P-1", "P-2"]}
    pd.DataFrame(ids).to_parquet(doctor.COHORT_TABLE)
    check = one(doctor.check_crosswalk(path, "simulated"))
    assert check.status == "warn"
    assert "1 of 2 cases have a patient of the cohort, 1 of 2 patients have tissue" in check.message
