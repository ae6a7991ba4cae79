"""Registered models by name, address and digest, for training and serving."""

import re
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from histofuse.core.artifacts import digest_file, load_json, replacing_folder, write_json
from histofuse.core.bundle import MANIFEST, Bundle, list_bundles, open_bundle
from histofuse.core.errors import BundleError, InputError, RegistryError
from histofuse.core.progress import report
from histofuse.tracking import names
from histofuse.tracking.names import ModelStatus, Version, name_registered, redact
from histofuse.tracking.publish import MODELS, ensure_registered, find_in_models, find_version
from histofuse.tracking.store import Store, open_store
from histofuse.tracking.verification import check_copy, check_version, explaining

PULLED: Final = Path(".histofuse/registry")
REGISTRY_LOCK: Final = Path("registry.lock.json")  # the encoders, as `publish_encoders` found them
_ADDRESS: Final = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<place>[^/@]+))")


def register_bundles(paths: list[Path]) -> dict[str, str]:
    """Register bundles that are not registered yet; return each registered name and digest."""
    store = open_store()
    versions = [ensure_registered(open_bundle(path), store) for path in paths]
    return {version.name: version.digest for version in versions}


def pull_bundle(
    registered: str, digest: str, *, models: Path = MODELS, pulled: Path = PULLED
) -> Bundle:
    """Pull a bundle from the registry unless `pulled`, which keeps them by digest, has it intact.

    A registry that has lost the model gets it back from the bundle in `models`. Raises
    RegistryError if neither the registry nor `models` holds it; BundleError if what the registry
    holds does not match the digest.
    """
    store = open_store()
    with store.locked(), TemporaryDirectory(prefix=names.SCRATCH) as scratch:
        version = find_version(store, registered, digest)
        if version is None:
            version = _restore(registered, digest, models, store)
        if (kept := _open_kept(pulled / digest, digest)) is not None:
            return kept
        folder = Path(scratch) / "bundle"
        store.fetch(version, names.BUNDLE_FOLDER, folder)
        with explaining(version):
            open_bundle(folder, digest=digest, row_level=False)
        pulled.mkdir(parents=True, exist_ok=True)
        pulled.chmod(0o700)
        with replacing_folder(pulled / digest) as target:
            shutil.copytree(folder, target, dirs_exist_ok=True)
    return open_bundle(pulled / digest, row_level=False)


def pull_encoder(name: str, lock: Path = REGISTRY_LOCK) -> Bundle:
    """Pull the encoder of a name in params.yaml, of the digest that ``publish_encoders`` wrote.

    Raises InputError if the lock is missing or does not name the encoder; others as `pull_bundle`.
    """
    digests, registered = load_json(lock), name_registered(name)
    if registered not in digests:
        raise InputError.of(lock, f"no {registered}", f"the encoder {name}", "Run dvc repro.")
    return pull_bundle(registered, digests[registered])


def fetch_model(model: str, store: Store, scratch: Path) -> Path:
    """Copy a registered model to `scratch`, in MLflow's layout, and verify it.

    `model` is a name, which stands for the version in production, or a ``models:/…`` address.
    Raises BundleError if it is not what was registered; RegistryError if there is none, or the
    registry cannot be read.
    """
    version, folder = find_at(name_address(model), store), scratch / names.MODEL_FOLDER
    store.fetch(version, names.MODEL_FOLDER, folder)
    check_copy(version, folder)
    # As MLflow does, for answers to name it.
    write_json(
        {"model_name": version.name, "model_version": version.number}, folder / names.VERSION_FILE
    )
    return folder


def _open_kept(path: Path, digest: str) -> Bundle | None:
    """Open a bundle that was pulled before; None if there is none, or it was altered."""
    if not (path / MANIFEST).is_file():
        return None
    try:
        return open_bundle(path, digest=digest, row_level=False)
    except BundleError:
        report(f"{path} was altered: pulled again")
        return None


