"""Chapters -> one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from histofuse.reporting.blocks import Chapter

if TYPE_CHECKING:
    from jinja2 import Environment

TITLE = "histofuse: results of a run and the evidence for them"


def render_page(chapters: Sequence[Chapter], *, simulated: bool, footer: str) -> str:
    """Render the page.

    Args:
        chapters: In order.
        simulated: Whether any data is simulated, which every chapter then states.
        footer: The line at the end.
    """
    template = _load_environment().get_template("page.html.j2")
    return template.render(title=TITLE, chapters=chapters, simulated=simulated, footer=footer)


@cache
def _load_environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("histofuse.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
