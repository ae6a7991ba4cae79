"""Chapters -> one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from histofuse.reporting.blocks import Chapter

TITLE = "histofuse: results of a run and the evidence for them"


def render_page(
    chapters: Sequence[Chapter], *, simulated: bool, footer: str, title: str = TITLE
) -> str:
    """Render the page; if any data is simulated, every chapter says so."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("histofuse.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(title=title, chapters=chapters, simulated=simulated, footer=footer)
