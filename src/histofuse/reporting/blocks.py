"""What a chapter is made of; the template knows how each looks.

Text is plain: the template escapes it, so nothing that stands in the data can become markup.
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
    """Text that leads to another place of the page.

    Attributes:
        text: What is read.
        anchor: The id it leads to, without the ``#``.
    """

    text: str
    anchor: str
    kind: str = field(default="link", init=False)


@dataclass(frozen=True)
class Mark:
    """A verdict: its word, with a sign so that colour is not needed to tell it."""

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
    """A box that stands out."""

    tone: Tone
    title: str
    lines: Sequence[str] = ()
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Grid:
    """A table; it scrolls in its own frame where it is wider than the page.

    Attributes:
        caption: What it shows.
        headings: Column headings.
        rows: Cells, as many as headings.
        notes: Sentences under it.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    kind: str = field(default="grid", init=False)

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, to be set flush right."""
        return [_is_numeric([row[n] for row in self.rows]) for n in range(len(self.headings))]


def _is_numeric(cells: Sequence[Cell]) -> bool:
    texts = [c for c in cells if c not in {"", "–", "NA"}]
    return bool(texts) and all(
        isinstance(t, str) and t.lstrip("+-−<≥ ")[:1].isdigit() and len(t) < 32 for t in texts
    )


@dataclass(frozen=True)
class Figure:
    """A picture that lies in the page itself.

    Attributes:
        source: A ``data:`` address.
        width: In pixels.
        height: In pixels.
        alt: What it shows, for those who do not see it.
        caption: The line under it.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Gallery:
    """Figures side by side where there is room."""

    figures: Sequence[Figure]
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Number:
    """A headline figure.

    Attributes:
        value: The number.
        label: What it is.
        remark: Its interval, and against what to read it.
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
    """Terms and what is to be said of them."""

    rows: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Heading:
    """A heading within a chapter.

    Attributes:
        text: Its words.
        anchor: The id others lead to; "" for none.
    """

    text: str
    anchor: str = ""
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Fold:
    """Detail that is shown on demand, and always in print."""

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
        blocks: What it holds.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


def not_run(what: str, command: str) -> Note:
    """Say that something was not run, and how to run it."""
    return Note("calm", f"{what}: not run", [f"Run it with: {command}"])
