"""The chapter on the positive control."""

import pytest
from tests.unit.reporting.conftest import TABLE, put, put_picture

from histofuse.core.artifacts import load_json, write_json
from histofuse.reporting.blocks import Bullets, Grid, Note, Prose
from histofuse.reporting.chapters.first_page import write_first_page
from histofuse.reporting.chapters.positive_control import write_positive_control_chapter
from histofuse.reporting.inputs import ARTIFACTS, find_run

FOLDER = "reports/positive_control"
SENTENCE = "AUROC +0.080 [+0.040, +0.120] over the better side."


@pytest.fixture
def with_control(project):
    verdict = {"answer": "yes", "sentence": SENTENCE, "fusion": "gated"}
    write_json({"verdict": verdict}, project / ARTIFACTS["positive_control"].path)
    put(project, f"{FOLDER}/tables/positive_control.md", TABLE)
    put_picture(project, f"{FOLDER}/positive_control.png")
    put(project, "reports/patients/methods.md", TABLE)
    return project


def test_chapter_holds_verdict_figure_table_and_says_what_the_controls_are(with_control):
    chapter = write_positive_control_chapter(find_run(with_control))
    note = next(b for b in chapter.blocks if isinstance(b, Note))
    assert (note.tone, note.title, note.lines) == ("good", "Yes", [SENTENCE])
    assert len([b for b in chapter.blocks if isinstance(b, Grid)]) == 2  # arms, methods
    assert len([f for b in chapter.blocks for f in getattr(b, "figures", ())]) == 1
    assert "negative controls" in " ".join(b.text for b in chapter.blocks if isinstance(b, Prose))


def test_first_page_states_the_gain_on_linked_patients(with_control):
    blocks = write_first_page(find_run(with_control)).blocks
    last = next(b for b in blocks if isinstance(b, Bullets)).items[-1]
    assert last.endswith(f"both predict the outcome better than either: {SENTENCE}")


def test_own_patients_are_named_and_nothing_is_said_of_simulated_ones(with_control):
    path = with_control / ARTIFACTS["positive_control"].path
    patients = {"train": 20, "validation": 5, "test": 12}
    own = {"target": "relapse", "partners": "9 of 10 cases", "patients": patients}
    write_json(load_json(path) | {"own": own}, path)

    chapter = write_positive_control_chapter(find_run(with_control))
    text = " ".join(b.text for b in chapter.blocks if isinstance(b, Prose))

    assert chapter.title == "Do tissue and record of one patient tell more than either?"
    assert "20 train, 5 validation, 12 test. 9 of 10 cases." in text
    assert "learnt from the nuclei of the train patients" in text
    assert "imulated" not in text
    blocks = write_first_page(find_run(with_control)).blocks
    said = " ".join(item for b in blocks if isinstance(b, Bullets) for item in b.items)
    assert "Where tissue and record are of one patient, both predict" in said
    assert "the pairs of Fusion, label-blind belong to different people" in said


def test_chapter_says_how_to_run_what_was_not_run(project):
    chapter = write_positive_control_chapter(find_run(project))
    assert chapter.lead == "not run"
    assert chapter.blocks[0].lines == ["Run it with: dvc repro positive_control"]


def test_an_encoder_of_real_tissue_is_said_to_see_another_kind(with_control):
    put(with_control, "data/patches/meta.json", {"source": "brecahad", "classes": ["mitosis"]})
    titles = [
        b.title
        for b in write_positive_control_chapter(find_run(with_control)).blocks
        if isinstance(b, Note)
    ]
    assert any("real tissue" in title for title in titles)
