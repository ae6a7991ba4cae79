import pytest

from histofuse.training.decision import choose_focus_class


@pytest.mark.parametrize(
    ("classes", "labels", "target", "expected"),
    [
        (["mitosis", "tumour"], ["mitosis"] * 3 + ["tumour"], None, "mitosis"),
        (["apoptosis", "tumour", "tubule"], ["apoptosis", "tumour", "apoptosis"], None, "tumour"),
        (["no_death", "death"], [], "death", "death"),
    ],
)
def test_class_in_focus_is_the_target_or_mitosis_or_the_rarest(classes, labels, target, expected):
    assert choose_focus_class(classes, labels, target=target) == expected
