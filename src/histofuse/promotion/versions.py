"""Choosing the registered version to promote, and finding the one in production."""

from collections.abc import Sequence
from pathlib import Path

from histofuse.core.artifacts import digest_file
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import InputError
from histofuse.tracking.names import (
    DIGEST_TAG,
    FILES_TAG,
    SHOWN_DIGITS,
    ModelStatus,
    Version,
    name_registered,
    redact,
)
from histofuse.tracking.publish import MODELS, find_in_models
from histofuse.tracking.store import Store


def choose_version(
    store: Store,
    model: str,
    primary_rule: str,
    models: Path = MODELS,
    *,
    version: int | None = None,
    digest: str | None = None,
) -> Version:
    """Choose the version with a number or first digits, else the one in `models`, else the latest.

    Raises InputError if there is none, or several match the digest.
    """
    name = find_name(model, store, primary_rule)
    candidates = store.list_versions(name)
    if version is not None or digest is not None:
        return _find_chosen(candidates, version, digest)
    path = find_in_models(models, name, primary_rule)
    if path is None:
        return candidates[-1]
    current = digest_file(path / MANIFEST)
    held = [v for v in candidates if v.digest == current]
    if not held:
        problem = f"holds {name} {current[:SHOWN_DIGITS]}, which is not in the registry"
        remedy = "Run histofuse publish, or name a version: --version N."
        raise InputError.of(models, problem, _list(candidates), remedy)
    return held[0]


def find_name(model: str, store: Store, primary_rule: str) -> str:
    """Find the registered model by its name, with or without its prefix.

    Raises InputError if there is none.
    """
    registered = {v.name for v in store.list_versions()}
    for name in (model, name_registered(model, primary_rule)):
        if name in registered:
            return name
    names = ", ".join(sorted(registered))
    expected = f"one of: {names}" if names else "a registered model"
    remedy = "" if names else "Run dvc repro or histofuse publish."
    where = f"the registry at {redact(store.uri)}"
    raise InputError.of(where, f"no model {model!r}", expected, remedy)


def _find_chosen(candidates: Sequence[Version], version: int | None, digest: str | None) -> Version:
    prefix = (digest or "").lower()
    matches = [v for v in candidates if version in (None, v.number) and v.digest.startswith(prefix)]
    if len(matches) == 1:
        return matches[0]
    parts = {"version": version, "digest": digest}
    given = " and ".join(f"{key} {value}" for key, value in parts.items() if value is not None)
    problem = f"{given} matches {_list(matches)}" if matches else f"no {given}"
    remedy = "Give more digits, or the version." if matches else ""
    raise InputError.of(candidates[0].name, problem, f"one of {_list(candidates)}", remedy)


def _list(versions: Sequence[Version]) -> str:
    return ", ".join(v.short for v in versions)


def find_production(store: Store, status: ModelStatus) -> Version | None:
    """Find the version in production, even if its files are missing."""
    number = status.production
    if number is None:
        return None
    for version in store.list_versions(status.name):
        if version.number == number:
            return version
    tags = status.version_tags.get(number, {})
    digest, files = tags.get(DIGEST_TAG, ""), tags.get(FILES_TAG)
    return Version(status.name, number, digest, run_id="", source="", content=None, files=files)
