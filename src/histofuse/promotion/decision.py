"""Promotion and rollback of versions, each recorded.

A promotion changes the alias ``production``, the stages while MLflow has them, the list of versions
that were in production, tags, an audit record and the log under git, and no store changes them all
at once. So the whole decision is first written as the tag `INTENT_TAG` of the version, then carried
out in idempotent steps, and then the tag is removed. If the process is killed on the way, the next
promotion, rollback or ``publish`` completes it. Until then alias and stage may differ.

An alias moved by hand in MLflow counts: the version it points to is in production.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Final
from uuid import uuid4

from histofuse.core.artifacts import digest_file, parse_json, to_json
from histofuse.core.errors import BundleError, RegistryError
from histofuse.core.naming import show_interval
from histofuse.core.processes import name_user
from histofuse.core.progress import report
from histofuse.promotion.log import (
    LOG,
    Entry,
    Event,
    append_entry,
    find_promotion,
    read_log,
    replay,
)
from histofuse.tracking.lease import Confirm, holding
from histofuse.tracking.names import (
    CHAIN_TAG,
    INTENT_TAG,
    PRODUCTION,
    PRODUCTION_STAGE,
    PROMOTION,
    SHOWN_DIGITS,
    ModelStatus,
    Version,
)
from histofuse.tracking.provenance import LOCK, read_revision
from histofuse.tracking.store import Store
from histofuse.tracking.verification import check_version

RECORDS: Final = "promotion"  # folder of a run's artifacts
LONGEST_CHAIN: Final = 200  # so that the tag stays within the 5,000 characters MLflow takes


@dataclass(frozen=True)
class Grounds:
    """Why a version goes into production."""

    reason: str = ""  # in words; empty if none was given
    forced: bool = False  # whether the gate was overridden
    checks: Sequence[Mapping[str, Any]] = ()  # the gate's: name, passed and detail of each
    # On the test split: name -> value, low and high, None if undefined.
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)  # of the data that the gate used

    @property
    def gate(self) -> str:
        """``passed``, or the names of the checks that failed; empty if there were none."""
        failed = ", ".join(str(check["name"]) for check in self.checks if not check["passed"])
        return failed or ("passed" if self.checks else "")


@dataclass(frozen=True)
class Record:
    """The audit record of one decision, in full."""

    entry: Entry  # its line in the log under git
    version: int  # in production after the decision
    from_version: int | None  # the one before; None for the first
    chain: list[int]  # the versions in production one after another, this one last
    run_id: str
    grounds: Grounds
    dvc_lock: str | None  # digest of dvc.lock; None if there is none
    git_dirty: bool  # whether the sources differed from the commit

    def to_json(self) -> str:
        """Render for the tag and the artifact."""
        return to_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read what `to_json` rendered."""
        values = parse_json(text)
        entry, grounds = Entry(**values.pop("entry")), Grounds(**values.pop("grounds"))
        return cls(entry=entry, grounds=grounds, **values)

    @property
    def target(self) -> str:
        """What is in production after it: digest and version."""
        return _show_version(self.entry.digest, self.version)

    @property
    def source(self) -> str | None:
        """What was in production before it; None for the first."""
        before = self.from_version
        return None if before is None else _show_version(self.entry.from_digest, before)

    @property
    def artifact(self) -> str:
        """Its path among the artifacts of the run, different for each decision."""
        moment = re.sub(r"[-:.]", "", self.entry.when)
        return f"{RECORDS}/{moment}-{self.entry.event}.json"


