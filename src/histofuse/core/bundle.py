"""A bundle: one folder that is one model, named everywhere by the digest of its manifest.

``manifest.json`` lists the SHA-256 of each file. No file of a bundle is a pickle.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histofuse.core.artifacts import digest_file, load_json, replacing_folder, to_json
from histofuse.core.errors import BundleError

MANIFEST = "manifest.json"
CONFIG = "config.json"
HISTORY = "history.csv"
PREDICTIONS = "predictions.parquet"
WEIGHTS = "weights.safetensors"
# Files with one row per patient or patch. Copies leave them out where patient data may not be
# shared; the digest still names the whole bundle.
ROW_LEVEL = frozenset({PREDICTIONS})


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path  # its folder
    name: str  # the model's name, such as resnet18
    digest: str  # SHA-256 of its manifest, 64 hex digits
    files: dict[str, str]  # file name to SHA-256

    @property
    def config(self) -> dict[str, Any]:
        """The model's ``config.json``: kind, classes, architecture and params."""
        return load_json(self.path / CONFIG)

    def require_kind(self, kind: str) -> dict[str, Any]:
        """Return its config; BundleError, which names no path of a copy, if of another kind."""
        config = self.config
        if (held := config.get("kind")) != kind:
            of = f"{self.name} ({self.digest[:12]})"
            raise BundleError(f"{of}: is a model of kind {held!r}, expected {kind}")
        return config


@contextmanager
def writing_bundle(path: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder to fill; seal it with a manifest and rename it to `path`."""
    with replacing_folder(path) as folder:
        yield folder
        files = {f.relative_to(folder).as_posix(): digest_file(f) for f in _files_of(folder)}
        manifest = to_json({"format": 1, "name": name, "files": files})
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")


def open_bundle(path: Path, *, digest: str | None = None, row_level: bool = True) -> Bundle:
    """Open a bundle after checking each file against the manifest.

    `digest` is the one it must have, if known. A copy without row-level files needs `row_level`
    False. Raises BundleError listing each file that is missing, altered or unknown, and a wrong
    digest.
    """
    if not (path / MANIFEST).is_file():
        message = f"{path}: no {MANIFEST}; expected a bundle. Run dvc repro or dvc pull."
        raise BundleError(message, [f"{MANIFEST} is missing"])
    actual = digest_file(path / MANIFEST)
    if digest is not None and actual != digest:  # nothing of it is read
        raise _refuse(path, [f"its digest is {actual}, expected {digest}"])
    name, files = _read_manifest(path)
    faults = _find_mismatches(path, files, row_level=row_level)
    if faults:
        raise _refuse(path, faults)
    return Bundle(path, name, actual, files)


def list_bundles(models: Path) -> list[Path]:
    """List the bundles below a folder of models, also in ``patients``, by path."""
    return sorted(path.parent for path in models.rglob(MANIFEST))


def _refuse(path: Path, faults: list[str]) -> BundleError:
    message = (
        f"{path}: the bundle does not match its manifest: {'; '.join(faults)}. "
        "Restore it with dvc checkout --force, or train it again with dvc repro."
    )
    return BundleError(message, faults)


def _read_manifest(path: Path) -> tuple[str, dict[str, str]]:
    match load_json(path / MANIFEST):
        case {"name": str(name), "files": dict(files)}:
            return name, files
        case _:
            raise _refuse(path, [f"{MANIFEST} does not name the model and its files"])


def _find_mismatches(path: Path, files: dict[str, str], *, row_level: bool) -> list[str]:
    optional = frozenset() if row_level else ROW_LEVEL
    present = {f.relative_to(path).as_posix() for f in _files_of(path)} - {MANIFEST}
    faults = [f"{name} is missing" for name in files if name not in present | optional]
    faults += [f"{name} is not in the manifest" for name in sorted(present - files.keys())]
    for name in sorted(present & files.keys()):
        if (found := digest_file(path / name)) != files[name]:
            faults.append(f"{name} has sha256 {found[:12]}…, expected {files[name][:12]}…")
    return faults


def _files_of(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())
