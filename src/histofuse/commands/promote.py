"""``histofuse promote`` and ``rollback``: a version into production, and the one before it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import Fault, InputError
from histofuse.core.progress import report
from histofuse.params.base import load_section, load_seed
from histofuse.params.controls import AlarmParams
from histofuse.params.ehr import EncodingParams
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.promotion import PromotionParams
from histofuse.promotion.decision import Grounds, Production, Record
from histofuse.promotion.gate import Evidence, Verdict, decide
from histofuse.promotion.log import LOG
from histofuse.tracking.names import DIGEST_TAG, Standing, Version, name_registered, redact
from histofuse.tracking.publish import MODELS
from histofuse.tracking.store import Store, open_store

SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Choice:
    """Which version is meant.

    Attributes:
        model: The model's name, as in ``models/`` or as registered.
        version: Its number; None for any.
        digest: The first digits of its bundle's digest; None for any.
    """

    model: str
    version: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Override:
    """Whether the gate may be overridden.

    Attributes:
        forced: Whether it is.
        reason: Why; needed where it is.
    """

    forced: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        lines: To show.
        refused: Whether the gate had the last word, and it was no.
    """

    lines: list[str]
    refused: bool = False


def promote(choice: Choice, override: Override, *, dry_run: bool = False) -> Outcome:
    """Put a version into production if the gate lets it through, or is overridden.

    Raises:
        InputError: If no such version is registered, several could be meant, or the gate is
            overridden without a reason.
        RegistryError: If the registry cannot be reached, or changed on the way.
    """
    if override.forced and not override.reason.strip():
        fault = Fault("--reason", "nothing", "why the gate is overridden", "It goes on record.")
        raise InputError([fault])
    store = open_store()
    target = find_version(store, choice)
    production = Production(store)
    standing = (store.read_standing if dry_run else production.read)(target.name)
    current = standing.production
    if current == target.number:
        return Outcome([f"{_show(target)} is in production already"])

    evidence = _gather(store, target, standing)
    verdict = decide(evidence, load_section(PromotionParams, "promotion"))
    lines = [_introduce(target, evidence), *(f"  {line}" for line in verdict.lines())]
    if not verdict.passed and not override.forced:
        return Outcome([*lines, _refuse(target, verdict)], refused=True)
    if dry_run:
        return Outcome([*lines, f"{_show(target)} would go into production; nothing was changed"])
    grounds = _ground(evidence, verdict, override)
    record = production.promote(target, current, grounds)
    return Outcome([*lines, *_conclude(target, verdict, record)])


def rollback(model: str, reason: str = "") -> list[str]:
    """Put the version that was in production before back there.

    Raises:
        InputError: If no such model is registered.
        RegistryError: If none was in production before, or the registry cannot be reached.
    """
    store = open_store()
    name = find_name(model, {v.name for v in store.list_versions()}, store)
    record = Production(store).rollback(name, reason.strip())
    left = "" if record.from_version is None else f", version {record.from_version} no longer"
    shown = f"{name} version {record.version}, {record.entry.digest[:SHOWN_DIGITS]}"
    return [f"{shown}, is in production again{left}", _remind()]


# --- which version ------------------------------------------------------------------------------


def find_version(store: Store, choice: Choice, models: Path = MODELS) -> Version:
    """Find the version that is meant: the one named, else that of `models`, else the latest.

    Raises:
        InputError: If there is none, or several fit the digest.
    """
    versions = store.list_versions()
    name = find_name(choice.model, {v.name for v in versions}, store)
    known = [v for v in versions if v.name == name]
    if choice.version is not None or choice.digest is not None:
        return _find_chosen(known, choice)
    held = _find_held(name, models)
    if held is None:
        return known[-1]
    found = [v for v in known if v.digest == held]
    if not found:
        problem = f"holds {name} {held[:SHOWN_DIGITS]}, which is not in the registry"
        remedy = "Run histofuse publish, or name a version: --version N."
        raise InputError([Fault(models, problem, _list(known), remedy)])
    return found[0]


def find_name(model: str, known: set[str], store: Store) -> str:
    """Find the registered model by its name, with or without its prefix.

    Raises:
        InputError: If there is none.
    """
    rule = load_section(EvaluationParams, "evaluation").primary_rule
    for name in (model, name_registered(model, rule)):
        if name in known:
            return name
    expected = f"one of: {', '.join(sorted(known))}" if known else "a registered model"
    remedy = "" if known else "Run dvc repro or histofuse publish."
    where = f"the registry at {redact(store.uri)}"
    raise InputError([Fault(where, f"no model {model!r}", expected, remedy)])


