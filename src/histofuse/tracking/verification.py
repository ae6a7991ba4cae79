"""Whether the files of a registered version are those that were registered.

Tags of the version record the digest of its bundle and that of all its files. What the registry
holds is compared with them before anything of it is read, and no code of it is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from histofuse.core.bundle import Bundle, open_bundle
from histofuse.core.errors import BundleError
from histofuse.tracking.names import MODEL_FOLDER, SCRATCH, Version
from histofuse.tracking.packaging import COMPILED, digest_files
from histofuse.tracking.store import Store

ARTIFACTS: Final = "artifacts"  # folder of a registered model, with the two below
BUNDLE: Final = "bundle"
ENCODERS: Final = "encoders"


def check_copy(version: Version, folder: Path) -> Bundle:
    """Compare a copy of a version's files with the digests of its tags; return its bundle.

    The digests of encoders are in the bundle's config. A version from before the digest of all its
    files was recorded is compared by the digests of its bundles only. Raises BundleError if the
    version is not what was registered.
    """
    with explaining(version):
        bundle = open_bundle(folder / ARTIFACTS / BUNDLE, digest=version.digest, row_level=False)
        for side, encoder in bundle.config.get("encoders", {}).items():
            path = folder / ARTIFACTS / ENCODERS / side
            open_bundle(path, digest=encoder["digest"], row_level=False)
        if version.files not in {None, digest_files(folder)}:
            raise BundleError("files next to its bundle, such as MLmodel or model.py, were changed")
    return bundle


@contextmanager
def explaining(version: Version) -> Iterator[None]:
    """Name the version, and what to do, where a bundle of it is found to be altered."""
    try:
        yield
    except BundleError as error:
        raise BundleError(
            f"{version} was altered in the registry: {'; '.join(error.faults)}. Nothing of it was "
            "loaded. Use another version; or delete this one in MLflow, and histofuse publish "
            "registers it again from models/.",
            error.faults,
        ) from None


def check_version(version: Version, store: Store) -> None:
    """Compare all files of a version with the digests of its tags; BundleError if they differ."""
    if store.database is not None:
        check_copy(version, Path(version.source))
        return
    with TemporaryDirectory(prefix=SCRATCH) as scratch:
        store.fetch(version, MODEL_FOLDER, Path(scratch) / MODEL_FOLDER)
        check_copy(version, Path(scratch) / MODEL_FOLDER)


def verify(version: Version, store: Store) -> list[str]:
    """Compare all files of a version with what was registered, and say what was compared.

    Raises BundleError if the version is not what was registered, or that was not recorded.
    """
    if version.files is None:
        raise BundleError(
            f"{version}: the digest of its files was not recorded when it was registered. "
            "histofuse publish records it for the models in models/."
        )
    with TemporaryDirectory(prefix=SCRATCH) as scratch:
        folder = Path(scratch) / MODEL_FOLDER
        store.fetch(version, MODEL_FOLDER, folder)
        encoders = check_copy(version, folder).config.get("encoders", {})
        count = sum(path.is_file() for path in folder.rglob("*"))
        if compiled := [p.relative_to(folder) for p in folder.rglob(COMPILED)]:
            raise BundleError(
                f"{version}: {compiled[0]} holds compiled code, which Python may run in place of "
                "model.py. Loading the model from a local store writes it: delete it there."
            )
    return [
        f"{version}: its {count} files are those that were registered",
        f"bundle {version.digest}",
        *(f"encoder {side} {encoder['digest']}" for side, encoder in encoders.items()),
    ]
