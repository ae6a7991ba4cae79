import pytest
from pydantic import ValidationError

from histofuse.params.base import load_section
from histofuse.params.evaluation import AssessmentParams

VALUES = {
    "thresholds": {"low": 0.1, "high": 0.5, "step": 0.1},
    "specificities": [0.9],
    "sensitivities": [0.9],
    "coverage": 0.9,
    "conformal_score": "lac",
    "age_bands_years": [50, 65],
    "fewest_in_subgroup": 20,
}


def test_the_projects_own_section_is_whole():
    assert load_section(AssessmentParams, "assessment").coverage == 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"thresholds": {"low": 0.5, "high": 0.4, "step": 0.1}},
        {"age_bands_years": [65, 50]},
        {"age_bands_years": [50, 50]},
        {"coverage": 1.0},
        {"specificities": []},
        {"conformal_score": "aps"},  # not defined of two classes
    ],
)
def test_values_without_a_meaning_are_refused(change):
    AssessmentParams.model_validate(VALUES)
    with pytest.raises(ValidationError):
        AssessmentParams.model_validate(VALUES | change)
