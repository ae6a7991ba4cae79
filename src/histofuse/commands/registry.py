"""``histofuse registry``: which versions there are, and which is in production."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from histofuse.core.artifacts import to_json
from histofuse.tracking.connection import name_store
from histofuse.tracking.names import redact
from histofuse.tracking.registry import Listed, list_models

_HEADER = ("", "model", "version", "digest", "aliases", "stage", "promoted (UTC)")


def describe_registry(*, as_json: bool = False) -> list[str]:
    """Table all versions, a star where ``models/`` holds the same bundle; or list them as JSON.

    Raises:
        RegistryError: If the registry cannot be reached.
    """
    listed = list_models()
    if as_json:
        return [to_json([_to_dict(one) for one in listed]).rstrip("\n")]
    if not listed:
        where = redact(name_store())
        return [f"no models at {where}; dvc repro or histofuse publish brings them"]
    lines = _align([_HEADER, *(_to_row(one) for one in listed)])
    return [*lines, *(_warn(one) for one in listed if one.cut_short)]


def _to_row(one: Listed) -> tuple[str, ...]:
    version = one.version
    return (
        "*" if one.held else "",
        version.name,
        str(version.number),
        version.digest[:12],
        ", ".join(one.aliases),
        one.stage,
        one.promoted[:19].replace("T", " "),
    )


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _warn(one: Listed) -> str:
    return (
        f"! a promotion of {one.version.name} to version {one.version.number} was cut short; "
        "histofuse publish completes it"
    )


def _to_dict(one: Listed) -> dict[str, Any]:
    return {
        "model": one.version.name,
        "version": one.version.number,
        "digest": one.version.digest,
        "aliases": list(one.aliases),
        "stage": one.stage or None,
        "promoted": one.promoted or None,
        "in_models": one.held,
        "cut_short": one.cut_short,
    }
