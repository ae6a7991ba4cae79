import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from histofuse.commands.tune import find_stage, tune
from histofuse.core.errors import HistofuseError, InputError
from histofuse.studies.run import STORAGE_VARIABLE

PARAMS = {
    "study_storage": "mlruns/studies.journal",
    "tune": {"xgboost": {}, "resnet18": {}, "fusion": {}, "orphan": {}, "patient_gated": {}},
    "tabular": {"xgboost": {}},
    "image": {"resnet18": {}},
    "patients": {"gated": {}},
    "fusion": {},
}
STAGE = """
import json, os, sys, time
from pathlib import Path
said = {"words": sys.argv[1:], "storage": os.environ.get("HISTOFUSE_STUDY_STORAGE")}
try:
    Path("said.json").write_text(json.dumps(said))
    time.sleep(float(os.environ.get("SECONDS", "0")))
except KeyboardInterrupt:
    time.sleep(1.0)
    Path("told_mlflow").touch()
    sys.exit(1)
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose stages only say how they were called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    YAML().dump(PARAMS, Path("params.yaml"))
    Path("pipelines").mkdir()
    for name in ("tabular", "image", "fusion", "patients"):
        Path(f"pipelines/tune_{name}.py").write_text(STAGE)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "stage", "section"),
    [
        ("xgboost", "tabular", "tabular.xgboost"),
        ("resnet18", "image", "image.resnet18"),
        ("fusion", "fusion", "fusion"),
        ("patient_gated", "patients", "patients.gated"),
    ],
)
def test_the_study_s_stage_and_the_model_s_section_are_found(project, name, stage, section):
    assert find_stage(name) == (Path(f"pipelines/tune_{stage}.py"), section)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("catboost", "no study 'catboost'; expected one of: xgboost, resnet18, fusion, orphan"),
        ("orphan", "tune.orphan: no model of this name"),
    ],
)
def test_a_study_without_params_or_model_is_refused(project, name, said):
    with pytest.raises(InputError, match=said):
        tune(name, 1, None, None)


def test_the_stage_runs_and_next_steps_are_shown(project, capsys):
    tune("xgboost", 4, None, 40)
    said = json.loads((project / "said.json").read_text())
    assert said["words"] == ["xgboost", "--workers", "4", "--trials", "40"]
    assert said["storage"] is None
    shown = capsys.readouterr().err
    assert "tabular.xgboost.study: xgboost, tune.xgboost.trials: 40 in params.yaml" in shown
    assert "optuna-dashboard mlruns/studies.journal" in shown


def test_a_storage_s_password_is_neither_shown_nor_on_a_command_line(project, capsys):
    address = "postgresql://me:secret@127.0.0.1/studies"
    tune("fusion", 1, address, None)
    said = json.loads((project / "said.json").read_text())
    assert said == {"words": ["fusion", "--workers", "1"], "storage": address}
    shown = capsys.readouterr().err
    assert "fusion.study: fusion, study_storage: postgresql://…@127.0.0.1/studies in par" in shown
    assert "secret" not in shown


def test_a_storage_of_the_environment_is_the_one_to_look_at(project, monkeypatch, capsys):
    monkeypatch.setenv(STORAGE_VARIABLE, "elsewhere.journal")
    tune("xgboost", 1, None, None)
    assert "optuna-dashboard elsewhere.journal" in capsys.readouterr().err


def test_a_failed_stage_fails_the_command(project, monkeypatch):
    monkeypatch.setenv("STATUS", "3")
    with pytest.raises(HistofuseError, match="study xgboost ended with exit status 3"):
        tune("xgboost", 1, None, None)


def test_ctrl_c_lets_the_stage_end_in_its_own_time(project):
    command = [str(Path(sys.executable).with_name("histofuse")), "tune", "xgboost"]
    process = subprocess.Popen(
        command, env=os.environ | {"SECONDS": "300"}, start_new_session=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (project / "said.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    messages = process.communicate(timeout=120)[1]
    assert (project / "told_mlflow").exists()
    assert process.returncode == 1
    assert "study xgboost ended with exit status 1" in messages
    assert "Traceback" not in messages
