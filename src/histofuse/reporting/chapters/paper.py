"""Chapter on the paper: each claim, its figure, ours, and whether it holds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from histofuse.reporting.blocks import Block, Chapter, Grid, Heading, Mark, Note, Prose, Tone
from histofuse.reporting.estimates import collect_honest, collect_protocol, find_simulated
from histofuse.reporting.inputs import Run
from histofuse.reporting.paper import Judgement, judge_claims, list_contradictions

_TONES: Final[Mapping[str, Tone]] = {
    "holds": "good",
    "consistent": "good",
    "does not hold": "bad",
    "inconclusive": "warn",
    "contradicts itself": "warn",
    "contradicts its data": "warn",
    "not measured here": "calm",
}

# Verdict: in words for one claim, for several.
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
    "contradicts itself": ("contradicts the paper itself", "contradict the paper itself"),
    "not measured here": ("was not measured here", "were not measured here"),
}


def summarise_claims(judgements: Sequence[Judgement]) -> str:
    """Count the claims by verdict, in words."""
    counts = Counter(j.verdict for j in judgements).most_common()
    return ", ".join(f"{n} {_WORDS[verdict][n > 1]}" for verdict, n in counts)


def write_paper_chapter(run: Run) -> Chapter:
    """Write the chapter on the paper's claims."""
    protocol = collect_protocol(run) or {}
    simulated = find_simulated(run)
    judgements = judge_claims(collect_honest(run), protocol, run.rules, simulated)
    blocks: list[Block] = []
    if run.simulated:
        text = (
            "The measurements here are on simulated data. They show how the paper's claims are "
            "tested, not whether they are true of patients, so no claim is judged by them. The "
            "contradictions below are the paper's own and need no data."
        )
        blocks.append(Note("warn", "Measured on simulated data", [text]))
    blocks += [
        Heading("Claims and measurements", "paper-claims"),
        _tabulate_claims(run, judgements),
        Heading("The paper against itself and its data", "paper-contradictions"),
        Prose(
            "Recomputed from the confusion matrix and the tables that the paper prints. The paper "
            "does not say to which classes 9 of its errors went; a range covers all possibilities."
        ),
        _tabulate_contradictions(),
    ]
    return Chapter("paper", "The paper's claims", blocks, summarise_claims(judgements))


def _tabulate_claims(run: Run, judgements: Sequence[Judgement]) -> Grid:
    rows = [
        [
            j.claim.text,
            j.claim.where,
            j.claim.printed or "–",
            str(j.protocol or "–") if "protocol" in run.present else "not run",
            str(j.honest or "–"),
            Mark(j.verdict, _TONES[j.verdict]),
            j.reason,
        ]
        for j in judgements
    ]
    cases = run.metrics["split_sizes"]["patches"][run.split].get("cases")
    honest = (
        "pooled over the folds of the cross-validation by case"
        if "crossval" in run.present
        else f"the {run.split} split by case and by patient"
        + (f", {cases} cases of tissue" if cases else "")
    )
    notes = [
        "–: no figure.",
        f"Honest: {honest}; fusion is {run.primary.removeprefix('fusion_').replace('_', '-')}. "
        "A level holds if the whole interval reaches the printed figure, a gain if the whole "
        "interval of the paired difference lies above zero. With fewer than "
        f"{run.rules.fewest_groups} cases, or patients, the verdict is inconclusive.",
        f"Paper's protocol: image models on patches split at random ({run.command('protocol')}). "
        "It measures a leak.",
        f"The paper does not name the target of its health records; ours is "
        f"{run.cohort['description']}.",
    ]
    headings = ["Claim", "Where", "Paper", "Paper's protocol", "Honest", "Verdict", "Reason"]
    return Grid("Claims of the paper", headings, rows, notes)


def _tabulate_contradictions() -> Grid:
    rows = [[c.says, c.follows, Mark(c.outcome, _TONES[c.outcome])] for c in list_contradictions()]
    headings = ["The paper says", "What follows", "Outcome"]
    return Grid("The paper's figures, recomputed", headings, rows)
