"""Registered models by name and digest, for training and serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST, Bundle, open_bundle
from histofuse.core.errors import BundleError, RegistryError
from histofuse.core.progress import report
from histofuse.tracking.names import (
    BUNDLE_FOLDER,
    INTENT_TAG,
    WHEN_TAG,
    ModelStatus,
    Version,
    name_registered,
    redact,
)
from histofuse.tracking.publish import MODELS, ensure_registered, find_version
from histofuse.tracking.store import Store, open_store

PULLED: Final = Path(".histofuse/registry")


def register_bundles(paths: list[Path]) -> dict[str, str]:
    """Register bundles that are not registered yet.

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
    """Pull a bundle from the registry to `pulled`, where they are kept by digest, and verify it.

    A registry that has lost the model gets it back from the bundle in `models`.

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
            report(f"{target} was altered: pulled again")
    store.fetch(version, BUNDLE_FOLDER, target)
    return open_bundle(target, digest=version.digest, row_level=False)


def _restore(registered: str, digest: str, models: Path, store: Store) -> Version:
    held = ""
    for path in sorted(models.glob(f"*/{MANIFEST}")):
        if name_registered(load_json(path)["name"]) == registered:
            bundle = open_bundle(path.parent)
            if bundle.digest == digest:
                report(f"{registered} was not in the registry: published again from {bundle.path}")
                return ensure_registered(bundle, store)
            held = f"; {bundle.path} holds {bundle.digest[:12]}…"
    raise RegistryError(
        f"{registered} with digest {digest} is neither in the registry at {redact(store.uri)} nor "
        f"in {models}/{held}. Run dvc pull or dvc repro publish_encoders, then dvc repro."
    )


@dataclass(frozen=True)
class Listed:
    """A version as ``histofuse registry`` lists it."""

    model: str
    version: int
    digest: str  # of its bundle
    aliases: tuple[str, ...]  # sorted
    stage: str | None
    promoted: str | None  # when it last came into production, in UTC
    in_models: bool  # whether models/ holds the same bundle
    cut_short: bool  # whether a promotion of it was begun and not completed


def list_models(models: Path = MODELS) -> list[Listed]:
    """List all versions with their aliases and stages, by name and number."""
    store = open_store()
    with store.locked():
        versions = store.list_versions()
        statuses = {status.name: status for status in store.read_statuses()}
    held = {digest_file(path) for path in models.glob(f"*/{MANIFEST}")}
    return [_list(version, statuses[version.name], version.digest in held) for version in versions]


def _list(version: Version, status: ModelStatus, held: bool) -> Listed:
    number = version.number
    tags = status.version_tags.get(number, {})
    stage = status.stages.get(number, "None")
    return Listed(
        model=version.name,
        version=number,
        digest=version.digest,
        aliases=tuple(sorted(alias for alias, n in status.aliases.items() if n == number)),
        stage=None if stage == "None" else stage,
        promoted=tags.get(WHEN_TAG),
        in_models=held,
        cut_short=INTENT_TAG in tags,
    )
