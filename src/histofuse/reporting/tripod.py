"""The TRIPOD+AI checklist, filled from what a run left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from histofuse.reporting.blocks import Chapter, Grid, Link, Mark, Note
from histofuse.reporting.inputs import ARTIFACTS, Run
from histofuse.reporting.tripod_items import ITEMS, Item

NOT_ANSWERED: Final = "not answered"
# Anchor to what is read of it.
SECTIONS: Final[Mapping[str, str]] = {
    "summary": "At a glance",
    "question": "The question",
    "data-patients": "Patients",
    "data-tissue": "Tissue",
    "split": "The split",
    "results": "Results",
    "controls": "Controls and alarms",
    "use": "Calibration and use",
    "use-calibration": "Calibration",
    "use-operating_points": "Operating points",
    "use-subgroups": "Subgroups",
    "crossval-results": "Cross-validation",
    "paper": "Paper against measured",
    "limitations": "Limitations",
    "provenance": "Provenance",
    "sheets": "Data sheets",
}


@dataclass(frozen=True)
class Answer:
    """An item and whether the run answers it.

    Attributes:
        item: The item.
        answered: Whether all it needs is there.
        missing: Artifacts that it needs and that are not there.
    """

    item: Item
    answered: bool
    missing: tuple[str, ...]


def answer_items(run: Run) -> list[Answer]:
    """Answer every item from the artifacts that are there."""
    present = run.present | ({"models"} if run.digests else set())
    return [_answer(item, present) for item in ITEMS]


def _answer(item: Item, present: frozenset[str] | set[str]) -> Answer:
    missing = tuple(name for name in item.needs if name not in present)
    return Answer(item, bool(item.needs) and not missing, missing)


def count_answered(answers: Sequence[Answer]) -> str:
    """Say how many items are answered."""
    return f"{sum(a.answered for a in answers)} of {len(answers)} items answered"


def write_tripod_chapter(run: Run) -> Chapter:
    """Write the chapter of the page."""
    answers = answer_items(run)
    rows = [
        [
            a.item.number,
            a.item.asks,
            Mark("answered", "good") if a.answered else Mark(NOT_ANSWERED, "bad"),
            tuple(Link(SECTIONS[s], s) for s in a.item.sections) if a.answered else _explain(a),
        ]
        for a in answers
    ]
    text = (
        "An item is answered where the artifacts that answer it were made in this run, and the "
        "section it leads to shows them. What no run can know stays open: it is for the authors."
    )
    return Chapter(
        "tripod",
        "TRIPOD+AI checklist",
        [
            Note("calm", count_answered(answers), [text]),
            Grid("TRIPOD+AI", ["Item", "Asks for", "Answered", "Where, or why not"], rows),
        ],
    )


def _explain(answer: Answer) -> str:
    if not answer.item.needs:
        return "Nothing in a run answers it"
    return "Not there: " + ", ".join(_locate(name) for name in answer.missing)


def _locate(name: str) -> str:
    return ARTIFACTS[name].path if name in ARTIFACTS else name


def write_tripod(run: Run) -> str:
    """Write the checklist in Markdown, the same text for the same artifacts."""
    answers = answer_items(run)
    lines = ["# TRIPOD+AI checklist", "", f"{count_answered(answers)}.", ""]
    if run.simulated:
        lines += ["> Simulated data: nothing is said about patients.", ""]
    lines += ["| item | asks for | answered | where, or why not |", "|---|---|---|---|"]
    for a in answers:
        word = "answered" if a.answered else NOT_ANSWERED
        where = (
            "; ".join(
                [
                    "report: " + ", ".join(SECTIONS[s] for s in a.item.sections),
                    *map(_locate, a.item.needs),
                ]
            )
            if a.answered
            else _explain(a)
        )
        lines.append(f"| {a.item.number} | {a.item.asks} | {word} | {where} |")
    return "\n".join(lines) + "\n"
