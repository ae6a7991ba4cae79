import json
import re
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from histofuse.core.errors import RegistryError
from histofuse.tracking.connection import DATABASE, name_store
from histofuse.tracking.names import STUDIES_EXPERIMENT
from histofuse.tracking.store import open_store
from histofuse.tracking.views import name_view


def test_unreachable_server_is_reported_within_seconds(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(RegistryError) as error:
        open_store()
    message = str(error.value)
    assert "127.0.0.1:9" in message
    assert "secret" not in message
    assert "MLFLOW_TRACKING_URI" in message
    assert time.monotonic() - start < 11


def test_file_that_is_no_database_is_named(project):
    DATABASE.write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(RegistryError, match=r"mlflow\.db: not readable as an MLflow store"):
        open_store().list_versions()


def test_database_of_another_mlflow_is_explained(project):
    import sqlite3

    with sqlite3.connect(DATABASE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'x'")
    with pytest.raises(RegistryError, match=r"remove .* and run histofuse publish"):
        open_store().find_runs("histofuse.bundle_digest", "0" * 64)


def test_folder_that_cannot_be_written_to_is_named(project, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(RegistryError, match="cannot be written to"):
        open_store()


def test_only_the_owner_reads_a_local_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert open_store().client
    assert (tmp_path / "artifacts").stat().st_mode & 0o777 == 0o700
    (tmp_path / "artifacts").chmod(0o755)  # as earlier versions left it
    with open_store().locked():
        assert (tmp_path / "artifacts").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == 0o600


def test_tracking_uri_is_used(project, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team/mlflow.db")
    assert open_store().database == Path(tmp_path) / "team" / "mlflow.db"


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, "You are not authenticated", "Set MLFLOW_TRACKING_USERNAME and"),
        (403, "Permission denied", "made without --read-only"),
        (403, "Invalid Host header - possible DNS rebinding", "start it with --allowed-hosts"),
        (404, "not found", "correct MLFLOW_TRACKING_URI"),
    ],
)
def test_refusal_of_a_server_says_what_is_missing(project, monkeypatch, status, body, remedy):
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 (http.server asks for these names)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://alice:hidden@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(RegistryError, match=remedy) as error:
            open_store().list_versions()
        server.shutdown()
    assert "hidden" not in str(error.value)


def test_experiment_has_a_description_and_the_view_that_the_address_opens(project):
    store = open_store()
    view = name_view(store.experiment_id)
    tags = store.client.get_experiment(store.experiment_id).tags
    assert "One run for each trained bundle" in tags["mlflow.note.content"]
    (key,) = re.findall("viewStateShareKey=([a-z]+)", view)
    shown = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert shown["orderByKey"] == "metrics.`test/auprc/mitosis`"
    assert shown["selectedColumns"][:2] == ["attributes.`Models`", shown["orderByKey"]]
    assert shown["orderByAsc"] is False
    studies = open_store(STUDIES_EXPERIMENT)
    tags = studies.client.get_experiment(studies.experiment_id).tags
    assert "hyperparameter study" in tags["mlflow.note.content"]


def test_an_experiment_in_a_copy_of_the_project_writes_to_the_project(project, monkeypatch):
    copy = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1a2b"
    copy.mkdir(parents=True)
    expected = name_store()
    monkeypatch.chdir(copy)
    assert name_store() == expected == f"sqlite:///{project}/mlruns/mlflow.db"


def test_the_page_of_runs_is_named_without_mlflow(project):
    assert open_store().name_page() is None
    store = open_store()
    page = name_view(store.experiment_id)
    assert open_store().name_page() == page
