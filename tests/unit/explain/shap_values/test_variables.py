"""Columns become the variables that a clinician knows."""

import numpy as np
import pandas as pd
import pytest

from histofuse.explain.shap_values.variables import describe_variables, name_variables, sum_columns
from histofuse.features.encoding import fit_encoder
from histofuse.features.specs import FeatureSpec
from histofuse.params.ehr import EncodingParams

LAB = ("haemoglobin", "continuous", "g/dL", "laboratory")
SPECS = [
    FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance"),
    FeatureSpec("haemoglobin_mean", *LAB, "Haemoglobin, mean value up to now", True),
    FeatureSpec("haemoglobin_min", *LAB, "Haemoglobin, lowest value up to now", True),
    FeatureSpec("her2", "her2", "binary", "", "treatment", "HER2-directed therapy"),
]


@pytest.fixture(scope="module")
def encoder():
    rows = pd.DataFrame(
        {
            "insurance": ["Medicaid", "Medicare", None, "Other"],
            "haemoglobin_mean": [11.0, 12.5, None, 9.0],
            "haemoglobin_min": [10.0, 12.0, None, 8.0],
            "her2": [0, 1, 0, 1],
        }
    )
    params = EncodingParams(
        maximum_missing=0.9, strata=[], indicator_minimum_missing=0.05, fewest_patients=1
    )
    return fit_encoder(rows, SPECS, params)


def test_all_columns_of_a_variable_are_one(encoder):
    assert name_variables(encoder, SPECS) == {
        "insurance=medicaid": "insurance",
        "insurance=medicare": "insurance",
        "insurance=other": "insurance",
        "haemoglobin_mean": "haemoglobin",
        "haemoglobin_min": "haemoglobin",
        "haemoglobin_missing": "haemoglobin",
        "her2": "her2",
    }
    values = np.array([[1.0, -2.0, 0.5, 10.0, 20.0, 7.0, -3.0], [0, 0, 1, 0, 0, 0, 0.0]])
    table = sum_columns(values, encoder.feature_order, name_variables(encoder, SPECS))
    assert table.to_dict("list") == {
        "insurance": [-0.5, 1.0],
        "haemoglobin": [27.0, 0.0],
        "her2": [7.0, 0.0],
    }


def test_a_variable_has_its_clinical_meaning_and_unit(encoder):
    found = describe_variables(encoder, SPECS)
    assert {name: (v.meaning, v.unit) for name, v in found.items()} == {
        "insurance": ("Insurance", ""),
        "haemoglobin": ("Haemoglobin", "g/dL"),
        "her2": ("HER2-directed therapy", ""),
    }
    assert found["haemoglobin"].columns[-1].name == "haemoglobin_missing"


def test_a_category_is_written_by_name_even_where_it_is_missing(encoder):
    insurance = describe_variables(encoder, SPECS)["insurance"]
    columns = list(insurance.categories)
    known, gap = pd.Series([0.0, 1.0, 0.0], columns), pd.Series([np.nan] * 3, columns)
    assert insurance.describe_value(known, known) == "medicare"
    assert insurance.describe_value(gap, known) == "not known, read as medicare"
    assert insurance.describe_value(gap, gap) == "not known"
    assert insurance.describe_value(known * 0, known * 0) == "none of those known"
