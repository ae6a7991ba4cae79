"""The blocks that chapters consist of; the template renders each kind.

Text is plain: the template escapes it, so nothing in the data can become markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

Tone = Literal["good", "bad", "warn", "calm"]
_SIGNS: Final[Mapping[str, str]] = {"good": "✓", "bad": "✗", "warn": "!", "calm": "–"}


@dataclass(frozen=True)
class Link:
    """A link to another place on the page.

    Attributes:
        text: The visible text.
        anchor: The target id, without the ``#``.
    """

    text: str
    anchor: str
    kind: str = field(default="link", init=False)


@dataclass(frozen=True)
class Mark:
    """A verdict, with a sign so that it does not depend on colour."""

    text: str
    tone: Tone
    kind: str = field(default="mark", init=False)

    @property
    def sign(self) -> str:
        """The sign before the word."""
        return _SIGNS[self.tone]


Cell = str | Link | Mark | tuple[Link, ...]


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    kind: str = field(default="prose", init=False)


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[Cell]
    kind: str = field(default="bullets", init=False)


@dataclass(frozen=True)
class Note:
    """A highlighted box."""

    tone: Tone
    title: str
    lines: Sequence[str] = ()
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Grid:
    """A table; it scrolls in its own frame if it is wider than the page.

    Attributes:
        caption: What it shows.
        headings: Column headings.
        rows: One cell per heading.
        notes: Sentences below it.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    kind: str = field(default="grid", init=False)

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, and are right-aligned."""
        return [_is_numeric([row[n] for row in self.rows]) for n in range(len(self.headings))]


def _is_numeric(cells: Sequence[Cell]) -> bool:
    texts = [c for c in cells if c not in {"", "–", "NA"}]
    return bool(texts) and all(
        isinstance(t, str) and t.lstrip("+-−<≥ ")[:1].isdigit() and len(t) < 32 for t in texts
    )


@dataclass(frozen=True)
class Figure:
    """A picture embedded in the page.

    Attributes:
        source: A ``data:`` address.
        width: In pixels.
        height: In pixels.
        alt: Text for readers who cannot see it.
        caption: The line below it.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, if there is room."""

    figures: Sequence[Figure]
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Number:
    """A headline figure.

    Attributes:
        value: The number.
        label: What it is.
        remark: Its interval and what to compare it with.
    """

    value: str
    label: str
    remark: str


@dataclass(frozen=True)
class Numbers:
    """Headline figures side by side."""

    numbers: Sequence[Number]
    kind: str = field(default="numbers", init=False)


@dataclass(frozen=True)
class Facts:
    """Terms with their values."""

    rows: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Heading:
    """A heading within a chapter.

    Attributes:
        text: The heading.
        anchor: Its id for links; "" for none.
    """

    text: str
    anchor: str = ""
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Fold:
    """Detail shown on demand, and always in print."""

    title: str
    blocks: Sequence[Block]
    kind: str = field(default="fold", init=False)


Block = Prose | Bullets | Note | Grid | Figure | Gallery | Numbers | Facts | Heading | Fold


@dataclass(frozen=True)
class Chapter:
    """A chapter.

    Attributes:
        anchor: Its id.
        title: Its heading.
        blocks: Its content.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


def not_run(what: str, command: str) -> Note:
    """State that something was not run, and how to run it."""
    return Note("calm", f"{what}: not run", [f"Run it with: {command}"])
