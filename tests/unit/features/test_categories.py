import pandas as pd
import polars as pl
import pytest

from histofuse.features.categories import (
    describe_unlisted,
    normalise_category,
    normalise_column,
    normalise_expression,
)

SPELLINGS = [
    ("race_group", "WHITE", "white"),
    ("race_group", "WHITE - RUSSIAN", "white"),
    ("race_group", "white", "white"),
    ("race_group", "PORTUGUESE", "white"),
    ("race_group", "BLACK/CAPE VERDEAN", "black"),
    ("race_group", "HISPANIC/LATINO - CUBAN", "hispanic"),
    ("race_group", "HISPANIC OR LATINO", "hispanic"),
    ("race_group", "SOUTH AMERICAN", "hispanic"),
    ("race_group", "ASIAN - CHINESE", "asian"),
    ("race_group", "UNABLE TO OBTAIN", "unknown"),
    ("race_group", "PATIENT DECLINED TO ANSWER", "unknown"),
    ("race_group", "AMERICAN INDIAN/ALASKA NATIVE", "other"),
    ("race_group", "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", "other"),
    ("race_group", "MULTIPLE RACE/ETHNICITY", "other"),
    ("race_group", "OTHER", "other"),
    ("race_group", "Martian", "martian"),
    ("admission_kind", "EW EMER.", "emergency"),
    ("admission_kind", "URGENT", "emergency"),
    ("admission_kind", "SURGICAL SAME DAY ADMISSION", "elective"),
    ("admission_kind", "Elective", "elective"),
    ("admission_kind", "EU OBSERVATION", "observation"),
    ("admission_kind", "AMBULATORY  OBSERVATION ", "observation"),
    ("admission_kind", "SOMETHING NEW", "something new"),
    ("sex", "F", "F"),
    ("sex", "f", "F"),
    ("sex", "Female", "F"),
    ("sex", " MALE ", "M"),
    ("insurance", "Medicare", "medicare"),
    ("insurance", "Self\u00a0Pay", "self pay"),
    ("insurance", "  ", None),
]


@pytest.mark.parametrize(("feature", "text", "category"), SPELLINGS)
def test_every_spelling_is_one_category_in_training_and_prediction(feature, text, category):
    assert normalise_category(feature, text) == category
    trained = pl.DataFrame({"x": [text]}).select(normalise_expression(feature, pl.col("x")))
    assert trained.item() == category
    served = normalise_column(pd.Series([text, None], name=feature, dtype=object))
    assert served.tolist()[0] == category or (category is None and served.isna()[0])
    assert served.isna()[1]


@pytest.mark.parametrize(("feature", "category"), sorted({(f, c) for f, _, c in SPELLINGS if c}))
def test_a_category_stays_itself(feature, category):
    assert normalise_category(feature, category) == category


def test_categories_of_no_known_group_are_said():
    table = pd.DataFrame(
        {"sex": ["F", "männlich", None], "race_group": ["white"] * 3, "insurance": ["any"] * 3}
    )
    assert describe_unlisted(table) == ["sex: 1 of 3 values are none of F, M"]
