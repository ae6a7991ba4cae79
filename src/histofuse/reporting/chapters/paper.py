"""Paper against measured: each claim, its figure, ours, and whether it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from histofuse.reporting.blocks import Block, Chapter, Grid, Heading, Mark, Note, Prose, Tone
from histofuse.reporting.estimates import collect_honest, collect_protocol
from histofuse.reporting.inputs import Run
from histofuse.reporting.paper_claims import Estimate, Judgement, judge_claims
from histofuse.reporting.paper_contradictions import find_contradictions

_TONES: Final[Mapping[str, Tone]] = {
    "holds": "good",
    "consistent": "good",
    "does not hold": "bad",
    "contradicts itself": "warn",
    "contradicts its data": "warn",
    "not measured": "calm",
}

_FEWER: Final[Mapping[str, str]] = {
    "holds": "holds",
    "does not hold": "does not hold",
    "contradicts itself": "contradicts the paper itself",
    "not measured": "was not measured",
}
_MORE: Final[Mapping[str, str]] = {
    "holds": "hold",
    "does not hold": "do not hold",
    "contradicts itself": "contradict the paper itself",
    "not measured": "were not measured",
}


def judge_run(run: Run) -> list[Judgement]:
    """Judge the paper's claims by a run."""
    return judge_claims(collect_honest(run), collect_protocol(run))


def summarise_claims(judgements: Sequence[Judgement]) -> str:
    """Say how many claims hold, in words."""
    count = Counter(j.verdict for j in judgements)
    said = [(n, _FEWER if n == 1 else _MORE, verdict) for verdict, n in count.most_common()]
    return ", ".join(f"{n} {words[verdict]}" for n, words, verdict in said)


def write_paper_chapter(run: Run) -> Chapter:
    """Write the chapter."""
    judgements = judge_run(run)
    blocks: list[Block] = []
    if run.simulated:
        text = (
            "What stands here as measured was measured on simulated data. It shows how the paper's "
            "claims are tested, not whether they are true of patients; the contradictions below "
            "are the paper's own and need no data."
        )
        blocks.append(Note("warn", "Measured on simulated data", [text]))
    blocks += [
        Heading("What it claims, and what was measured", "paper-claims"),
        _tabulate_claims(run, judgements),
        Heading("The paper against itself and its data", "paper-contradictions"),
        Prose(
            "Recomputed from the confusion matrix and the tables that the paper prints. It does "
            "not say where 9 of its errors went, so a range holds for all places they can have."
        ),
        _tabulate_contradictions(),
    ]
    return Chapter("paper", "Paper against measured", blocks)


def _tabulate_claims(run: Run, judgements: Sequence[Judgement]) -> Grid:
    rows = [
        [
            j.claim.text,
            j.claim.where,
            j.claim.printed or "–",
            _show(j.protocol),
            _show(j.honest),
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
        "–: not run, or no figure.",
        f"Honest: {honest}; fusion is {run.primary.removeprefix('fusion_').replace('_', '-')}. "
        "A level holds where the interval reaches the printed figure, a gain where its interval "
        "lies above zero.",
        "By its protocol: image models on patches split by chance (make evidence), fusion on pairs "
        "that follow the label. These measure leaks.",
        "Of few cases an interval is wide, and a claim may hold for that reason alone.",
        f"The paper does not name the target of its health records; ours is "
        f"{run.cohort['description']}. A gain of XGBoost over the MLP has an interval from the "
        "ends of both, wider than a paired one.",
    ]
    headings = ["Claim", "Where", "Paper", "By its protocol", "Honest", "Verdict", "Ground"]
    return Grid("Claims of the paper", headings, rows, notes)


def _show(estimate: Estimate | None) -> str:
    return "–" if estimate is None else str(estimate)


def _tabulate_contradictions() -> Grid:
    rows = [[f.says, f.follows, Mark(f.outcome, _TONES[f.outcome])] for f in find_contradictions()]
    headings = ["The paper says", "What follows", "Outcome"]
    return Grid("The paper's figures, recomputed", headings, rows)