@dataclass(frozen=True)
class Production:
    """What is in production in one registry, and the log under git."""

    store: Store
    log: Path = LOG

    def promote(self, target: Version, seen: int | None, grounds: Grounds) -> Record | None:
        """Put a version into production; None if it is there already.

        `seen` is the version that was in production when the decision was made. Raises
        RegistryError if another version was put into production since the decision was made, or the
        store fails; the next call then completes the promotion.
        """
        with holding(self.store, target.name) as confirm:
            before = self._mend(target.name)
            if before.production == target.number:
                return None
            if before.production != seen:
                raise RegistryError(
                    f"{target.name}: {_show(before.production)} was put into production while "
                    f"{_show(seen)} was being compared with; nothing was changed. Run it again."
                )
            chain = [*read_chain(before), target.number]
            record = _make_record(self.store, "promote", target, before.production, chain, grounds)
            return self._decide(record, confirm)

    def rollback(self, name: str, reason: str = "") -> Record:
        """Return to the version that was in production before.

        Raises RegistryError if there was none before, or its files are missing or altered.
        """
        with holding(self.store, name) as confirm:
            before, entries = self._mend(name), read_log(self.log)
            earlier = self._find_earlier(before, replay(entries, name))
            target = _require_whole(self.store, name, earlier[-1])
            record = _make_record(
                self.store,
                "rollback",
                target,
                before.production,
                earlier,
                Grounds(reason=reason),
                find_promotion(entries, name, target.digest),
            )
            return self._decide(record, confirm)

    def _find_earlier(self, status: ModelStatus, logged: Sequence[Entry]) -> list[int]:
        """Find the versions in production before the one that is.

        By the log, which a clone has whole, if it ends with that one; else by the registry.
        """
        name, current, chain = status.name, status.production, read_chain(status)
        held = {v.digest: v.number for v in self.store.list_versions(name)}
        if len(logged) > 1 and held.get(logged[-1].digest) == current is not None:
            if logged[-2].digest not in held:
                raise RegistryError(f"{name}: {_explain_missing(logged[-2])}")
            return [held[e.digest] for e in logged[:-1] if e.digest in held]
        earlier = chain if current is None else chain[:-1]
        if not earlier:
            raise RegistryError(_explain_no_earlier(name, current))
        return earlier

    def read(self, name: str) -> ModelStatus:
        """Read the status of a model's versions, after completing an interrupted promotion."""
        status = self.store.read_status(name)
        if not status.cut_short:
            return status
        with holding(self.store, name):
            return self._mend(name)

    def mend_all(self) -> None:
        """Complete interrupted promotions, and restore production in a new registry from the log.

        Reads a local store without MLflow.
        """
        entries = read_log(self.log)
        statuses = {status.name: status for status in self.store.read_statuses()}
        for name, status in statuses.items():
            if status.cut_short:
                self.read(name)
        for name in sorted({entry.model for entry in entries} & statuses.keys()):
            if not statuses[name].decided:
                with holding(self.store, name):
                    _restore(self.store, name, replay(entries, name))

    def _decide(self, record: Record, confirm: Confirm) -> Record:
        confirm()
        # The decision: what follows only carries it out.
        intent = {INTENT_TAG: record.to_json()}
        self.store.tag_version(record.entry.model, record.version, intent)
        self._carry_out(record)
        return record

    def _carry_out(self, record: Record) -> None:
        """Carry out a decision; every step is idempotent."""
        store, name, number = self.store, record.entry.model, record.version
        store.set_alias(name, PRODUCTION, number)
        staged = store.put_in_production_stage(name, number)
        store.tag_model(name, CHAIN_TAG, _join(record.chain))
        store.tag_version(name, number, _describe(record))
        if record.from_version not in (None, number):
            ended = {"until": record.entry.when, "replaced_by": record.target}
            store.tag_version(name, record.from_version, _prefixed(ended))
        store.log_text(record.run_id, record.to_json(), record.artifact)
        append_entry(record.entry, self.log)
        store.untag_version(name, number, INTENT_TAG)
        _verify(store, record, staged=staged)

    def _mend(self, name: str) -> ModelStatus:
        """Complete what a killed process had decided, and return the status; needs the lease."""
        status = self.store.read_status(name)
        texts = [tags[INTENT_TAG] for tags in status.version_tags.values() if INTENT_TAG in tags]
        records = sorted((Record.from_json(text) for text in texts), key=lambda r: r.entry.when)
        for record in records:
            report(f"{name}: completing the {record.entry.event} of version {record.version}")
            self._carry_out(record)
        return self.store.read_status(name) if records else status


def _explain_no_earlier(name: str, current: int | None) -> str:
    if current is None:
        remedy = f"Put one there: histofuse promote {quote(name)}"
        return f"{name}: no version was ever in production. {remedy}"
    return (
        f"{name}: version {current} is the first in production, there is no earlier one to return "
        "to. Choose one: histofuse registry lists them, "
        f"histofuse promote {quote(name)} --version N."
    )


def _require_whole(store: Store, name: str, number: int) -> Version:
    """Find a version and verify its files."""
    found = [v for v in store.list_versions(name) if v.number == number]
    remedy = f"Choose another: histofuse promote {quote(name)} --version N."
    if not found:
        raise RegistryError(
            f"{name}: version {number}, which was in production before, or its files are no longer "
            f"in the registry. {remedy}"
        )
    try:
        check_version(found[0], store)
    except BundleError as error:
        raise RegistryError(
            f"{name}: version {number}, which was in production before, was altered in the "
            f"registry: {'; '.join(error.faults)}. {remedy}"
        ) from None
    return found[0]


def read_chain(status: ModelStatus) -> list[int]:
    """Read the versions that were in production one after another; the last one is, if any is."""
    chain = [int(number) for number in status.tags.get(CHAIN_TAG, "").split(",") if number]
    current = status.production
    # The alias was moved by hand, or before the list was kept.
    return chain if current is None or chain[-1:] == [current] else [*chain, current]


