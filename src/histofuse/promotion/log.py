"""Log of promotions and rollbacks in a file under git: ``promotions.jsonl``.

A registry can be rebuilt from the data in DVC, but decisions cannot: ``publish`` restores the
aliases of a new registry from this file. Lines are only added, and git merges them line by line.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from histofuse.core.artifacts import parse_json, write_text
from histofuse.core.errors import FaultList
from histofuse.tracking.provenance import PROMOTIONS

LOG: Final = PROMOTIONS
LOCK: Final = Path(".histofuse/promotions.lock")

Event = Literal["promote", "rollback"]


@dataclass(frozen=True)
class Entry:
    """One decision; of a rollback, gate, checks and metrics are those of what it puts back."""

    id: str
    when: str  # UTC, as in 2026-01-31T12:00:00.000000Z: sorts as text
    event: Event
    model: str
    digest: str  # of the bundle in production after the decision
    from_digest: str | None  # of the one before; None for the first
    by: str
    forced: bool  # whether the gate was overridden
    reason: str
    gate: str  # "passed", or the names of the checks that failed
    git_commit: str | None  # None outside git
    git_dirty: bool | None = None  # None in lines of before it was recorded
    # The gate's checks with numbers: name -> value, low, high and the limit.
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Means over classes on the test split: name -> value, low and high.
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    restores: Mapping[str, str] = field(default_factory=dict)  # id, when and by of a promotion


def read_log(path: Path = LOG) -> list[Entry]:
    """Read the decisions, oldest first; empty if there is no file.

    Raises InputError with every invalid line.
    """
    if not path.is_file():
        return []
    entries, faults = [], FaultList()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append(_read_entry(parse_json(line)))
        except (ValueError, TypeError) as error:
            remedy = "Restore the file from git; after a merge conflict, keep both sides."
            faults.add(f"{path}, line {number}", f"{line[:60]!r} ({error})", "a decision", remedy)
    faults.raise_if_any()
    return sorted(entries, key=lambda entry: entry.when)


def _read_entry(values: Any) -> Entry:
    entry = Entry(**values)
    if entry.event not in ("promote", "rollback") or not isinstance(entry.digest, str):
        raise ValueError(f"event {entry.event!r}, digest {entry.digest!r}")
    return entry


def append_entry(entry: Entry, path: Path = LOG, lock: Path = LOCK) -> None:
    """Add a decision unless it is there; the file is replaced atomically."""
    from filelock import FileLock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if any(known.id == entry.id for known in read_log(path)):
            return
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        end = "" if not text or text.endswith("\n") else "\n"
        line = json.dumps(vars(entry), ensure_ascii=False)
        write_text(f"{text}{end}{line}\n", path)


def find_promotion(entries: Sequence[Entry], model: str, digest: str) -> Entry | None:
    """Find the last promotion of a bundle, whose gate let it into production."""
    promotions = (e for e in reversed(entries) if e.event == "promote")
    return next((e for e in promotions if (e.model, e.digest) == (model, digest)), None)


def replay(entries: Sequence[Entry], model: str) -> list[Entry]:
    """List the decisions behind the versions in production one after another, the present last."""
    chain: list[Entry] = []
    for entry in (e for e in entries if e.model == model):
        if entry.event == "rollback":
            chain = _roll_back(chain, entry)
        else:
            chain.append(entry)
    return chain


def _roll_back(chain: list[Entry], entry: Entry) -> list[Entry]:
    """Drop the last decisions until the digest that was returned to is in production."""
    for length in range(len(chain) - 1, 0, -1):
        if chain[length - 1].digest == entry.digest:
            return [*chain[: length - 1], entry]
    return [entry]
