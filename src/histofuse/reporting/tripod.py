"""The TRIPOD+AI checklist, filled in from the artifacts of a run.

Source: Collins et al., BMJ 2024;385:e078378: 27 items, 52 with their parts, paraphrased in
`tripod.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import load_json
from histofuse.reporting.blocks import Chapter, Grid, Link, Mark, Prose
from histofuse.reporting.inputs import ARTIFACTS, Run

NOT_ANSWERED: Final = "not answered"
_CHECKLIST: Final[Mapping[str, Any]] = load_json(Path(__file__).with_name("tripod.json"))
# Anchor to heading.
SECTIONS: Final[Mapping[str, str]] = _CHECKLIST["sections"]


@dataclass(frozen=True)
class Item:
    """One item of the checklist."""

    number: str
    asks: str  # what it asks for, in short
    sections: Sequence[str] = ()  # anchors of the page that answer it; none if nothing in a run can
    needs: Sequence[str] = ()  # artifacts that must all exist for it to be answered


@dataclass(frozen=True)
class Answer:
    """An item and whether the run answers it."""

    item: Item
    missing: tuple[str, ...]  # artifacts that it needs and that do not exist

    @property
    def answered(self) -> bool:
        """Whether everything it needs exists."""
        return bool(self.item.needs) and not self.missing


def list_items() -> list[Item]:
    """List the items in the order of the checklist."""
    return [Item(**entry) for entry in _CHECKLIST["items"]]


def answer_items(run: Run) -> list[Answer]:
    """Answer every item from the artifacts that exist."""
    present = run.present | ({"models"} if run.digests else set())
    return [Answer(item, tuple(n for n in item.needs if n not in present)) for item in list_items()]


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
    grid = Grid("TRIPOD+AI", ["Item", "Asks for", "Answered", "Where, or why not"], rows)
    return Chapter("tripod", "TRIPOD+AI checklist", [Prose(text), grid], count_answered(answers))


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
        word, where = NOT_ANSWERED, _explain(a)
        if a.answered:
            sections = ", ".join(SECTIONS[s] for s in a.item.sections)
            where = "; ".join([f"report: {sections}", *map(_locate, a.item.needs)])
            word = "answered"
        lines.append(f"| {a.item.number} | {a.item.asks} | {word} | {where} |")
    return "\n".join(lines) + "\n"
