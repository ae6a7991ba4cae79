import pytest
from pydantic import ValidationError

from histofuse.params.ehr import CohortParams
from histofuse.params.simulation import MimicSimulationParams

DECLARATION = {
    "icd9": ["174"],
    "icd10": ["C50"],
    "minimum_age_years": 18,
    "target": "mortality_1y",
    "index_admission": "first",
    "prediction_time": "discharge",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"icd9": [174]},  # a number would lose leading zeros
        {"icd10": ["C50.1"]},
        {"icd10": [""]},  # would match every code
        {"target": 1},
        {"index_admission": "second"},
        {"prediction_time": "noon"},
        {"minimum_age_years": -1},
        {"horizon": 1},
    ],
)
def test_nonsense_is_refused(wrong):
    CohortParams(**DECLARATION)
    with pytest.raises(ValidationError):
        CohortParams(**(DECLARATION | wrong))


@pytest.mark.parametrize("wrong", [{"patients": 10}, {"breast_cancer_fraction": 1.0}])
def test_a_hospital_too_small_or_one_sided_is_refused(wrong):
    with pytest.raises(ValidationError):
        MimicSimulationParams(**({"patients": 100, "breast_cancer_fraction": 0.4} | wrong))
