"""A team's server on a real PostgreSQL: the pipeline against it, its users, its restarts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import requests
from project import Project, copy_sources

from histofuse.commands.team.postgres import read_command

pytestmark = pytest.mark.e2e

# One model a side and one fusion: what a server sees of the others is the same again.
LEAN = {
    "simulation.brecahad.cases": 4,
    "image.resnet18.epochs": 1,
    "image.resnet18.frozen_epochs": 1,
    "image.resnet18.study": "none",
    "tabular.mlp.study": "none",
    "fusion.epochs": 2,
    "fusion.study": "none",
}
FUSION = "train_fusion@label_blind"
REGISTERED = {"histofuse-resnet18", "histofuse-mlp", "histofuse-fusion"}

RECORD = """
from histofuse.tracking.recorder import open_recorder
with open_recorder("live", live_after_seconds=0.0) as recorder:
    recorder.log_params({"epochs": 2})
    for epoch in (1, 2):
        recorder.log_metrics({"train/loss": 1 / epoch}, epoch)
    recorder.end("KILLED")
"""
PULL = """
import json
from histofuse.tracking.registry import pull_bundle
for name, digest in json.load(open("registry.lock.json")).items():
    print(pull_bundle(name, digest).path)
"""


@dataclass
class Server:
    """`histofuse server`, run in a project."""

    project: Project
    port: int
    process: subprocess.Popen[str] | None = None
    printed: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        return self.project.root / "mlruns/server"

    @property
    def secrets(self) -> list[str]:
        kept = json.loads((self.folder / "secrets.json").read_text())
        cluster = json.loads((self.folder / "postgres/access.json").read_text())
        return [kept["admin_password"], kept["secret_key"], cluster["password"]]

    def start(self, *options: str) -> None:
        self.process = subprocess.Popen(
            ["histofuse", "server", "--port", str(self.port), *options],
            cwd=self.project.root,
            env=self.project.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed.append(line)
            if "PGPASSFILE" in line:
                return
        raise AssertionError(f"the server did not start:\n{''.join(self.printed)}")

    def stop(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        self.printed.append(self.process.communicate(timeout=60)[1])
        return self.process.returncode

    def login(self, user: str, *options: str) -> Project:
        """Add a user, and set a project's environment as the command says."""
        printed = self.project.run("histofuse", "users", "add", user, *options).stdout
        return replace(self.project, settings=dict(re.findall(r"export (\w+)=(\S+)", printed)))

    def list_processes(self) -> list[int]:
        state = json.loads((self.folder / "server.json").read_text())
        postmaster = (self.folder / "postgres/data/postmaster.pid").read_text().split()[0]
        return [state["process"], int(postmaster)]


@pytest.fixture(scope="module")
def server(needs_postgres, small) -> Iterator[Server]:
    """A server in a project of its own, where the user that root runs PostgreSQL as can go."""
    with TemporaryDirectory(prefix="histofuse-team-") as scratch:
        Path(scratch).chmod(0o755)
        project = copy_sources(Path(scratch) / "histofuse")
        project.set_params(small | LEAN)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        made = Server(project, port)
        made.start()
        try:
            yield made
        finally:
            made.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def alice(server) -> Project:
    """The project after the pipeline has run against the server, by its address alone."""
    project = server.login("alice")
    ran = project.repro(FUSION)
    assert ran[-1] == FUSION
    project.run("histofuse", "publish")
    return project


