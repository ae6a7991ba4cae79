"""``histofuse promote`` and ``rollback``: put a version into production, or the previous one."""

from dataclasses import dataclass
from shlex import quote
from typing import Final

from histofuse.core.errors import InputError
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.params.base import load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import AlarmParams, PromotionParams
from histofuse.promotion.decision import Grounds, Production, Record
from histofuse.promotion.gate import Evidence, Verdict, decide
from histofuse.promotion.log import LOG
from histofuse.promotion.versions import choose_version, find_name, find_production
from histofuse.tracking.names import Version
from histofuse.tracking.store import Store, open_store
from histofuse.tracking.verification import check_version

_REMINDER: Final = f"Commit {LOG}: a new registry reads from it what is in production."


@dataclass(frozen=True)
class Outcome:
    """What a promotion did, in lines to show, and whether the gate refused it."""

    lines: list[str]
    refused: bool = False


def promote(
    model: str,
    *,
    version: int | None = None,
    digest: str | None = None,
    forced: bool = False,
    reason: str = "",
    dry_run: bool = False,
) -> Outcome:
    """Put a version into production if it passes the gate or the gate is overridden.

    `digest` may be the first digits only. Raises BundleError if the version is in production
    already, and is not what was registered; InputError if not exactly one version matches, or the
    gate is overridden without a reason; RegistryError if the registry cannot be reached, or changed
    in the meantime.
    """
    if forced and not reason.strip():
        expected = "why the gate is overridden"
        raise InputError.of("--reason", "nothing", expected, "It goes on record.")
    store = open_store()
    target = choose_version(store, model, _load_primary_rule(), version=version, digest=digest)
    production = Production(store)
    status = (store.read_status if dry_run else production.read)(target.name)
    current = find_production(store, status)
    if current is not None and current.number == target.number:
        check_version(target, store)
        return Outcome([f"{target} is already in production"])

    params = load_section(PromotionParams, "promotion")
    evidence = _gather(store, target, current, params)
    verdict = decide(evidence, params)
    compared = (
        f"compared with {current.short} in production" if current else "nothing in production yet"
    )
    lines = [f"{target}, {compared}", *(f"  {line}" for line in verdict.lines())]
    if not verdict.passed and not forced:
        return Outcome([*lines, _refuse(target, verdict)], refused=True)
    if dry_run:
        return Outcome([*lines, f"{target} would be promoted; nothing was changed"])
    from histofuse.promotion.evidence import digest_test_data, measure_candidate

    grounds = Grounds(
        reason=reason.strip(),
        forced=not verdict.passed,
        checks=verdict.to_dict()["checks"],
        metrics=measure_candidate(evidence, params),
        digests=digest_test_data(evidence.candidate.config),
    )
    record = production.promote(target, status.production, grounds)
    return Outcome([*lines, *_conclude(target, verdict, record)])


def rollback(model: str, reason: str = "") -> list[str]:
    """Put the version back that was in production before."""
    store = open_store()
    name = find_name(model, store, _load_primary_rule())
    record = Production(store).rollback(name, reason.strip())
    entry, lines = record.entry, []
    if entry.restores:
        when, by = entry.restores["when"][:10], entry.restores["by"]
        lines = [f"promoted on {when} by {by}, gate: {entry.gate or 'not recorded'}"]
    shown = f"{name} {record.target} is in production again{_show_replaced(record)}"
    return [shown, *lines, _REMINDER]


def _load_primary_rule() -> str:
    return load_section(EvaluationParams, "evaluation").primary_rule


def _gather(
    store: Store, target: Version, current: Version | None, params: PromotionParams
) -> Evidence:
    from histofuse.evaluation.alarms.checks import AlarmRules
    from histofuse.evaluation.metrics.bootstrap import Bootstrap
    from histofuse.promotion.evidence import gather_evidence

    other = "" if current is None else f" and {current.short}"
    report(f"scoring {target}{other}")
    rules = AlarmRules(
        alarms=load_section(AlarmParams, "alarms"),
        encoding=load_section(EncodingParams, "encoding"),
        bootstrap=Bootstrap(load_section(IntervalParams, "intervals"), load_seed()),
        alarm_at=params.alarm_at,
        alarm_metrics=params.alarm_metrics,
        split_units=params.split_units,
    )
    return gather_evidence(store, target, current, rules)


def _refuse(target: Version, verdict: Verdict) -> str:
    names = ", ".join(check.name for check in verdict.refusals)
    count = f"{len(verdict.refusals)} of {show_count(verdict.checks, 'checks')}"
    return (
        f"refused by {count}: {names}. Nothing was changed. To override the gate, on record: "
        f'histofuse promote {quote(target.name)} --version {target.number} --force --reason "…"'
    )


def _conclude(target: Version, verdict: Verdict, record: Record | None) -> list[str]:
    if record is None:
        return [f"{target} is already in production"]
    forced = ""
    if record.entry.forced:
        failed = f"{len(verdict.refusals)} of {show_count(verdict.checks, 'checks')}"
        forced = f", although {failed} refused it: {record.entry.reason}"
    return [f"{target} is in production{_show_replaced(record)}{forced}", _REMINDER]


def _show_replaced(record: Record) -> str:
    return "" if record.source is None else f", replacing {record.source}"
