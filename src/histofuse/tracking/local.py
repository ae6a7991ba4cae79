"""The local MLflow store as a SQLite file, read and repaired without MLflow.

MLflow takes seconds to import, and ``publish`` runs with every ``dvc repro``. Addresses of
artifacts, which MLflow stores as absolute paths, are corrected after a checkout was moved.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from histofuse.core.errors import RegistryError
from histofuse.tracking.names import (
    CONTENT_TAG,
    DIGEST_TAG,
    EXPERIMENT,
    FILES_TAG,
    ModelStatus,
    Version,
)

ARTIFACTS: Final = "artifacts"

# Every column of MLflow's schema that holds the address of an artifact.
_ADDRESSES: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_VERSIONS: Final = """
    SELECT v.name, v.version, d.value, v.run_id, v.storage_location, v.source, p.value, f.value
    FROM model_versions v
    JOIN model_version_tags d ON d.name = v.name AND d.version = v.version AND d.key = :digest
    JOIN runs r ON r.run_uuid = v.run_id AND r.lifecycle_stage = 'active'
    LEFT JOIN tags p ON p.run_uuid = v.run_id AND p.key = :content
    LEFT JOIN model_version_tags f ON f.name = v.name AND f.version = v.version AND f.key = :files
    ORDER BY v.name, v.version
"""
_RUNS: Final = """
    SELECT r.run_uuid, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = :tag
    WHERE r.status = :status AND r.lifecycle_stage = 'active'
"""

_STATUSES: Final = (
    "SELECT name, key, value FROM registered_model_tags",
    "SELECT name, alias, version FROM registered_model_aliases",
    "SELECT name, version, current_stage FROM model_versions",
    "SELECT name, version, key, value FROM model_version_tags",
)


def find_database(uri: str) -> Path | None:
    """Find the file behind a tracking address; None for a server."""
    parts = urlsplit(uri)
    if parts.scheme != "sqlite":
        return None
    return Path(unquote(parts.path.removeprefix("/")))


def locate_artifacts(database: Path) -> Path:
    """Name the folder of a local store's artifacts: next to its database."""
    return database.parent.resolve() / ARTIFACTS


def read_versions(database: Path) -> list[Version]:
    """List the versions whose files exist; none if the database or its tables do not.

    Raises RegistryError if the file is not a database.
    """
    with _reading(database) as connection:
        tags = {"digest": DIGEST_TAG, "content": CONTENT_TAG, "files": FILES_TAG}
        rows = _select(connection, _VERSIONS, tags)
    return [
        Version(name, int(number), digest, run_id, to_path(stored or source), content, files)
        for name, number, digest, run_id, stored, source, content, files in rows
        if (Path(to_path(stored or source)) / "MLmodel").is_file()
    ]


def read_runs(database: Path, status: str, tag: str) -> dict[str, str]:
    """Map each run of a status that has a tag to its value."""
    with _reading(database) as connection:
        return dict(_select(connection, _RUNS, {"tag": tag, "status": status}))


def read_experiment(database: Path, name: str) -> str | None:
    """Read the id of an experiment; None if there is none yet."""
    with _reading(database) as connection:
        query = "SELECT experiment_id FROM experiments WHERE name = :name"
        rows = _select(connection, query, {"name": name})
    return str(rows[0][0]) if rows else None


def read_statuses(database: Path) -> list[ModelStatus]:
    """Read where the versions of all registered models stand, by name."""
    with _reading(database) as connection:
        tags, aliases, stages, version_tags = (_select(connection, q, ()) for q in _STATUSES)
    names = sorted({name for name, *_ in (*tags, *aliases, *stages, *version_tags)})
    statuses = {name: ModelStatus(name, {}, {}, {}, defaultdict(dict)) for name in names}
    for name, key, value in tags:
        statuses[name].tags[key] = value
    for name, alias, number in aliases:
        statuses[name].aliases[alias] = int(number)
    for name, number, stage in stages:
        if stage:
            statuses[name].stages[int(number)] = stage
    for name, number, key, value in version_tags:
        statuses[name].version_tags[int(number)][key] = value
    return list(statuses.values())


def to_path(address: str) -> str:
    """Strip the scheme off the address of a local file."""
    return unquote(urlsplit(address).path) if address.startswith("file:") else address


@contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection | None]:
    """Open a database; None if the file does not exist."""
    if not database.is_file():
        yield None
        return
    # Not read-only: SQLite rolls back an interrupted write when the file is opened.
    address = f"{database.resolve().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise RegistryError(
            f"{database}: not readable as an MLflow store ({error}). "
            "Remove the file and run histofuse publish, which rebuilds it."
        ) from None


def _select(
    connection: sqlite3.Connection | None, query: str, values: dict[str, str] | tuple[str, ...]
) -> list[tuple]:
    """Run a query; without the database or the table there are no rows."""
    if connection is None:
        return []
    try:
        return connection.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return []
        raise


def find_foreign_root(database: Path) -> Path | None:
    """Find the folder that a moved or copied store still points to; None if its own.

    A database that was copied without its artifacts keeps pointing to the original's.
    """
    with _reading(database) as connection:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        rows = _select(connection, query, (EXPERIMENT,))
    here = locate_artifacts(database)
    if not rows or (there := Path(to_path(rows[0][0]))) == here:
        return None
    return None if there.is_dir() and not here.is_dir() else there.parent


def rehome(database: Path) -> bool:
    """Point all addresses of a moved store at its present folder; tell whether any had to be."""
    there = find_foreign_root(database)
    if there is None:
        return False
    here = locate_artifacts(database).parent
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table, column in _ADDRESSES:
            for old, new in ((str(there), str(here)), (there.as_uri(), here.as_uri())):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
    return True
