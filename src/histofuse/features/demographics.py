"""Demographics and utilisation: who is admitted, how, and how often before."""

from functools import partial
from typing import Final

import polars as pl

from histofuse.features.categories import normalise_expression
from histofuse.features.groups import FeatureGroup, Giveaway
from histofuse.features.specs import KEY, describe

NIGHT_HOURS: Final = (20, 7)  # from 20:00 up to 06:59
_CATEGORIES: Final = {"sex": "sex", "race_group": "race"} | {
    name: name for name in ("insurance", "marital_status")
}


def build_demographics(index: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Describe the patients: key and features, in the order of `index` (`data.cohort.ADMISSIONS`).

    Source: MIMIC-IV hosp/admissions, and hosp/patients by way of the cohort.
    """
    language = pl.col("language").str.strip_chars().str.to_lowercase()
    english = language.str.starts_with("english").fill_null(False)
    return _join_own(index, admissions, "language").select(
        *KEY,
        "age_years",
        *(
            normalise_expression(feature, pl.col(column)).alias(feature)
            for feature, column in _CATEGORIES.items()
        ),
        language_english=english.cast(pl.Int8),
    )


def build_utilisation(index: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Describe the index admissions and those before: key and features, in the order of `index`.

    ``length_of_stay_days`` is null where the prediction comes before the discharge, and
    ``days_since_last_admission`` where there is no earlier admission. The day of the week is left
    out, since dates are shifted patient by patient. Source: MIMIC-IV hosp/admissions.
    """
    table = _join_own(index, admissions, "admission_location", "edregtime")
    table = table.join(_count_earlier(index, admissions), on=KEY, how="left", maintain_order="left")
    hour = pl.col("admittime").dt.hour()
    stay = (pl.col("dischtime") - pl.col("admittime")).dt.total_seconds() / 86_400
    location = pl.col("admission_location").fill_null("").str.to_uppercase()
    return table.select(
        *KEY,
        admission_kind=normalise_expression("admission_kind", pl.col("admission_type")),
        emergency_department=pl.col("edregtime").is_not_null().cast(pl.Int8),
        transferred_in=location.str.contains("TRANSFER FROM").cast(pl.Int8),
        admitted_at_night=((hour >= NIGHT_HOURS[0]) | (hour < NIGHT_HOURS[1])).cast(pl.Int8),
        prior_admissions=pl.col("prior_admissions").fill_null(0).cast(pl.Float64),
        days_since_last_admission=pl.col("days_since_last_admission"),
        length_of_stay_days=pl.when(pl.col("prediction_time") >= pl.col("dischtime")).then(stay),
    )


def _join_own(index: pl.DataFrame, admissions: pl.DataFrame, *columns: str) -> pl.DataFrame:
    own = admissions.select(*KEY, *columns)
    return index.join(own, on=KEY, how="left", maintain_order="left")


def _count_earlier(index: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Count the admissions that began before, and the days since the last of them ended."""
    pairs = index.select(*KEY, "admittime").join(
        admissions.select(*KEY, "admittime", "dischtime"), on="subject_id", suffix="_other"
    )
    another = pl.col("hadm_id_other") != pl.col("hadm_id")
    earlier = pairs.filter(another, pl.col("admittime_other") < pl.col("admittime"))
    gap = pl.col("admittime").first() - pl.col("dischtime").max()
    return earlier.group_by(KEY).agg(
        prior_admissions=pl.len(),
        # Records overlap by some minutes; a negative gap is none.
        days_since_last_admission=(gap.dt.total_seconds() / 86_400).clip(lower_bound=0.0),
    )


_demographic = partial(describe, "demographics")
_use = partial(describe, "utilisation")

DEMOGRAPHICS: Final = FeatureGroup(
    "demographics",
    specs=lambda _: (
        _demographic("age_years", "continuous", "Age at the admission", "years"),
        _demographic("sex", "categorical", "Sex as recorded: F or M"),
        _demographic("race_group", "categorical", "Recorded race, in six groups"),
        _demographic("insurance", "categorical", "Insurance"),
        _demographic("marital_status", "categorical", "Marital status"),
        _demographic("language_english", "binary", "Speaks English"),
    ),
    build=lambda request: (build_demographics(request.index, request.admissions), None),
)
UTILISATION: Final = FeatureGroup(
    "utilisation",
    specs=lambda _: (
        _use("admission_kind", "categorical", "Emergency, elective or observation"),
        _use("emergency_department", "binary", "Came through the emergency department"),
        _use("transferred_in", "binary", "Transferred from another institution"),
        _use("admitted_at_night", "binary", "Admitted between 20:00 and 06:59"),
        _use("prior_admissions", "continuous", "Admissions before this one", "admissions"),
        _use(
            "days_since_last_admission",
            "continuous",
            "Days since the end of the last admission before this one; missing for a first one",
            "days",
        ),
        _use("length_of_stay_days", "continuous", "Days from admission to discharge", "days"),
    ),
    build=lambda request: (build_utilisation(request.index, request.admissions), None),
    gives_away=(
        Giveaway(
            "discharge",
            "known only at discharge, after the prediction",
            ("length_of_stay_days", "discharge_location"),
        ),
        Giveaway(
            "ending",
            "records how the admission, or the life, ended",
            ("hospital_expire_flag", "deathtime", "dod"),
        ),
        Giveaway("destination", "'DIED' and 'HOSPICE' are the outcome", ("discharge_location",)),
    ),
)
