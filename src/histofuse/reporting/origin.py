"""Provenance of the page: git, ``dvc.lock``, packages. None of it may enter a DVC output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import digest_file
from histofuse.tracking.provenance import LOCK, read_revision

_PACKAGES: Final = (
    "histofuse",
    "captum",
    "dvc",
    "fairlearn",
    "lightning",
    "mapie",
    "mlflow",
    "numpy",
    "pandas",
    "scikit-learn",
    "shap",
    "torch",
    "torchvision",
    "xgboost",
)


@dataclass(frozen=True)
class Origin:
    """Provenance of the page.

    Attributes:
        commit: The commit checked out; None outside git.
        dirty: Whether files differ from it.
        lock_digest: SHA-256 of ``dvc.lock``.
        packages: Package to version.
    """

    commit: str | None
    dirty: bool
    lock_digest: str
    packages: Mapping[str, str]


def find_origin(root: Path = Path()) -> Origin:
    """Collect the provenance of the page."""
    revision = read_revision()
    digest = digest_file(root / LOCK)
    return Origin(revision.commit, revision.dirty, digest, dict(_list_versions()))


def _list_versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return found
