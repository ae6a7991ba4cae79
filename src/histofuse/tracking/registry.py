"""Models by name and digest: what training and serving pull, whatever becomes of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST, Bundle, open_bundle
from histofuse.core.errors import BundleError, RegistryError
from histofuse.core.progress import report
from histofuse.tracking.names import BUNDLE_FOLDER, Version, name_registered, redact
from histofuse.tracking.publish import MODELS, ensure_registered, find_version
from histofuse.tracking.store import Store, open_store

PULLED: Final = Path(".histofuse/registry")


def register_bundles(paths: list[Path]) -> dict[str, str]:
    """Make sure that bundles are registered.

    Returns:
        Registered name to bundle digest.

    Raises:
        BundleError: If a bundle does not match its manifest.
        RegistryError: If the store cannot be reached or refuses.
    """
    store = open_store()
    versions = [ensure_registered(open_bundle(path), store) for path in paths]
    return {version.name: version.digest for version in versions}


def pull_bundle(
    registered: str, digest: str, *, models: Path = MODELS, pulled: Path = PULLED
) -> Bundle:
    """Pull a bundle from the registry and verify it.

    A registry that has lost the model gets it back from the bundle that DVC holds.

    Args:
        registered: Name of the registered model, such as ``histofuse-resnet18``.
        digest: Digest of the bundle.
        models: Where DVC keeps bundles.
        pulled: Where pulled bundles are kept, by digest.

    Raises:
        RegistryError: If neither the registry nor `models` holds it.
        BundleError: If what the registry holds does not match the digest.
    """
    store = open_store()
    with store.locked():
        version = find_version(store, registered, digest)
        if version is None:
            version = _restore(registered, digest, models, store)
        return _fetch(version, store, pulled / digest)


def _fetch(version: Version, store: Store, target: Path) -> Bundle:
    if (target / MANIFEST).is_file():
        try:
            return open_bundle(target, digest=version.digest, row_level=False)
        except BundleError:
            report(f"{target} was altered: pulled anew")
    store.fetch(version, BUNDLE_FOLDER, target)
    return open_bundle(target, digest=version.digest, row_level=False)


def _restore(registered: str, digest: str, models: Path, store: Store) -> Version:
    for path in sorted(models.glob(f"*/{MANIFEST}")):
        if name_registered(load_json(path)["name"]) != registered:
            continue
        bundle = open_bundle(path.parent)
        if bundle.digest == digest:
            report(f"{registered} was not in the registry: published again from {bundle.path}")
            return ensure_registered(bundle, store)
        found = f"; {bundle.path} holds {bundle.digest[:12]}…"
        raise _missing(registered, digest, models, store, found)
    raise _missing(registered, digest, models, store, "")


def _missing(registered: str, digest: str, models: Path, store: Store, found: str) -> RegistryError:
    return RegistryError(
        f"{registered} with digest {digest} is neither in the registry at {redact(store.uri)} nor "
        f"in {models}/{found}. Run dvc pull or dvc repro publish_encoders, then dvc repro."
    )


def list_models(models: Path = MODELS) -> list[str]:
    """Table all versions: name, number, digest, and a star where `models` holds the same bundle."""
    store = open_store()
    with store.locked():
        versions = store.list_versions()
    if not versions:
        return [f"no models at {redact(store.uri)}; dvc repro or histofuse publish brings them"]
    held = {digest_file(path) for path in models.glob(f"*/{MANIFEST}")}
    width = max(len(v.name) for v in versions)
    return [
        f"{'*' if v.digest in held else ' '} {v.name:<{width}}  {v.number:>3}  {v.digest}"
        for v in versions
    ]
