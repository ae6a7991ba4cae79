"""Chapters that frame the evidence: summary, question, limitations, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from histofuse.core.naming import (
    name_check,
    name_model,
    show_ends,
    show_name,
    show_value,
    spell_metrics,
)
from histofuse.core.stage import read_stage_times
from histofuse.evaluation.metrics.sides import Answer, answer_gain
from histofuse.reporting.blocks import (
    Block,
    Bullets,
    Chapter,
    Fold,
    Grid,
    Heading,
    Note,
    Number,
    Numbers,
    Prose,
    Terms,
)
from histofuse.reporting.chapters.paper import judge_run, summarise_claims
from histofuse.reporting.inputs import Run
from histofuse.reporting.origin import Origin
from histofuse.reporting.paper import Estimate
from histofuse.reporting.tripod import answer_items, count_answered
from histofuse.tracking.names import flatten

_REMEDIES: Final[Mapping[str, str]] = {
    "leak": "Fix the data or the split and run dvc repro; until then its scores are invalid.",
    "suspicion": "Look for a leak before trusting the number.",
}
_GAINS: Final[Mapping[Answer, str]] = {
    "yes": "a gain", "no": "no gain", "inconclusive": "inconclusive"
}  # fmt: skip
_VERDICTS: Final = 4


# --- summary ------------------------------------------------------------------------------------


def write_summary_chapter(run: Run) -> Chapter:
    """Write the summary: alarms first, then results."""
    blocks: list[Block] = [
        *_show_alarms(run),
        Numbers(list(_list_numbers(run))),
        Heading("In short"),
        Bullets(list(_conclude(run))),
    ]
    return Chapter("summary", "At a glance", blocks)


def _show_alarms(run: Run) -> Iterator[Block]:
    alarms = run.read("alarms")
    if alarms is None:
        yield Note("bad", "The alarms were not checked", [f"Run {run.command('alarms')}."])
        return
    declared = run.metrics["declared"]
    expected = [a for a in alarms["alarms"] if _is_declared(a, declared)]
    raised = [a for a in alarms["alarms"] if a not in expected]
    if raised:
        lines = [f"{_describe_alarm(a)} {_REMEDIES[a['severity']]}" for a in raised]
        yield Note("bad", f"{_count(len(raised), 'alarm')}: no promotion", lines)
    if expected:
        lines = [f"{_describe_alarm(a)} Its promotion is refused." for a in expected]
        title = f"{_count(len(expected), 'alarm')} of a control that leaks by design"
        yield Note("bad", title, lines)
    summary = alarms["summary"]
    if summary["not_made"]:
        missing = [c for c in alarms["checks"] if c["outcome"] == "not_made"]
        title = f"{_count(len(missing), 'check')} could not be run"
        yield Note("warn", title, [_describe_alarm(c) for c in missing])
    if not raised:
        passed = {name_check(c["name"]) for c in alarms["checks"] if c["outcome"] == "passed"}
        count = f"{summary['passed']} of {summary['checks']} checks passed"
        title = "No other alarm" if alarms["alarms"] else "No alarm"
        yield Note("good", title, [f"{count}: {', '.join(sorted(passed))}."])


def _is_declared(alarm: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    """Tell whether an alarm concerns a control that leaks by design."""
    facts = declared.get(alarm["model"] or "", {})
    return alarm["name"] == "pairing" and facts.get("leaky", "no") != "no"


def _describe_alarm(check: Mapping[str, Any]) -> str:
    subject = name_model(check["model"]) if check["model"] else "Data"
    return f"{subject}, {name_check(check['name'])}: {check['detail']}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _list_numbers(run: Run) -> Iterator[Number]:
    sizes = run.metrics["split_sizes"]["patches"][run.split]
    focus = find_focus(run)
    chance = sizes["classes"].get(focus, 0) / max(1, sizes["n"])
    wanted = [*run.params["image"], run.primary, *run.params["tabular"]]
    for name in (name for name in wanted if name in run.metrics["models"]):
        tabular = name in run.params["tabular"]
        metric = "auroc/macro" if tabular else f"auprc/{focus}"
        value = run.metrics["models"][name].get(f"{run.split}/{metric}")
        ends = run.metrics["intervals"]["models"].get(name, {}).get(f"{run.split}/{metric}", {})
        interval = show_ends(ends.get("low"), ends.get("high")) or "no interval"
        label = f"{name_model(name)}: " + ("AUROC" if tabular else f"AUPRC of {show_name(focus)}")
        against = "chance 0.5" if tabular else f"chance {chance:.3f}"
        yield Number(show_value(value), label, f"{interval}, {against}")


def find_focus(run: Run) -> str:
    """Find the class in focus of the models on patches."""
    declared = run.metrics["declared"]
    return next(declared[name]["focus_class"] for name in run.params["image"] if name in declared)


def _conclude(run: Run) -> Iterator[str]:
    verdicts = (run.read("controls") or {}).get("verdicts", [])
    for v in verdicts[:_VERDICTS]:
        yield spell_metrics(f"{v['question']} {v['answer'].capitalize()}. {v['sentence']}")
    if len(verdicts) > _VERDICTS:
        yield f"{len(verdicts) - _VERDICTS} more verdicts: see Controls and alarms."
    if not verdicts:
        yield from _compare_fusion(run)
    yield f"Of the paper's claims: {summarise_claims(judge_run(run))}."
    yield f"TRIPOD+AI: {count_answered(answer_items(run))}."
    for name in ("controls", "assessment", "crossval", "protocol"):
        if name not in run.present:
            yield f"Not run: {name} ({run.command(name)})."


def _compare_fusion(run: Run) -> Iterator[str]:
    key = f"{run.split}/auprc/{find_focus(run)}"
    differences = run.metrics["intervals"]["minus_image_model"]
    for name, pair in run.metrics["paired"].items():
        entry = differences.get(name, {}).get(key, {})
        if entry.get("value") is None:
            continue
        gain = Estimate(*(entry[field] for field in ("value", "low", "high", "groups")))
        word = _GAINS[answer_gain(gain, run.rules)]
        leak = "; this measures a leak" if pair["leaky"] else ""
        yield (
            f"{name_model(name)} − {name_model(pair['image_model'])}, AUPRC of "
            f"{show_name(find_focus(run))}: {gain}: {word}{leak}."
        )


# --- question and limits ------------------------------------------------------------------------


def write_question_chapter(run: Run) -> Chapter:
    """Write the question."""
    classes = ", ".join(map(show_name, run.patches["classes"]))
    return Chapter(
        "question",
        "The question",
        [
            Prose(
                "Pathologists grade breast cancer by the appearance of nuclei, mitoses above all; "
                "clinicians know the patient's record. Does a model that uses both predict better "
                "than a model that uses one of them?"
            ),
            Bullets(
                [
                    f"Images: a patch of H&E-stained breast tissue around one nucleus gets a "
                    f"probability for each class: {classes}.",
                    f"Health record: an admission gets the probability of the target, "
                    f"{run.cohort['description']}.",
                    "Fusion: from the embeddings of both to the classes of the patch.",
                    "Development and internal evaluation, for research on methods. Not intended or "
                    "supported for use in care.",
                ]
            ),
        ],
    )


def write_limits_chapter(run: Run) -> Chapter:
    """Write the limitations."""
    return Chapter("limitations", "Limitations", [Bullets(list(_list_limits(run)))])


def _list_limits(run: Run) -> Iterator[str]:
    if run.simulated:
        yield "Data are simulated: the numbers show whether the code works, nothing about patients."
    sizes = run.metrics["split_sizes"]["patches"]
    test, validation = sizes[run.split], sizes.get("validation", {"classes": {}})
    cases, focus = test.get("cases"), find_focus(run)
    if cases is not None and cases < run.rules.fewest_groups:
        yield (
            f"The {run.split} split contains {cases} cases. With so few, an interval covers the "
            "true value less often than it claims."
        )
    yield (
        f"{test['classes'].get(focus, 0)} examples of {show_name(focus)} in {run.split} and "
        f"{validation['classes'].get(focus, 0)} in validation, on which calibration and "
        "thresholds were fitted: both are coarse."
    )
    yield (
        "Unless the pairing is linked, images and records belong to different people. A fusion "
        "model cannot then gain from the record; any gain is chance, the extra head, or a leak."
    )
    yield "One source per kind of data, no external validation."
    yield "Diagnoses are billing codes, assigned after discharge."
    if "crossval" not in run.present:
        yield "One split: run make crossval to see how much the results depend on it."


# --- provenance ---------------------------------------------------------------------------------


def write_provenance_chapter(run: Run, origin: Origin) -> Chapter:
    """Write the provenance."""
    state = "with local changes" if origin.dirty else "as committed"
    facts = [
        ("Git commit", f"{origin.commit} ({state})" if origin.commit else "unknown"),
        ("SHA-256 of dvc.lock", origin.lock_digest),
        ("Seed", str(run.params.get("seed"))),
    ]
    models = [[name_model(name), digest] for name, digest in run.digests.items()]
    versions = [[name, version] for name, version in origin.packages.items()]
    rows = [[key, value] for key, value in flatten(run.params).items()]
    blocks: list[Block] = [
        Terms(facts),
        Grid("Bundle digests", ["Model", "SHA-256 of the manifest"], models),
        *_list_stage_times(run),
        Fold("Package versions", [Grid("Versions", ["Package", "Version"], versions)]),
        Fold(f"Params: {len(rows)} values", [Grid("Params", ["Key", "Value"], rows)]),
    ]
    return Chapter("provenance", "Provenance", blocks)


def _list_stage_times(run: Run) -> list[Block]:
    times = read_stage_times(run.root)
    rows = [[name, f"{t.total:.1f}", f"{t.start_up:.1f}"] for name, t in times.items()]
    headings = ["Stage", "Seconds", "of which start-up"]
    title = f"Seconds of {len(rows)} stages, from the last run of each on this machine"
    return [Fold(title, [Grid("Seconds by stage", headings, rows)])] if rows else []
