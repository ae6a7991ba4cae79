import re

from histofuse.core.artifacts import write_json
from histofuse.reporting.inputs import ARTIFACTS, find_run
from histofuse.reporting.tripod import SECTIONS, answer_items, list_items, write_tripod


def answers(root):
    return {a.item.number: a for a in answer_items(find_run(root))}


def test_all_52_items_of_the_27_are_there_once():
    numbers = [item.number for item in list_items()]
    assert len(set(numbers)) == len(numbers) == 52
    assert list(dict.fromkeys(re.sub(r"\D", "", n) for n in numbers)) == [
        str(n) for n in range(1, 28)
    ]


def test_item_is_answered_once_its_artifact_is_there(project):
    before = answers(project)["14"]
    assert not before.answered
    assert before.missing == ("assessment",)
    assert "| 14 |" in write_tripod(find_run(project))
    assert re.search(
        r"\| 14 \|.*\| not answered \|.*assessment\.json", write_tripod(find_run(project))
    )

    write_json({}, project / ARTIFACTS["assessment"].path)
    assert answers(project)["14"].answered


def test_what_no_run_can_know_is_not_answered(project):
    found = answers(project)
    for number in ("17", "18a", "18b", "19", "27b"):
        assert not found[number].answered


def test_items_name_artifacts_and_sections_that_exist():
    items = list_items()
    assert {need for item in items for need in item.needs} <= {*ARTIFACTS, "models"}
    assert {section for item in items for section in item.sections} == set(SECTIONS) - {"controls"}
