import shutil
import sqlite3

import pytest

from histofuse.tracking.connection import DATABASE
from histofuse.tracking.local import (
    find_database,
    find_foreign_root,
    rehome,
)
from histofuse.tracking.publish import publish_all


def addresses(database):
    with sqlite3.connect(database) as connection:
        return [
            row[0]
            for query in (
                "SELECT artifact_location FROM experiments WHERE name = 'histofuse'",
                "SELECT artifact_uri FROM runs",
                "SELECT source FROM model_versions",
                "SELECT storage_location FROM model_versions",
            )
            for row in connection.execute(query)
        ]


def test_copy_points_at_its_own_files_and_the_original_at_its_own(project):
    publish_all()
    copy = project.with_name("copy")
    shutil.copytree(project, copy)

    assert rehome(copy / DATABASE)

    assert len(addresses(copy / DATABASE)) == 7
    assert all(a.startswith(f"{copy}/mlruns/artifacts") for a in addresses(copy / DATABASE))
    assert all(a.startswith(f"{project}/mlruns/artifacts") for a in addresses(project / DATABASE))
    assert not rehome(copy / DATABASE)


def test_database_copied_without_its_files_keeps_pointing_at_them(project, tmp_path):
    publish_all()
    shutil.copy(project / DATABASE, tmp_path / "mlflow.db")
    assert find_foreign_root(tmp_path / "mlflow.db") is None


@pytest.mark.parametrize(
    ("uri", "path"),
    [("sqlite:////a/b.db", "/a/b.db"), ("sqlite:///b.db", "b.db"), ("http://host", None)],
)
def test_database_of_an_address(uri, path):
    found = find_database(uri)
    assert found is None if path is None else str(found) == path
