"""``histofuse registry`` and ``verify``: the registered versions, and whether they are intact."""

from collections.abc import Sequence
from dataclasses import asdict

from histofuse.core.artifacts import to_json
from histofuse.tracking.connection import name_store
from histofuse.tracking.names import redact
from histofuse.tracking.registry import Listed, find_at, list_models, name_address
from histofuse.tracking.store import open_store
from histofuse.tracking.verification import verify

_HEADER = ("", "model", "version", "digest", "aliases", "stage", "promoted (UTC)")


def describe_registry(*, as_json: bool = False) -> list[str]:
    """List all versions as a table or as JSON; a star marks the bundles of ``models/``."""
    listed = list_models()
    if as_json:
        return [to_json([asdict(one) for one in listed]).rstrip("\n")]
    if not listed:
        where = redact(name_store())
        return [f"no models at {where}; run dvc repro or histofuse publish"]
    lines = align([_HEADER, *(_to_row(one) for one in listed)])
    interrupted = [
        f"! a promotion of {one.model} to version {one.version} was interrupted; "
        "run histofuse publish to complete it"
        for one in listed
        if one.cut_short
    ]
    altered = [
        f"! {one.model} version {one.version} was altered: {one.altered}. It is not loaded."
        for one in listed
        if one.altered
    ]
    return lines + interrupted + altered


def verify_model(model: str) -> list[str]:
    """Compare all files of a version with what was registered."""
    store = open_store()
    return verify(find_at(name_address(model), store), store)


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


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad the cells of each column to one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
