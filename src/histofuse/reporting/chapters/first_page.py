"""The first page: question, verdict, forest plot, examples, and what must not be concluded."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from histofuse.core.naming import (
    name_check,
    name_fusion,
    name_model,
    show_count,
    show_name,
    spell_metrics,
)
from histofuse.evaluation.metrics.sides import (
    Answer,
    Estimate,
    Side,
    answer_gain,
    explain_gain,
    explain_lack,
    find_side,
)
from histofuse.reporting.blocks import Block, Bullets, Chapter, Forest, Heading, Line, Note, Panel
from histofuse.reporting.chapters.framing import find_focus, list_caveats
from histofuse.reporting.estimates import collect_honest
from histofuse.reporting.figures import show_figures
from histofuse.reporting.inputs import Run
from histofuse.reporting.paper import FUSION, Measured

QUESTION: Final = (
    "Does a model that sees both the tissue and the health record predict better than one that "
    "sees only one of them?"
)
_REMEDIES: Final[Mapping[str, str]] = {
    "leak": "Fix the data or the split and run dvc repro; until then its scores are invalid.",
    "suspicion": "Look for a leak before trusting the number.",
}
_LEVELS: Final[Mapping[Side, str]] = {
    "above": "{model} {does} better than chance",
    "below": "{model} {does} worse than chance",
    "inconclusive": "Whether {model} {does} better than chance is not shown",
}
_GAINS: Final[Mapping[Answer, str]] = {
    "yes": "With the health record, a model tells {what} better",
    "no": "The health record brings no gain that counts in telling {what}",
    "inconclusive": "Whether the health record helps to tell {what} is not shown",
}
_LINKED_GAINS: Final[Mapping[Answer, str]] = {
    "yes": "both predict the outcome better than either",
    "no": "both bring no gain that counts",
    "inconclusive": "whether both gain is not shown",
}
_RANK: Final = "auroc/macro"
_CHANCE: Final = 0.5  # of an AUROC
_MOST_ALARMS: Final = 3


def write_first_page(run: Run) -> Chapter:
    """Write the page that answers the question; it fits on one sheet."""
    measured = collect_honest(run)
    encoder = run.params["encoders"]["image"]
    examples = run.locate("explain") / "gradcam" / encoder / f"examples_{find_focus(run)}.png"
    pooled = "crossval" in run.present
    of = "cross-validation, pooled, or else test split" if pooled else f"{run.split} split"
    blocks: list[Block] = [
        _show_alarms(run),
        Bullets(list(_conclude(run, measured))),
        Forest(
            f"Points are scores, lines their intervals, the dashed line is the reference; {of}.",
            list(_list_panels(run, measured)),
        ),
    ]
    shown = show_figures(run, [examples], name_model(encoder))
    blocks += [shown] if shown.figures else []
    blocks += [Heading("What must not be concluded"), Bullets(list(list_caveats(run)))]
    return Chapter("summary", QUESTION, blocks)


def _show_alarms(run: Run) -> Note:
    """Show the alarms that were raised; those of a control that leaks by design are counted."""
    alarms = run.read("alarms")
    if alarms is None:
        return Note("bad", "The alarms were not checked", [f"Run {run.command('alarms')}."])
    raised = [a for a in alarms["alarms"] if not _is_declared(a, run.metrics["declared"])]
    expected, summary = len(alarms["alarms"]) - len(raised), alarms["summary"]
    counted = [f"{summary['passed']} of {summary['checks']} checks passed"]
    if expected:
        counted.append(f"{show_count(expected, 'alarms')} of a control that leaks by design")
    if summary["not_made"]:
        counted.append(f"{show_count(summary['not_made'], 'checks')} could not be run")
    line = f"{'; '.join(counted)}. See Controls and alarms."
    if not raised:
        title = "No other alarm" if expected else "No alarm"
        return Note("warn" if summary["not_made"] else "good", f"{title}: {line}")
    lines = [
        f"{name_model(a['model']) if a['model'] else 'Data'}, {name_check(a['name'])}: "
        f"{a['detail']}. {_REMEDIES[a['severity']]}"
        for a in raised[:_MOST_ALARMS]
    ]
    return Note("bad", f"{show_count(raised, 'alarms')}: no promotion", [*lines, line])


def _is_declared(alarm: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    """Tell whether an alarm concerns a control that leaks by design."""
    facts = declared.get(alarm["model"] or "", {})
    return alarm["name"] == "pairing" and facts.get("leaky", "no") != "no"


def _conclude(run: Run, measured: Measured) -> Iterator[str]:
    """Conclude in a sentence each: the image model, the record's model, the gain of both."""
    focus, encoders = find_focus(run), run.params["encoders"]
    what = f"{show_name(focus)} from other nuclei"
    for model, metric, does, chance in (
        (encoders["image"], f"auprc/{focus}", f"tells {what}", _find_share(run)),
        (encoders["patient"], _RANK, f"predicts {run.cohort['description']}", _CHANCE),
    ):
        if estimate := measured.get((model, metric, "")):
            side = find_side(estimate, run.rules.fewest_groups, chance)
            verdict = _LEVELS[side].format(model=name_model(model), does=does)
            score = "AUROC" if metric == _RANK else "AUPRC"
            numbers = f"({score} {estimate}; chance has {chance:.3g})"
            yield f"{verdict} {numbers}. {explain_lack(estimate, run.rules)}".strip()
    gain = measured.get((FUSION, f"auprc/{focus}", encoders["image"]))
    answer, reason = _answer_gain(run, gain)
    yield f"{_GAINS[answer].format(what=what)}: {reason}"
    if control := run.read("positive_control"):
        gains = _LINKED_GAINS[control["verdict"]["answer"]]
        sentence = control["verdict"]["sentence"]
        of = "one patient" if "own" in control else "one simulated patient"
        yield f"Where tissue and record are of {of}, {gains}: {sentence}"