def ask(project: Project, path: str, method: str = "GET", **options: Any) -> requests.Response:
    given = project.settings
    login = (given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"])
    address = f"{given['MLFLOW_TRACKING_URI']}/api/2.0/{path}"
    return requests.request(method, address, **({"auth": login, "timeout": 60} | options))


def list_versions(project: Project) -> list[tuple[str, str]]:
    """List name and bundle digest of all registered versions."""
    found = ask(project, "mlflow/model-versions/search").json().get("model_versions", [])
    tags = [{tag["key"]: tag["value"] for tag in v["tags"]} for v in found]
    digests = [of_version["histofuse.bundle_digest"] for of_version in tags]
    return sorted(zip((v["name"] for v in found), digests, strict=True))


def list_runs(project: Project) -> list[dict[str, Any]]:
    """List the runs of the experiment."""
    query = {"experiment_name": "histofuse"}
    found = ask(project, "mlflow/experiments/get-by-name", params=query).json()["experiment"]
    query = {"experiment_ids": [found["experiment_id"]], "max_results": 1000}
    return ask(project, "mlflow/runs/search", "POST", json=query).json().get("runs", [])


def test_pipeline_runs_against_the_server_by_its_address_alone(server, alice):
    assert {name for name, _ in list_versions(alice)} == REGISTERED
    assert not (alice.root / "mlruns/mlflow.db").exists()

    locked = json.loads((alice.root / "registry.lock.json").read_text())
    assert set(locked.items()) <= set(list_versions(alice))

    runs = {run["info"]["run_name"]: run for run in list_runs(alice)}
    metrics = {m["key"] for m in runs["mlp"]["data"]["metrics"]}
    assert any(name.startswith("curve/") for name in metrics)
    for run in runs.values():
        assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
        assert (
            (server.folder / "artifacts")
            .joinpath(
                run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/"),
                "model/artifacts/bundle/manifest.json",
            )
            .is_file()
        )

    assert "0 written, 3 were there" in alice.run("histofuse", "publish").stdout


def test_bundles_come_back_through_the_server(alice):
    pulled = alice.root / ".histofuse/registry"
    before = {path.name for path in pulled.iterdir()}
    subprocess.run(["rm", "-r", str(pulled)], check=True)
    alice.run("python", "-c", PULL)
    assert {path.name for path in pulled.iterdir()} == before


def test_training_is_recorded_live(alice):
    alice.run("python", "-c", RECORD)
    (run,) = [run for run in list_runs(alice) if run["info"]["run_name"] == "live"]
    assert run["info"]["status"] == "KILLED"
    assert [m["value"] for m in run["data"]["metrics"]] == [0.5]
    gone = ask(alice, "mlflow/runs/delete", "POST", json={"run_id": run["info"]["run_id"]})
    assert gone.ok


def test_strangers_are_refused(server, alice):
    runs = "mlflow/runs/search"
    assert ask(alice, runs, "POST", auth=None, json={}).status_code == 401
    assert ask(alice, runs, "POST", auth=("alice", "guess"), json={}).status_code == 401
    assert ask(alice, runs, "POST", auth=("admin", "password1234"), json={}).status_code == 401
    artifacts = "mlflow-artifacts/artifacts?path=1"
    assert ask(alice, artifacts).ok
    assert ask(alice, artifacts, auth=None).status_code == 401

    elsewhere = ask(alice, artifacts, headers={"Host": "evil.example.org"})
    assert elsewhere.status_code == 403
    page = {"Origin": "https://evil.example.org"}
    assert ask(alice, runs, "POST", json={}, headers=page).status_code == 403
    own = {"Origin": server.address}
    assert ask(alice, runs, "POST", json={"experiment_ids": ["1"]}, headers=own).ok

    lost = replace(alice, settings=alice.settings | {"MLFLOW_TRACKING_PASSWORD": "guess-guess"})
    refused = lost.run("histofuse", "publish", check=False)
    assert refused.returncode == 1
    assert "MLFLOW_TRACKING_USERNAME" in refused.stderr
    assert "guess-guess" not in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr


def test_user_who_may_only_look(server, alice):
    bob = server.login("bob", "--read-only")
    assert list_versions(bob) == list_versions(alice)
    shown = bob.run("histofuse", "registry").stdout
    assert all(name in shown for name in REGISTERED)
    (run, *_) = list_runs(bob)
    tag = {"run_id": run["info"]["run_id"], "key": "by", "value": "bob"}
    assert ask(bob, "mlflow/runs/set-tag", "POST", json=tag).status_code == 403

    assert "bob" in server.project.run("histofuse", "users", "list").stdout.split()
    again = server.project.run("histofuse", "users", "add", "bob", check=False)
    assert again.returncode == 1
    assert "there is such a user" in again.stderr
    server.project.run("histofuse", "users", "remove", "bob")
    assert server.project.run("histofuse", "users", "list").stdout.split() == ["admin", "alice"]


def test_two_at_once_publish_each_bundle_once(alice):
    before, runs = list_versions(alice), len(list_runs(alice))
    for name, _ in before:
        assert ask(alice, "mlflow/registered-models/delete", "DELETE", json={"name": name}).ok
    for run in list_runs(alice):
        ask(alice, "mlflow/runs/delete", "POST", json={"run_id": run["info"]["run_id"]})

    command = ["histofuse", "publish"]
    both = [
        subprocess.Popen(command, cwd=alice.root, env=alice.environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    printed = [process.communicate()[0].decode() for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert sum("3 written" in text for text in printed) == 1, printed
    assert list_versions(alice) == before
    assert len(list_runs(alice)) == runs


def test_lost_version_is_restored(alice):
    before = list_versions(alice)
    lost = {"name": "histofuse-mlp", "version": "1"}
    assert ask(alice, "mlflow/model-versions/delete", "DELETE", json=lost).ok
    assert list_versions(alice) != before

    assert "published histofuse-mlp" in alice.run("histofuse", "publish").stdout

    assert list_versions(alice) == before


def test_restart_keeps_everything_and_a_kill_loses_nothing(server, alice):
    before, runs = list_versions(alice), len(list_runs(alice))

    processes = server.list_processes()
    assert server.stop(signal.SIGINT) == 0
    assert [read_command(pid) for pid in processes] == [None, None]
    down = alice.run("histofuse", "publish", check=False)
    assert down.returncode == 1
    assert "Start the server" in down.stderr

    server.start("--workers", "1")
    assert (list_versions(alice), len(list_runs(alice))) == (before, runs)

    server.stop(signal.SIGKILL)
    server.start("--workers", "1")
    assert (list_versions(alice), len(list_runs(alice))) == (before, runs)
    assert "0 written, 3 were there" in alice.run("histofuse", "publish").stdout


def test_no_password_is_shown_or_logged(server, alice):
    hidden = [*server.secrets, alice.settings["MLFLOW_TRACKING_PASSWORD"]]
    logs = [server.folder / "mlflow.log", server.folder / "postgres/postgres.log"]
    shown = "".join([*server.printed, *(log.read_text() for log in logs)])
    for pid in server.list_processes():
        shown += read_command(pid) or ""
    assert len(shown) > 1000
    assert [word for word in hidden if word in shown] == []
    for name in ("secrets.json", "auth.ini", "pgpass", "mlflow.log", "postgres/access.json"):
        assert (server.folder / name).stat().st_mode & 0o077 == 0, name
    assert os.environ.get("MLFLOW_TRACKING_PASSWORD") is None
