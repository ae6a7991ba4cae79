"""The chapter on the positive control: whether fusion gains where there is something to gain."""

from collections.abc import Mapping
from typing import Final

from histofuse.reporting.blocks import Block, Chapter, Note, Prose, Tone, not_run
from histofuse.reporting.figures import show_figures
from histofuse.reporting.inputs import Run
from histofuse.reporting.markdown_tables import read_grids

TITLE: Final = "Does fusion gain where there is something to gain?"
_ANCHOR: Final = "positive-control"
_TONES: Final[Mapping[str, Tone]] = {"yes": "good", "no": "bad", "inconclusive": "warn"}


def write_positive_control_chapter(run: Run) -> Chapter:
    """Write the chapter on linked patients."""
    content = run.read("positive_control")
    if content is None:
        missing = [not_run("The positive control", run.command("positive_control"))]
        return Chapter(_ANCHOR, TITLE, missing, "not run")
    verdict, folder = content["verdict"], run.locate("positive_control").parent
    patients = folder.parent / "patients"
    blocks: list[Block] = [
        Note(_TONES[verdict["answer"]], verdict["answer"].capitalize(), [verdict["sentence"]]),
        Prose(
            "Simulated patients have a tissue and a record of their own. A severity shows in both, "
            "and the outcome depends on what each side holds alone. The model that drew them says "
            "what is achievable from the same nuclei and recorded values. The image encoder of "
            "this run, which never saw these patients, embeds the tissue."
        ),
        show_figures(run, [folder / "positive_control.png"], ""),
        *read_grids(folder / "tables").values(),
        *read_grids(patients).values(),
        show_figures(run, [patients / "nuclei.png"], ""),
        Prose(
            "Two negative controls stand next to it. Records of other patients of the same split "
            "must bring nothing to the image. Under the null the outcome is drawn from the "
            "recorded values, so the tissue adds nothing to them, though it tells of the outcome."
        ),
    ]
    if run.sources[0] != "simulated":
        text = "The encoder learnt from real tissue and sees simulated one: it may reach less."
        blocks.insert(1, Note("warn", text))
    return Chapter(_ANCHOR, TITLE, blocks)