def _restore(registered: str, digest: str, models: Path, store: Store) -> Version:
    held = ""
    if path := find_in_models(models, registered):
        bundle = open_bundle(path)
        if bundle.digest == digest:
            report(f"{registered} was not in the registry: published again from {path}")
            return ensure_registered(bundle, store)
        held = f"; {path} holds {bundle.digest[:12]}…"
    raise RegistryError(
        f"{registered} with digest {digest} is neither in the registry at {redact(store.uri)} nor "
        f"in {models}/{held}. Run dvc pull or dvc repro publish_encoders, then dvc repro."
    )


def name_address(model: str) -> str:
    """Name where a model lies: "fusion" -> "models:/histofuse-fusion@production"."""
    if "/" in model:
        return model
    name = (
        model if model.startswith(names.REGISTERED_PREFIX) else f"{names.REGISTERED_PREFIX}{model}"
    )
    return f"models:/{name}" if "@" in name else f"models:/{name}@{names.PRODUCTION}"


def find_at(address: str, store: Store) -> Version:
    """Find the version at a ``models:/…`` address; RegistryError if its files are not there."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        expected = "models:/NAME/VERSION, models:/NAME/STAGE or models:/NAME@ALIAS"
        if (Path(address) / MANIFEST).is_file():
            expected = f"a registered model, not a folder: its name, or {expected}"
        else:
            expected += ", or the folder of a bundle"
        raise RegistryError(f"{address}: expected {expected}")
    with store.locked():
        statuses = {status.name: status for status in store.read_statuses()}
        versions = store.list_versions(match["name"])
    status = statuses.get(match["name"])
    alias, place = match["alias"], match["place"] or ""
    number = None if status is None else _find_number(status, alias, place)
    for version in versions:
        if version.number == number:
            return version
    held = ", ".join(map(str, versions)) or "no version of that name"
    if not versions and (
        near := get_close_matches(match["name"], statuses.keys() - {match["name"]})
    ):
        held += f", but {', '.join(near)}"
    if versions and alias == names.PRODUCTION:
        raise RegistryError(
            f"{address}: no version is in production; the registry at {redact(store.uri)} has: "
            f"{held}. Put one there: histofuse promote {match['name']}"
        )
    raise RegistryError(f"{address} is not in the registry at {redact(store.uri)}; it has: {held}")


def _find_number(status: ModelStatus, alias: str | None, place: str) -> int | None:
    if alias is not None:
        return status.production if alias == names.PRODUCTION else status.aliases.get(alias)
    if place.isdigit():
        return int(place)
    staged = (n for n, stage in status.stages.items() if place in {stage, "latest"})
    return max(staged, default=None)


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
    altered: str  # how its files differ from what was registered; empty if they do not


def list_models(models: Path = MODELS) -> list[Listed]:
    """List all versions with their aliases and stages, by name and number.

    Of versions on a server that are not in production only the manifest is compared with what was
    registered; the others would have to be downloaded.
    """
    store = open_store()
    with store.locked():
        versions = store.list_versions()
        statuses = {status.name: status for status in store.read_statuses()}
    held = {digest_file(path / MANIFEST) for path in list_bundles(models)}
    return [_list(v, statuses[v.name], store, in_models=v.digest in held) for v in versions]


def _find_alteration(version: Version, status: ModelStatus, store: Store) -> str:
    whole = store.database is not None or status.production == version.number
    try:
        if whole:
            check_version(version, store)
        elif store.digest_remote(version, f"{names.BUNDLE_FOLDER}/{MANIFEST}") != version.digest:
            return f"{MANIFEST} has another digest"
    except BundleError as error:
        return "; ".join(error.faults)
    except RegistryError as error:
        return str(error)
    return ""


def _list(version: Version, status: ModelStatus, store: Store, *, in_models: bool) -> Listed:
    number = version.number
    tags = status.version_tags.get(number, {})
    stage = status.stages.get(number, "None")
    return Listed(
        model=version.name,
        version=number,
        digest=version.digest,
        aliases=tuple(sorted(alias for alias, n in status.aliases.items() if n == number)),
        stage=None if stage == "None" else stage,
        promoted=tags.get(names.WHEN_TAG),
        in_models=in_models,
        cut_short=names.INTENT_TAG in tags,
        altered=_find_alteration(version, status, store),
    )
