import pytest

from histofuse.core.ids import identify, list_spellings, unify_names

SPELLINGS = ["Case_10", "case_10", "Case_010", "Case-10", "CASE 10", "Case10", "Case_10 "]
SPELLINGS += ["Ｃａｓｅ＿１０", "Case–10", "Case\u200b_10", "Case_١٠"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_one_case_are_one(spelling):
    assert identify(spelling) == identify("Case_10")


def test_a_number_written_as_a_float_is_the_number():
    assert identify("10.0") == identify("010") == identify(" 10 ") == "10"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Case_1", "Case_10"),
        ("Case_1_2", "Case_12"),
        ("Case_1.2", "Case_12"),
        ("Case_10", "Case_100"),
        ("A+1", "A1"),
        ("Fall_Ä", "Fall_A"),
        ("___", "--"),
    ],
)
def test_what_means_two_things_stays_two(one, other):
    assert identify(one) != identify(other)


def test_one_spelling_stands_for_all():
    names = ["case_2", "Case_02", "Case_3"]
    assert unify_names(names) == {"Case_02": "Case_02", "Case_3": "Case_3", "case_2": "Case_02"}
    assert list_spellings(names) == [["Case_02", "case_2"]]