def _make_record(  # noqa: PLR0917
    store: Store,
    event: Event,
    target: Version,
    current: int | None,
    chain: Sequence[int],
    grounds: Grounds,
    restored: Entry | None = None,
) -> Record:
    revision = read_revision()
    digests = {v.number: v.digest for v in store.list_versions(target.name)}
    entry = Entry(
        id=uuid4().hex,
        when=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        event=event,
        model=target.name,
        digest=target.digest,
        from_digest=None if current is None else digests.get(current),
        by=name_user(),
        forced=grounds.forced,
        reason=grounds.reason,
        gate=restored.gate if restored else grounds.gate,
        git_commit=revision.commit,
        git_dirty=revision.dirty,
        checks=restored.checks if restored else _select_numbers(grounds.checks),
        # Means over classes; the artifact has the other metrics.
        metrics=restored.metrics
        if restored
        else {name: m for name, m in grounds.metrics.items() if name.endswith("/macro")},
        restores={k: getattr(restored, k) for k in ("id", "when", "by")} if restored else {},
    )
    return Record(
        entry=entry,
        version=target.number,
        from_version=current,
        chain=list(chain[-LONGEST_CHAIN:]),
        run_id=target.run_id,
        grounds=grounds,
        dvc_lock=digest_file(LOCK) if LOCK.is_file() else None,
        git_dirty=revision.dirty,
    )


def _select_numbers(checks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Select what the gate measured and the limits it compared with, for the log."""
    kept = ("value", "low", "high", "limit", "new", "production", "encoder", "alone", "margin")
    return {
        str(check["name"]): {"passed": check["passed"]}
        | {key: check["numbers"][key] for key in kept if key in check["numbers"]}
        for check in checks
        if "value" in check.get("numbers", {})
    }


def _show(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"


def _join(chain: Sequence[int]) -> str:
    return ",".join(map(str, chain[-LONGEST_CHAIN:]))


def _show_version(digest: str | None, number: int) -> str:
    return f"{(digest or 'unknown')[:SHOWN_DIGITS]} (version {number})"


def _describe(record: Record) -> dict[str, str]:
    """Describe a decision as tags of the version that it put into production."""
    digests = {f"digest.{name}": digest for name, digest in record.grounds.digests.items()}
    more = {"from": record.source or "nothing", "record": record.artifact}
    more |= {"dvc_lock": record.dvc_lock or "", **digests}
    return _describe_entry(record.entry) | _prefixed(more)


def _describe_entry(entry: Entry) -> dict[str, str]:
    return _prefixed(
        {
            "event": entry.event,
            "when": entry.when,
            "until": "",
            "replaced_by": "",
            "by": entry.by,
            "reason": entry.reason,
            "forced": str(entry.forced).lower(),
            "gate": entry.gate,
            "git_commit": entry.git_commit or "",
            "git_dirty": "" if entry.git_dirty is None else str(entry.git_dirty).lower(),
            "metrics": _show_metrics(entry.metrics),
            "restores": "{when} by {by}".format_map(entry.restores) if entry.restores else "",
        }
    )


def _show_metrics(metrics: Mapping[str, Mapping[str, float | None]]) -> str:
    shown = {
        name: "undefined" if m["value"] is None else show_interval(m["value"], m["low"], m["high"])
        for name, m in metrics.items()
    }
    return "; ".join(f"{name} {text}" for name, text in shown.items())


def _prefixed(tags: Mapping[str, str]) -> dict[str, str]:
    return {f"{PROMOTION}{key}": value for key, value in tags.items()}


def _verify(store: Store, record: Record, *, staged: bool) -> None:
    """Verify that nobody else has changed alias and stage in the meantime."""
    status = store.read_status(record.entry.model)
    in_stage = [n for n, stage in status.stages.items() if stage == PRODUCTION_STAGE]
    if status.production != record.version or (staged and in_stage != [record.version]):
        raise RegistryError(
            f"{record.entry.model}: version {record.version} was put into production, and now the "
            f"alias says {_show(status.production)} and the stage {in_stage}: somebody is changing "
            "it by hand. See histofuse registry, then run it again."
        )


def _restore(store: Store, name: str, chain: Sequence[Entry]) -> None:
    """Restore alias, stage, chain and tags from the log, for the versions that are registered."""
    status = store.read_status(name)
    if not chain or status.decided:
        return
    # The first of a digest counts.
    held = {v.digest: v.number for v in reversed(store.list_versions(name))}
    last = chain[-1]
    if last.digest not in held:
        report(f"{name}: {_explain_missing(last)}; until then nothing is in production")
        return
    numbers = [held[entry.digest] for entry in chain if entry.digest in held]
    number = held[last.digest]
    store.set_alias(name, PRODUCTION, number)
    store.put_in_production_stage(name, number)
    store.tag_version(name, number, _describe_entry(last))
    # Last: it marks the above as complete.
    store.tag_model(name, CHAIN_TAG, _join(numbers))
    shown = last.digest[:SHOWN_DIGITS]
    report(f"{name}: {shown} is in production again, as {last.by} decided {last.when}")


def _explain_missing(entry: Entry) -> str:
    where = f" of commit {entry.git_commit[:SHOWN_DIGITS]}" if entry.git_commit else ""
    return (
        f"{entry.digest[:SHOWN_DIGITS]}, which {entry.by} put into production on "
        f"{entry.when[:10]}, is not in this registry. Restore it with dvc pull{where} and "
        "histofuse publish"
    )
