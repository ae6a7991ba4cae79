"""A team's server on a real PostgreSQL: the pipeline against it, its users, its restarts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from project import Project, copy_sources

pytestmark = pytest.mark.e2e

# One model of each kind: a server treats the others alike.
LEAN = {
    "simulation.brecahad.cases": 20,
    "image.resnet18.epochs": 1,
    "image.resnet18.frozen_epochs": 1,
    "image.resnet18.study": "none",
    "tabular.mlp.study": "none",
    "fusion.epochs": 2,
    "fusion.study": "none",
}
# Each further worker of the server takes seconds to start.
ALONE = ("--workers", "1")
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
    """`histofuse server`, run in a project; all its processes are one group."""

    project: Project
    port: int
    log: Path
    database: str | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        return self.project.root / "mlruns/server"

    @property
    def secrets(self) -> list[str]:
        return list(json.loads((self.folder / "secrets.json").read_text()).values())

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.address}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def start(self, *options: str) -> None:
        named = ["--database", self.database] if self.database else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["histofuse", "server", "--port", str(self.port), *named, *options],
                cwd=self.project.root,
                env=self.project.environment,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def login(self, user: str, *options: str) -> Project:
        """Add a user, and set a project's environment as the command says."""
        printed = self.project.run("histofuse", "users", "add", user, *options).stdout
        return replace(self.project, settings=dict(re.findall(r"export (\w+)=(\S+)", printed)))

    def read_commands(self) -> str:
        """Read the command lines of its processes, as other users of the machine can."""
        assert self.process is not None
        command = ["ps", "-o", "args=", "-g", str(self.process.pid), "-ww"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def open_server(
    project: Project, log: Path, *options: str, database: str | None = None
) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Server(project, port, log, database)
    try:
        made.start(*options)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def server(postgres, small, tmp_path_factory) -> Iterator[Server]:
    """A server on PostgreSQL, in a project of its own."""
    scratch = tmp_path_factory.mktemp("team")
    project = copy_sources(scratch / "histofuse")
    project.set_params(small | LEAN)
    with open_server(project, scratch / "log", database=postgres.make_database("mlflow")) as made:
        yield made


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


def test_user_with_read_only_access(server, alice):
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
    assert "histofuse users password bob" in again.stderr
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
    assert sum("3 models written" in text for text in printed) == 1, printed
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

    assert server.stop() == 0
    assert not server.answers()
    down = alice.run("histofuse", "publish", check=False)
    assert down.returncode == 1
    assert "Start the server" in down.stderr

    server.start(*ALONE)
    assert (list_versions(alice), len(list_runs(alice))) == (before, runs)

    server.kill()
    server.start(*ALONE)
    assert (list_versions(alice), len(list_runs(alice))) == (before, runs)
    assert "0 models written, 3 unchanged" in alice.run("histofuse", "publish").stdout


def test_no_password_is_shown_or_logged(server, alice, postgres):
    hidden = [*server.secrets, alice.settings["MLFLOW_TRACKING_PASSWORD"], postgres.password]
    shown = server.log.read_text() + server.read_commands()
    assert len(shown) > 1000
    assert [word for word in hidden if word in shown] == []
    for name in ("secrets.json", "auth.ini"):
        assert (server.folder / name).stat().st_mode & 0o077 == 0, name
    assert os.environ.get("MLFLOW_TRACKING_PASSWORD") is None


# --- who may do what ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Roles:
    """A server without PostgreSQL, its users, and what a member has registered."""

    server: Server
    member: Project
    reader: Project
    run_id: str
    source: str


@pytest.fixture(scope="module")
def roles(tmp_path_factory) -> Iterator[Roles]:
    scratch = tmp_path_factory.mktemp("roles")
    project = copy_sources(scratch / "histofuse")
    with open_server(project, scratch / "log", *ALONE) as server:
        member, reader = server.login("member"), server.login("reader", "--read-only")
        made = ask(member, "mlflow/experiments/create", "POST", json={"name": "histofuse"})
        started = {"experiment_id": made.json()["experiment_id"], "run_name": "first"}
        info = ask(member, "mlflow/runs/create", "POST", json=started).json()["run"]["info"]
        artifacts = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
        stored = f"mlflow-artifacts/artifacts/{artifacts}/model/model.py"
        assert ask(member, stored, "PUT", data=b"of the member").ok
        source = f"{info['artifact_uri']}/model"
        assert ask(member, "mlflow/registered-models/create", "POST", json={"name": "own"}).ok
        version = {"name": "own", "source": source, "run_id": info["run_id"]}
        assert ask(member, "mlflow/model-versions/create", "POST", json=version).ok
        yield Roles(server, member, reader, info["run_id"], source)


def list_changes(roles: Roles) -> list[tuple[str, str, dict[str, Any]]]:
    """List requests that change something, of each part of MLflow."""
    run, experiment = {"run_id": roles.run_id}, roles.source.split("/")[1]
    location = f"{roles.source.removeprefix('mlflow-artifacts:/')}/model.py"
    tag = {"key": "k", "value": "v"}
    version = {"name": "own", "version": "1"}
    trace = {"trace": {"trace_info": {"trace_id": "tr-1", "tags": {}}}}
    return [
        ("POST", "2.0/mlflow/experiments/create", {"json": {"name": "mine"}}),
        ("POST", "2.0/mlflow/experiments/update", {"json": {"experiment_id": "1"}}),
        ("POST", "2.0/mlflow/experiments/set-experiment-tag", {"json": tag}),
        ("POST", "2.0/mlflow/runs/create", {"json": {"experiment_id": experiment}}),
        ("POST", "2.0/mlflow/runs/create", {"json": {"experiment_id": "0"}}),
        ("POST", "2.0/mlflow/runs/log-batch", {"json": run | {"tags": [tag]}}),
        ("POST", "2.0/mlflow/runs/set-tag", {"json": run | tag}),
        ("POST", "2.0/mlflow/runs/create-promptlab-run", {"json": {"experiment_id": "0"}}),
        ("POST", "2.0/mlflow/logged-models", {"json": {"experiment_id": "0", "name": "m"}}),
        ("POST", "2.0/mlflow/registered-models/create", {"json": {"name": "evil"}}),
        ("POST", "2.0/mlflow/registered-models/create", {"json": {"name": "lock.publishing"}}),
        ("POST", "2.0/mlflow/registered-models/set-tag", {"json": {"name": "own", **tag}}),
        ("POST", "2.0/mlflow/registered-models/alias", {"json": version | {"alias": "production"}}),
        ("POST", "2.0/mlflow/registered-models/rename", {"json": {"name": "own", "new_name": "x"}}),
        ("DELETE", "2.0/mlflow/registered-models/delete", {"json": {"name": "own"}}),
        ("POST", "2.0/mlflow/model-versions/create", {"json": {"name": "own", "source": "s3://x"}}),
        ("POST", "2.0/mlflow/model-versions/set-tag", {"json": version | tag}),
        ("PATCH", "2.0/mlflow/model-versions/update", {"json": version | {"description": "x"}}),
        ("PUT", f"2.0/mlflow-artifacts/artifacts/{location}", {"data": b"of the reader"}),
        ("PUT", "2.0/mlflow-artifacts/artifacts/loose", {"data": b"of the reader"}),
        ("POST", f"2.0/mlflow-artifacts/mpu/create/{location}", {"json": {"path": "x"}}),
        ("DELETE", f"2.0/mlflow-artifacts/artifacts/{location}", {}),
        ("POST", "2.0/mlflow/webhooks", {"json": {"name": "w", "url": "http://127.0.0.1:1"}}),
        ("POST", "2.0/mlflow/gateway-proxy", {"json": {"gateway_path": "x"}}),
        ("GET", "2.0/mlflow/gateway-proxy?gateway_path=x", {}),
        ("POST", "3.0/mlflow/traces", {"json": trace}),
        ("POST", "3.0/mlflow/scorers/register", {"json": {"experiment_id": "0", "name": "s"}}),
        ("POST", "3.0/mlflow/datasets/create", {"json": {"name": "d", "experiment_ids": ["0"]}}),
        ("POST", "3.0/mlflow/gateway/secrets/create", {"json": {"secret_name": "s"}}),
        ("POST", "3.0/mlflow/assistant/message", {"json": {"message": "hello"}}),
        ("POST", "3.0/mlflow/mcp-servers", {"json": {"name": "io.x/y"}}),
        ("POST", "2.0/mlflow/users/create", {"json": {"username": "x", "password": "y" * 12}}),
        ("POST", "3.0/mlflow/roles/assign", {"json": {"username": "reader", "role_id": 1}}),
    ]


def test_reader_changes_nothing(roles):
    login = (roles.reader.settings[f"MLFLOW_TRACKING_{key}"] for key in ("USERNAME", "PASSWORD"))
    sent = {"auth": tuple(login), "timeout": 60}
    for method, path, options in list_changes(roles):
        for prefix in ("api", "ajax-api"):
            address = f"{roles.server.address}/{prefix}/{path}"
            answer = requests.request(method, address, **sent, **options)
            assert answer.status_code == 403, (method, prefix, path, answer.text)
    traces = requests.post(f"{roles.server.address}/v1/traces", **sent, data=b"")
    assert traces.status_code == 403
    files = roles.server.folder / "artifacts"
    (file,) = [path for path in files.rglob("*") if path.is_file()]
    assert file.read_bytes() == b"of the member"


def test_reader_reads(roles):
    assert ask(roles.reader, "mlflow/model-versions/search").json()["model_versions"]
    assert [run["info"]["run_name"] for run in list_runs(roles.reader)] == ["first"]
    path = roles.source.removeprefix("mlflow-artifacts:/")
    stored = ask(roles.reader, f"mlflow-artifacts/artifacts/{path}/model.py")
    assert stored.content == b"of the member"
    given = roles.reader.settings
    login = (given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"])
    page = requests.get(roles.server.address, auth=login, timeout=60)
    assert page.ok
    assert "<html" in page.text


@pytest.mark.parametrize("key", ["artifact_location", "artifactLocation"])
def test_only_the_server_chooses_where_files_are_stored(roles, tmp_path, key):
    admin = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": ""}
    password = json.loads((roles.server.folder / "secrets.json").read_text())["admin_password"]
    settings = roles.member.settings | admin | {"MLFLOW_TRACKING_PASSWORD": password}
    for user in (roles.member, replace(roles.member, settings=settings)):
        for location in (str(tmp_path), f"file://{tmp_path}", "s3://x/y", "mlflow-artifacts:/../x"):
            asked = {"name": f"elsewhere {location}", key: location}
            for body in ({"json": asked}, {"json": json.dumps(asked)}):
                answer = ask(user, "mlflow/experiments/create", "POST", **body)
                assert answer.status_code == 400, answer.text
                assert "only the server chooses" in answer.json()["message"]


@pytest.mark.parametrize(
    "source",
    ["/etc", "file:///etc", "s3://x/y", "https://example.org/x", "mlflow-artifacts://x/1/model"],
)
def test_version_comes_from_the_artifacts_of_its_run(roles, source):
    for tags in ([], [{"key": "mlflow.prompt.is_prompt", "value": "true"}]):
        version = {"name": "own", "source": source, "run_id": roles.run_id, "tags": tags}
        answer = ask(roles.member, "mlflow/model-versions/create", "POST", json=version)
        assert answer.status_code == 400, answer.text


def test_member_writes_to_artifacts_of_experiments_only(roles):
    before = sorted(roles.server.project.root.rglob("*evil*"))
    for path in (
        "../evil",
        "..%2fevil",
        "%2e%2e/evil",
        "1/..%2f..%2fevil",
        "%2ftmp%2fevil",
        "evil",
    ):
        address = f"{roles.server.address}/api/2.0/mlflow-artifacts/artifacts/{path}"
        request = requests.Request("PUT", address, data=b"x")
        prepared = requests.Session().prepare_request(request)
        prepared.url = address  # as it is: requests would resolve it
        given = roles.member.settings
        prepared.prepare_auth(
            (given["MLFLOW_TRACKING_USERNAME"], given["MLFLOW_TRACKING_PASSWORD"])
        )
        answer = requests.Session().send(prepared, timeout=60)
        assert answer.status_code >= 400, path
    assert sorted(roles.server.project.root.rglob("*evil*")) == before == []


def test_without_a_database_users_and_runs_survive_a_kill_too(roles):
    runs = list_runs(roles.member)
    roles.server.kill()
    roles.server.start(*ALONE)
    assert list_runs(roles.member) == runs != []
    assert (roles.server.folder / "mlflow.db").stat().st_size > 0
