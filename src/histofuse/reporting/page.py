"""Chapters -> one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from histofuse.reporting.blocks import Chapter

TITLE = "histofuse: results of a run and the evidence for them"


@dataclass(frozen=True)
class Caution:
    """What a page must not be mistaken for: a banner, and a mark at each chapter and figure."""

    mark: str
    title: str
    text: str


SIMULATED_DATA: Final = Caution(
    "simulated data",
    "Simulated data.",
    "The numbers show whether the code works. They say nothing about patients.",
)
SIMULATED_MODEL: Final = Caution(
    "model of simulated data",
    "The model was trained on simulated data.",
    "Its answers say nothing about patients.",
)


def render_page(
    chapters: Sequence[Chapter], *, caution: Caution | None, footer: str, title: str = TITLE
) -> str:
    """Render the page; every chapter repeats the caution."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("histofuse.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(title=title, chapters=chapters, caution=caution, footer=footer)
