"""Provenance of the page: git, ``dvc.lock``, packages. None of it may enter a DVC output."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import digest_file
from histofuse.tracking.provenance import LOCK, read_revision

_PACKAGES: Final = (
    "histofuse", "captum", "dvc", "mapie", "mlflow", "numpy", "pandas",
    "scikit-learn", "shap", "torch", "torchvision", "xgboost",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Provenance of the page."""

    commit: str | None  # the commit checked out; None outside git
    dirty: bool  # whether files differ from it
    lock_digest: str  # SHA-256 of ``dvc.lock``
    packages: Mapping[str, str]  # package to version


def find_origin(root: Path = Path()) -> Origin:
    """Collect the provenance of the page."""
    revision = read_revision()
    digest = digest_file(root / LOCK)
    packages = {name: _find_version(name) for name in _PACKAGES}
    return Origin(revision.commit, revision.dirty, digest, packages)


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
