"""The files of deploy/, read but not run: that needs a Docker engine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from histofuse.cli import app
from histofuse.commands.team import server

ROOT = Path(__file__).parents[4]
DEPLOY = ROOT / "deploy"
COMPOSE = YAML(typ="safe").load(DEPLOY / "compose.yaml")
SERVICES = COMPOSE["services"]
# What the image of the server leaves out: everything that reads data or trains.
LEFT_OUT = ("torch", "timm", "sklearn", "xgboost", "shap", "captum", "polars", "optuna", "dvc")


def test_it_starts_postgresql_an_object_store_and_mlflow_in_this_order():
    assert set(SERVICES) == {"database", "store", "mlflow"}
    needed = SERVICES["mlflow"]["depends_on"]
    assert {name: given["condition"] for name, given in needed.items()} == {
        "database": "service_healthy",
        "store": "service_healthy",
    }


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_watched_restarted_and_keeps_its_data(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    volumes = [volume.split(":")[0] for volume in service["volumes"]]
    assert volumes
    assert set(volumes) <= set(COMPOSE["volumes"])
    image = service.get("image")
    assert image is None or re.fullmatch(r"[a-z/]+:[\d.]+", image), "an image without a version"


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_this_machine_only(name):
    ports = SERVICES[name]["ports"]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_secrets_come_from_a_file_that_git_ignores():
    text = (DEPLOY / "compose.yaml").read_text()
    secrets = re.findall(r"(?:PASSWORD|KEY\w*): (.+)", text)
    assert len(secrets) == 6
    assert [value for value in secrets if not re.fullmatch(r"\$\{\w+:\?.+\}", value)] == []

    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(example)
    assert example["POSTGRES_PASSWORD"] == example["AWS_SECRET_ACCESS_KEY"] == ""
    ignored = ["git", "check-ignore", "--quiet", "deploy/.env"]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0


def test_the_command_of_its_server_is_one_that_the_server_takes(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(server, "serve", given.append)
    monkeypatch.setattr(server, "_is_installed", lambda _: True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    variable = "${ALLOWED_HOSTS:-localhost}"
    command = [part.replace(variable, "localhost") for part in SERVICES["mlflow"]["command"]]
    assert CliRunner().invoke(app, ["server", *command]).exit_code == 0
    (settings,) = given
    server.require_usable(settings)
    assert f":{settings.port}" in SERVICES["mlflow"]["ports"][0]
    assert settings.database == "postgresql://mlflow@database/mlflow"


def test_the_server_imports_nothing_that_its_image_leaves_out():
    code = (
        "import sys, histofuse.cli, histofuse.commands.team.server\n"
        f"print([name for name in {LEFT_OUT} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_its_image_is_built_from_sources_alone():
    kept = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = {word for line in copied for word in line.split()[:-1]}
    assert sources == set(kept)
    assert all((ROOT / name).exists() for name in kept)
