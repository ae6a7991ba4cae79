import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from histofuse.cli import app

HEAVY = ("torch", "mlflow", "pandas", "numpy", "sklearn", "pydantic")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom histofuse.cli import app\n"
        "try: app(['--help'])\n"
        f"finally: print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "export-imagefolder" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["publish", "report", "registry", "next", "doctor"])
def test_outside_a_project_is_one_message(run, command):
    result = run(command)
    assert result.exit_code == 1
    assert "no params.yaml here or above" in result.output
    assert "Traceback" not in result.output


def test_results_are_shown_in_the_order_of_params_with_what_is_declared(run, tmp_path):
    (tmp_path / "params.yaml").write_text(
        "image: {resnet18: {}}\ntabular: {mlp: {}}\npairing: {label_aligned: {}}\n"
    )
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text(
        """{"declared": {"fusion_label_aligned": {"data": "simulated",
        "leaky": "pairs by label"}}}"""
    )
    (tmp_path / "reports/headline.json").write_text(
        """{"fusion_label_aligned": {"gain": {"value": 0.1, "low": -0.05, "high": 0.25},
        "test/auprc/mitosis": 0.9, "test/ece/mitosis": 0.02},
        "mlp": {"test/auroc/death": null, "test/ece/death": 0.1},
        "resnet18": {"test/auprc/mitosis": 0.8, "test/ece/mitosis": 0.04}}"""
    )
    lines = run("next").output.splitlines()
    assert "on the test split" in lines[1]
    names = [line.split()[0] for line in lines[2:5]]
    assert names == ["resnet18", "mlp", "fusion_label_aligned"]
    assert lines[2].split("  ")[-2:] == ["mitosis AUPRC 0.800", "mitosis ECE 0.040"]
    assert "death AUROC –" in lines[3]
    assert lines[4].endswith("leaky: pairs by label")
    assert "  +0.100 [-0.050, +0.250]  " in lines[4]
    assert "Simulated data" in lines[5]


def test_next_without_results_says_what_to_run(run, tmp_path):
    (tmp_path / "params.yaml").touch()
    result = run("next")
    assert result.exit_code == 1
    assert "make repro" in result.output


def test_commands_work_from_a_folder_below(run, tmp_path, monkeypatch):
    (tmp_path / "params.yaml").touch()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    assert "no models at" in run("registry").output
    assert (tmp_path / "mlruns").is_dir()


def test_taken_port_is_said(run, tmp_path):
    import socket

    (tmp_path / "params.yaml").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("ui", "--port", port)
    assert result.exit_code == 1
    assert port in result.output
    assert "--port" in result.output


def test_team_server_has_its_own_page(run, tmp_path, monkeypatch):
    server = SimpleNamespace(
        database=None, uri="https://user:secret@mlflow.test/", experiment_id="7"
    )
    monkeypatch.setattr("histofuse.commands.ui.open_store", lambda: server)
    (tmp_path / "params.yaml").touch()
    assert "mlflow.test/#/experiments/7/runs" in run("ui").output
    assert "secret" not in run("ui").output


def test_what_is_in_the_way_of_a_path_is_one_message(run, tmp_path, monkeypatch):
    def write(*_):
        (tmp_path / "file/inside").mkdir()

    (tmp_path / "params.yaml").touch()
    (tmp_path / "file").touch()
    monkeypatch.setattr("histofuse.commands.publish.publish", write)
    result = run("publish")
    assert result.exit_code == 1
    assert result.output == f"histofuse publish: {tmp_path}/file/inside: Not a directory\n"


def test_the_version_is_shown_anywhere(run):
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"histofuse \d+\.\d+\S*\n", result.output)
