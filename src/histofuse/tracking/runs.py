"""The published runs as a table, for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import digest_file
from histofuse.core.bundle import MANIFEST
from histofuse.tracking.names import (
    CONTENT_TAG,
    DIGEST_TAG,
    FOCUS_TAG,
    REGISTERED_TAG,
    VERSION_TAG,
)
from histofuse.tracking.publish import MODELS
from histofuse.tracking.store import open_store

KIND_TAG: Final = "histofuse.kind"
TABULAR: Final = "tabular"


@dataclass(frozen=True)
class RunRow:
    """One published run.

    Attributes:
        name: Name of the run and its model.
        kind: ``image``, ``tabular`` or ``fusion``.
        version: Registered name and version number.
        digest: Digest of its bundle.
        focus: The class in focus, whose scores come first.
        in_production: Whether that version is in production.
        current: Whether ``models/`` holds the same bundle.
        leaky: Whether its scores measure a leak.
        source: Source of its data.
        metrics: Name to latest value.
        params: Name to value.
    """

    name: str
    kind: str
    version: tuple[str, int]
    digest: str
    focus: str
    in_production: bool
    current: bool
    leaky: bool
    source: str
    metrics: dict[str, float]
    params: dict[str, str]

    @property
    def on_patches(self) -> bool:
        """Whether it classifies patches, not admissions."""
        return self.kind != TABULAR


def list_runs(models: Path = MODELS) -> list[RunRow]:
    """List all published runs, oldest first.

    Raises:
        RegistryError: If the store cannot be reached.
    """
    store = open_store()
    with store.locked():
        runs = store.find_runs(CONTENT_TAG)
        production = {s.name: s.production for s in store.read_statuses()}
    held = {digest_file(path) for path in models.glob(f"*/{MANIFEST}")}
    rows = []
    for run in runs:
        tags = run.data.tags
        registered, number = tags.get(REGISTERED_TAG, ""), int(tags.get(VERSION_TAG, 0))
        rows.append(
            RunRow(
                name=run.info.run_name or "",
                kind=tags.get(KIND_TAG, ""),
                version=(registered, number),
                digest=tags[DIGEST_TAG],
                focus=tags.get(FOCUS_TAG, ""),
                in_production=production.get(registered) == number,
                current=tags[DIGEST_TAG] in held,
                leaky=tags.get("histofuse.leaky") == "true",
                source=tags.get("histofuse.source", ""),
                metrics=dict(run.data.metrics),
                params=dict(run.data.params),
            )
        )
    return rows
