"""The TRIPOD+AI checklist, filled in from the artifacts of a run.

Source: Collins et al., BMJ 2024;385:e078378: 27 items, 52 with their parts, paraphrased in
`tripod.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histofuse.reporting.blocks import Chapter, Grid, Link, Mark, Note
from histofuse.reporting.inputs import ARTIFACTS, Run

ITEMS: Final = Path(__file__).parent / "tripod.json"
NOT_ANSWERED: Final = "not answered"
# Anchor to heading.
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
    "paper": "The paper's claims",
    "limitations": "Limitations",
    "provenance": "Provenance",
    "sheets": "Data sheets",
}


@dataclass(frozen=True)
class Item:
    """One item of the checklist.

    Attributes:
        number: As in the checklist.
        asks: What it asks for, in short.
        sections: Anchors of the page that answer it; empty if nothing in a run can.
        needs: Artifacts that must all exist for it to be answered.
    """

    number: str
    asks: str
    sections: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """An item and whether the run answers it.

    Attributes:
        item: The item.
        answered: Whether everything it needs exists.
        missing: Artifacts that it needs and that do not exist.
    """

    item: Item
    answered: bool
    missing: tuple[str, ...]


def list_items() -> list[Item]:
    """List the items in the order of the checklist."""
    entries = json.loads(ITEMS.read_text(encoding="utf-8"))
    return [
        Item(e["number"], e["asks"], tuple(e.get("sections", ())), tuple(e.get("needs", ())))
        for e in entries
    ]


def answer_items(run: Run) -> list[Answer]:
    """Answer every item from the artifacts that exist."""
    present = run.present | ({"models"} if run.digests else set())
    return [_answer(item, present) for item in list_items()]


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
        "An item is answered if this run made the artifacts that answer it; the linked section "
        "shows them. Items that no run can answer stay open for the authors."
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
        return "No run can answer it"
    return "Missing: " + ", ".join(_locate(name) for name in answer.missing)


def _locate(name: str) -> str:
    return ARTIFACTS[name].path if name in ARTIFACTS else name


def write_tripod(run: Run) -> str:
    """Write the checklist in Markdown, the same text for the same artifacts."""
    answers = answer_items(run)
    lines = ["# TRIPOD+AI checklist", "", f"{count_answered(answers)}.", ""]
    if run.simulated:
        lines += ["> Simulated data: no statement about patients.", ""]
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
