from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from histofuse.features.ehr import GROUPS
from histofuse.features.groups import Request
from histofuse.features.labs import load_labs
from histofuse.features.ranges import find_outside, load_ranges
from histofuse.features.treatments import load_treatments
from histofuse.params.ehr import EhrFeaturesParams

PARAMS = EhrFeaturesParams(
    comorbidities="elixhauser_quan",
    diagnoses_from="prior",
    index_diagnoses="all",
    labs=list(load_labs()),
    lab_lookback_hours=24.0,
    treatments=list(load_treatments()),
    treatment_lookback_days=365.0,
)


def test_every_continuous_feature_has_a_range_in_its_unit():
    request = Request(pl.DataFrame(), Path(), PARAMS, "discharge", frozenset())
    specs = [s for g in GROUPS for s in g.specs(request) if s.kind == "continuous"]
    assert len(specs) > 100
    for spec in specs:
        assert spec.range == load_ranges()[spec.variable], spec.name
        assert spec.range.low < spec.range.high


# Values in another unit, and what systems write for "not known".
WRONG = [
    ("haemoglobin", 120.0),  # g/L
    ("haematocrit", 0.41),  # a fraction
    ("creatinine", 90.0),  # umol/L
    ("albumin", 41.0),  # g/L
    ("calcium", 2.3),  # mmol/L
    ("glucose", 5.5),  # mmol/L
    ("platelets", 250_000.0),  # per uL
    ("white_cells", 7_500.0),
    ("white_cells", 999.0),
    ("total_protein", 70.0),
    ("hba1c", 48.0),  # mmol/mol
    ("uric_acid", 310.0),  # umol/L
    ("alkaline_phosphatase", 9_999.0),
    ("alkaline_phosphatase", 1.2),  # ukat/L
    ("lactate_dehydrogenase", 3.5),
    ("age_years", 22_645.0),  # days
    ("age_years", 744.0),  # months
    ("age_years", 1e308),
    ("age_years", -1.0),
    ("haemoglobin", -1e6),
    ("sodium", 0.0),
    ("sodium", np.inf),
]


@pytest.mark.parametrize(("variable", "value"), WRONG)
def test_placeholders_and_other_units_are_outside(variable, value):
    table = pd.DataFrame({variable: [value, None]})
    assert find_outside(table, load_ranges())[variable].tolist() == [True, False]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("haemoglobin", 3.1),
        ("creatinine", 24.0),
        ("alkaline_phosphatase", 2_900.0),
        ("alt", 11_000.0),
        ("sodium", 171.0),
        ("platelets", 4.0),
        ("white_cells", 520.0),
        ("age_years", 91.0),
        ("age_years", 0.0),
        ("length_of_stay_days", 515.6),
    ],
)
def test_values_of_the_very_ill_are_inside(variable, value):
    assert not find_outside(pd.DataFrame({variable: [value]}), load_ranges()).any().any()
