"""``histofuse registry``: the registered versions, and which one is in production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from histofuse.core.artifacts import to_json
from histofuse.tracking.connection import name_store
from histofuse.tracking.names import redact
from histofuse.tracking.registry import Listed, list_models

_HEADER = ("", "model", "version", "digest", "aliases", "stage", "promoted (UTC)")


def describe_registry(*, as_json: bool = False) -> list[str]:
    """List all versions as a table or as JSON; a star marks the bundles that ``models/`` contains.

    Raises:
        RegistryError: If the registry cannot be reached.
    """
    listed = list_models()
    if as_json:
        return [to_json([asdict(one) for one in listed]).rstrip("\n")]
    if not listed:
        where = redact(name_store())
        return [f"no models at {where}; run dvc repro or histofuse publish"]
    lines = _align([_HEADER, *(_to_row(one) for one in listed)])
    return lines + [
        f"! a promotion of {one.model} to version {one.version} was interrupted; "
        "run histofuse publish to complete it"
        for one in listed
        if one.cut_short
    ]


def _to_row(one: Listed) -> tuple[str, ...]:
    return (
        "*" if one.in_models else "",
        one.model,
        str(one.version),
        one.digest[:12],
        ", ".join(one.aliases),
        one.stage or "",
        (one.promoted or "")[:19].replace("T", " "),
    )


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