def _answer_gain(run: Run, gain: Estimate | None) -> tuple[Answer, str]:
    """Answer as the controls do, which also compare with shuffled patients; else by the gain."""
    verdicts = (run.read("controls") or {}).get("verdicts", [])
    if verdicts and run.primary == name_fusion("label_blind"):
        return verdicts[0]["answer"], spell_metrics(verdicts[0]["sentence"])
    answer = answer_gain(gain, run.rules)
    numbers = f"AUPRC {gain.show('+')} over the image model. " if gain else ""
    return answer, numbers + explain_gain(answer, gain, run.rules)


def _list_panels(run: Run, measured: Measured) -> Iterator[Panel]:
    """List the panels: models on patches, models on records, and fusion less its image model."""
    focus, share = find_focus(run), _find_share(run)
    metric, shown = f"auprc/{focus}", show_name(focus)
    classes = ", ".join(map(show_name, run.patches["classes"]))
    yield Panel(
        f"Tissue: which class is the nucleus in a patch ({classes})? AUPRC of {shown}",
        (0.0, 1.0),
        share,
        f"chance, {share:.3f}",
        list(_list_lines(run, measured, (*run.params["image"], FUSION), metric)),
    )
    yield Panel(
        f"Health record: {run.cohort['description']}? AUROC",
        (0.0, 1.0),
        _CHANCE,
        f"chance, {_CHANCE}",
        list(_list_lines(run, measured, run.params["tabular"], _RANK)),
    )
    image = run.params["encoders"]["image"]
    if gain := measured.get((FUSION, metric, image)):
        line = Line(name_model(run.primary), gain, gain.show("+"))
        title = f"Gain by fusion: AUPRC of {shown} less that of {name_model(image)}, same patches"
        yield Panel(title, (-0.5, 0.5), 0.0, "no gain, 0", [line])


def _list_lines(run: Run, measured: Measured, models: Iterable[str], metric: str) -> Iterator[Line]:
    for model in models:
        if estimate := measured.get((model, metric, "")):
            name = name_model(run.primary if model == FUSION else model)
            yield Line(name, estimate, str(estimate))


def _find_share(run: Run) -> float:
    """Find the share of the class in focus, which is the AUPRC of chance."""
    sizes = run.metrics["split_sizes"]["patches"][run.split]
    return sizes["classes"].get(find_focus(run), 0) / max(1, sizes["n"])
