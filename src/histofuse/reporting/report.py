"""All chapters -> ``reports/index.html``, and the documents attached to a model."""

from pathlib import Path
from typing import Final

from histofuse.core.artifacts import write_text
from histofuse.core.errors import InputError
from histofuse.core.progress import report
from histofuse.reporting.blocks import Chapter
from histofuse.reporting.chapters.data import write_data_chapter, write_split_chapter
from histofuse.reporting.chapters.detection import write_detection_chapter
from histofuse.reporting.chapters.evidence import (
    write_controls_chapter,
    write_explanations_chapter,
    write_use_chapter,
)
from histofuse.reporting.chapters.first_page import write_first_page
from histofuse.reporting.chapters.framing import (
    write_limits_chapter,
    write_provenance_chapter,
    write_question_chapter,
)
from histofuse.reporting.chapters.paper import write_paper_chapter
from histofuse.reporting.chapters.positive_control import write_positive_control_chapter
from histofuse.reporting.chapters.results import write_crossval_chapter, write_results_chapter
from histofuse.reporting.data_sheets import SIDES, write_data_sheet, write_sheets_chapter
from histofuse.reporting.inputs import Run, find_run
from histofuse.reporting.origin import Origin, find_origin
from histofuse.reporting.page import SIMULATED_DATA, render_page
from histofuse.reporting.tripod import write_tripod, write_tripod_chapter

PAGE: Final = Path("reports/index.html")


def write_report(root: Path = Path(), out: Path = PAGE) -> Path:
    """Write the page from the artifacts of the last run."""
    run = find_run(root)
    origin = find_origin(root)
    write_text(
        render_page(
            write_chapters(run, origin),
            caution=SIMULATED_DATA if run.simulated else None,
            footer=_sign(origin),
        ),
        root / out,
    )
    return root / out


def write_chapters(run: Run, origin: Origin) -> list[Chapter]:
    """Write all chapters in order."""
    return [
        write_first_page(run),
        write_question_chapter(run),
        write_data_chapter(run),
        write_split_chapter(run),
        write_results_chapter(run),
        write_positive_control_chapter(run),
        write_detection_chapter(run),
        write_controls_chapter(run),
        write_use_chapter(run),
        write_explanations_chapter(run),
        write_crossval_chapter(run),
        write_paper_chapter(run),
        write_limits_chapter(run),
        write_provenance_chapter(run, origin),
        write_tripod_chapter(run),
        write_sheets_chapter(run),
    ]


def _sign(origin: Origin) -> str:
    state = ", with local changes" if origin.dirty else ""
    commit = f"Commit {origin.commit[:12]}{state}. " if origin.commit else ""
    return f"{commit}For research. Not a medical device, not for decisions on patients."


def write_documents(root: Path = Path()) -> dict[str, str]:
    """Write a version's documents, name to Markdown: the same text for the same artifacts."""
    run = find_run(root)
    sheets = {f"data_sheet_{side}.md": write_data_sheet(run, side) for side in SIDES}
    return {**sheets, "tripod_ai.md": write_tripod(run)}


def find_documents(root: Path = Path()) -> dict[str, str]:
    """Write the documents of a complete run; if artifacts are missing, report them instead."""
    try:
        return write_documents(root)
    except InputError as error:
        report(f"models are published without data sheets and checklist: {error}")
        return {}
