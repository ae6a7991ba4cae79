"""The chapter on the positive control: whether fusion gains where there is something to gain."""

from collections.abc import Mapping
from typing import Any, Final

from histofuse.core.ids import SPLITS
from histofuse.reporting.blocks import Block, Chapter, Note, Prose, Tone, not_run
from histofuse.reporting.figures import show_figures
from histofuse.reporting.inputs import Run
from histofuse.reporting.markdown_tables import read_grids

TITLE: Final = "Does fusion gain where there is something to gain?"
OWN_TITLE: Final = "Do tissue and record of one patient tell more than either?"
_SIMULATED: Final = (
    "Simulated patients have a tissue and a record of their own. A severity shows in both, and the "
    "outcome depends on what each side holds alone. The model that drew them says what is "
    "achievable from the same nuclei and recorded values. The image encoder of this run, which "
    "never saw these patients, embeds the tissue."
)
_CHANCE: Final = "Records of other patients of the same split must bring nothing to the image."
_CONTROLS: Final = (
    f"Two negative controls stand next to it. {_CHANCE} Under the null the outcome is drawn from "
    "the recorded values, so the tissue adds nothing to them, though it tells of the outcome."
)
_OWN_CONTROLS: Final = f"{_CHANCE} What is achievable on real patients is not known."
_ANCHOR: Final = "positive-control"
_TONES: Final[Mapping[str, Tone]] = {"yes": "good", "no": "bad", "inconclusive": "warn"}


def write_positive_control_chapter(run: Run) -> Chapter:
    """Write the chapter on linked patients."""
    content = run.read("positive_control")
    if content is None:
        missing = [not_run("The positive control", run.command("positive_control"))]
        return Chapter(_ANCHOR, TITLE, missing, "not run")
    verdict, folder = content["verdict"], run.locate("positive_control").parent
    own, patients = content.get("own"), folder.parent / "patients"
    blocks: list[Block] = [
        Note(_TONES[verdict["answer"]], verdict["answer"].capitalize(), [verdict["sentence"]]),
        Prose(_describe_own(run, own) if own else _SIMULATED),
        show_figures(run, [folder / "positive_control.png"], ""),
        *read_grids(folder / "tables").values(),
        *read_grids(patients).values(),
        Prose(_OWN_CONTROLS if own else _CONTROLS),
    ]
    if not own and run.sources[0] != "simulated":
        text = "The encoder learnt from real tissue and sees simulated one: it may reach less."
        blocks.insert(1, Note("warn", text))
    return Chapter(_ANCHOR, OWN_TITLE if own else TITLE, blocks)


def _describe_own(run: Run, own: Mapping[str, Any]) -> str:
    """Describe the patients of the crosswalk."""
    counts = ", ".join(f"{own['patients'][split]} {split}" for split in SPLITS)
    partners = f" {own['partners']}." if run.shows_patients else ""
    return (
        f"Patients whom the crosswalk links to their own tissue: {counts}.{partners} The outcome "
        f"is {run.cohort['description']}. The nuclei of all cases of a patient form one bag, which "
        "the image encoder of this run embeds. It learnt from the nuclei of the train patients, "
        "whose embeddings tell more of their classes than those of new patients do."
    )
