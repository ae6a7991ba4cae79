import time
from pathlib import Path

import pytest

from histofuse.core.errors import RegistryError
from histofuse.tracking.store import DATABASE, open_store


def test_server_that_is_down_is_said_so_within_seconds(project, monkeypatch):
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
        open_store().find_runs("0" * 64)


def test_folder_that_cannot_be_written_to_is_named(project, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(RegistryError, match="cannot be written to"):
        open_store()


def test_team_server_is_honoured(project, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team/mlflow.db")
    assert open_store().database == Path(tmp_path) / "team" / "mlflow.db"
