"""The blocks that chapters consist of; the template renders each kind and escapes its text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final, Literal

from histofuse.evaluation.metrics.sides import Estimate

Tone = Literal["good", "bad", "warn", "calm"]
_SIGNS: Final[Mapping[str, str]] = {"good": "✓", "bad": "✗", "warn": "!", "calm": "–"}


class _Element:
    @property
    def kind(self) -> str:
        """The name by which the template knows it."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Link(_Element):
    """A link to another place on the page, whose id is `anchor`."""

    text: str
    anchor: str


@dataclass(frozen=True)
class Mark(_Element):
    """A verdict, with a sign so that it does not depend on colour."""

    text: str
    tone: Tone

    @property
    def sign(self) -> str:
        """The sign before the word."""
        return _SIGNS[self.tone]


_FEWEST_GROUPED: Final = 3  # columns
Cell = str | Link | Mark | tuple[Link, ...]


@dataclass(frozen=True)
class Prose(_Element):
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets(_Element):
    """A list."""

    items: Sequence[Cell]


@dataclass(frozen=True)
class Note(_Element):
    """A highlighted box."""

    tone: Tone
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Grid(_Element):
    """A table with notes below; the template puts what stands in brackets on a line of its own."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and are right-aligned."""
        return [_is_numeric([row[n] for row in self.rows]) for n in range(len(self.headings))]

    @cached_property
    def groups(self) -> list[tuple[Cell, list[Sequence[Cell]]]]:
        """Consecutive rows with the same first cell, and that cell."""
        return [(first, list(rows)) for first, rows in groupby(self.rows, lambda row: row[0])]

    @property
    def is_grouped(self) -> bool:
        """Whether the first column is shown as headings of groups of rows."""
        return len(self.headings) > _FEWEST_GROUPED and len(self.groups) < len(self.rows)


def _is_numeric(cells: Sequence[Cell]) -> bool:
    texts = [c for c in cells if c not in {"", "–", "NA"}]
    return bool(texts) and all(
        isinstance(t, str) and t.lstrip("+-−<≥ ")[:1].isdigit() and len(t) < 32 for t in texts
    )


@dataclass(frozen=True)
class Figure(_Element):
    """A picture embedded in the page."""

    source: str  # a ``data:`` address
    width: int
    height: int
    alt: str  # text for readers who cannot see it
    caption: str


@dataclass(frozen=True)
class Gallery(_Element):
    """Figures side by side, if there is room."""

    figures: Sequence[Figure]
    small: bool = False  # whether they are patches rather than pictures


@dataclass(frozen=True)
class Line:
    """A line of a forest plot, whose value is defined."""

    name: str
    estimate: Estimate
    text: str


@dataclass(frozen=True)
class Panel:
    """Lines of a forest plot that share an axis and a reference, such as chance."""

    title: str
    axis: tuple[float, float]  # both ends of the axis
    reference: float  # drawn through all lines
    against: str  # says what the reference is
    lines: Sequence[Line]

    def place(self, value: float) -> str:
        """Place a value on the axis, as a percentage of its length."""
        low, high = self.axis
        return f"{100 * min(max((value - low) / (high - low), 0), 1):.1f}%"


@dataclass(frozen=True)
class Forest(_Element):
    """A forest plot, as a table whose middle column is drawn."""

    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Terms(_Element):
    """Terms with their values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Heading(_Element):
    """A heading within a chapter; `anchor` is its id for links, "" for none."""

    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Fold(_Element):
    """Detail shown on demand, and always in print."""

    title: str
    blocks: "Sequence[Block]"


Block = Prose | Bullets | Note | Grid | Figure | Gallery | Forest | Terms | Heading | Fold


@dataclass(frozen=True)
class Chapter:
    """A chapter; `anchor` is its id, `lead` what it comes to, in a few words."""

    anchor: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


def not_run(what: str, command: str) -> Note:
    """State that something was not run, and how to run it."""
    return Note("calm", f"{what}: not run", [f"Run it with: {command}"])