def _find_chosen(known: Sequence[Version], choice: Choice) -> Version:
    prefix = (choice.digest or "").lower()
    found = [
        version
        for version in known
        if choice.version in (None, version.number) and version.digest.startswith(prefix)
    ]
    if len(found) == 1:
        return found[0]
    parts = {"version": choice.version, "digest": choice.digest}
    asked = " and ".join(f"{key} {value}" for key, value in parts.items() if value is not None)
    problem = f"{asked} could be any of {_list(found)}" if found else f"no {asked}"
    remedy = "Give more digits, or the version." if found else ""
    raise InputError([Fault(known[0].name, problem, f"one of {_list(known)}", remedy)])


def _list(versions: Sequence[Version]) -> str:
    return ", ".join(f"version {v.number} ({v.digest[:SHOWN_DIGITS]})" for v in versions)


def _find_held(name: str, models: Path) -> str | None:
    """Find the digest of the bundle in `models` that is registered by a name."""
    rule = load_section(EvaluationParams, "evaluation").primary_rule
    for path in sorted(models.glob(f"*/{MANIFEST}")):
        if name_registered(load_json(path)["name"], rule) == name:
            return digest_file(path)
    return None


# --- the gate -----------------------------------------------------------------------------------


def _gather(store: Store, target: Version, standing: Standing) -> Evidence:
    from histofuse.evaluation.alarms.search import AlarmRules
    from histofuse.evaluation.metrics.bootstrap import Bootstrap
    from histofuse.promotion.evidence import gather_evidence

    current = _find_current(store, standing)
    against = "" if current is None else f" and version {current.number}"
    report(f"scoring {_show(target)}{against}")
    rules = AlarmRules(
        alarms=load_section(AlarmParams, "alarms"),
        promotion=load_section(PromotionParams, "promotion"),
        encoding=load_section(EncodingParams, "encoding"),
        bootstrap=Bootstrap(load_section(IntervalParams, "intervals"), load_seed()),
    )
    return gather_evidence(store, target, current, rules)


def _find_current(store: Store, standing: Standing) -> Version | None:
    """Find the version in production, be it without its files."""
    number = standing.production
    if number is None:
        return None
    for version in store.list_versions():
        if (version.name, version.number) == (standing.name, number):
            return version
    digest = standing.version_tags.get(number, {}).get(DIGEST_TAG, "")
    return Version(standing.name, number, digest, run_id="", source="", content=None)


def _ground(evidence: Evidence, verdict: Verdict, override: Override) -> Grounds:
    from histofuse.promotion.evidence import digest_test_data

    params = load_section(PromotionParams, "promotion")
    return Grounds(
        reason=override.reason.strip(),
        forced=override.forced and not verdict.passed,
        checks=verdict.to_dict()["checks"],
        metrics=measure(evidence, params),
        digests=digest_test_data(evidence.candidate.config),
    )


def measure(evidence: Evidence, params: PromotionParams) -> dict[str, dict[str, float | None]]:
    """Measure the candidate on the test split, with intervals; nothing where it has no scores."""
    from histofuse.evaluation.metrics.bootstrap import Bootstrap

    rows = evidence.candidate.scored
    if rows is None:
        return {}
    found = Bootstrap(params.intervals, evidence.seed).estimate_metrics(rows)
    return {
        f"test/{name}": {"value": i.value, "low": i.low, "high": i.high}
        for name, i in found.items()
    }


# --- what is shown ------------------------------------------------------------------------------


def _show(version: Version) -> str:
    return f"{version.name} version {version.number} ({version.digest[:SHOWN_DIGITS]})"


def _introduce(target: Version, evidence: Evidence) -> str:
    before = evidence.production
    if before is None:
        return f"{_show(target)}, nothing in production yet"
    against = f"version {before.version} ({before.digest[:SHOWN_DIGITS]})"
    return f"{_show(target)} against {against} in production"


def _refuse(target: Version, verdict: Verdict) -> str:
    names = ", ".join(check.name for check in verdict.refusals)
    count = f"{len(verdict.refusals)} of {len(verdict.checks)} checks"
    return (
        f"refused by {count}: {names}. Nothing was changed. "
        f'histofuse promote {target.name} --version {target.number} --force --reason "…" '
        "overrides the gate, on record."
    )


def _conclude(target: Version, verdict: Verdict, record: Record | None) -> list[str]:
    if record is None:
        return [f"{_show(target)} is in production already"]
    before = record.from_version
    left = "" if before is None else f", version {before} no longer"
    forced = ""
    if record.entry.forced:
        failed = len(verdict.refusals)
        forced = f", against {failed} of {len(verdict.checks)} checks: {record.entry.reason}"
    return [f"{_show(target)} is in production{left}{forced}", _remind()]


def _remind() -> str:
    return f"Commit {LOG}: from it a new registry learns what is in production."
