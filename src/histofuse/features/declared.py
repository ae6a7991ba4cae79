"""The feature table of a declared table: what its declaration names, and nothing else."""

from collections.abc import Sequence
from typing import Final

import pandas as pd
import polars as pl

from histofuse.core.errors import FaultList, collect_faults
from histofuse.core.text_tables import READERS
from histofuse.data.declared.table import DECLARATION, DeclaredTable
from histofuse.features.ehr import EhrFeatures, finish_features
from histofuse.features.labs import FATES
from histofuse.features.ranges import load_ranges
from histofuse.features.specs import KEY, FeatureSpec, Kind
from histofuse.params.records import Categorical, Feature, Numeric, Ordinal

GROUP: Final = "table"
_FEWEST_WRONG: Final = 20  # values that tell of another unit


def build_declared_features(source: DeclaredTable, cohort: pd.DataFrame) -> EhrFeatures:
    """Build the features of the rows of a cohort of the same table.

    Raises InputError with every cell that is not what is declared, numbers that are mostly outside
    their range, a unit other than that of histofuse's own feature of the name, and dates after the
    prediction.
    """
    declaration = source.declaration
    _check_units(source)
    with collect_faults() as faults:
        columns = {
            name: _read_feature(source, feature, faults)
            for name, feature in declaration.features.items()
        }
    table = source.cells.select(*KEY, *(series.alias(name) for name, series in columns.items()))
    kept = pl.from_pandas(cohort[list(KEY)]).join(table, on=KEY, how="left", maintain_order="left")
    specs = [_specify(name, feature) for name, feature in declaration.features.items()]
    masked = [
        {"group": GROUP, "name": column, "reason": reason}
        for column, reason in sorted(declaration.kept_back.items())
    ]
    facts = {
        "target": declaration.target.name,
        "prediction_time": declaration.prediction_time.description,
        "diagnoses_from": "none",
        "masked": masked,
    }
    return finish_features(kept, specs, facts, {"laboratory": _count_fates(kept, specs)})


def _count_fates(table: pl.DataFrame, specs: Sequence[FeatureSpec]) -> pd.DataFrame:
    """Count the values of each number within and outside its range, as `labs.count_fates` does."""
    rows = []
    for spec in (spec for spec in specs if spec.range):
        values = table[spec.name].drop_nulls()
        inside = int(values.is_between(spec.low, spec.high).sum())
        counts = dict.fromkeys(FATES, 0) | {FATES[0]: inside, FATES[-1]: values.len() - inside}
        named = {"lab": spec.name, "unit": spec.unit, "low": spec.low, "high": spec.high}
        rows.append({**named, "rows": values.len(), **counts})
    return pd.DataFrame(rows, columns=["lab", "unit", "low", "high", "rows", *FATES])


def _read_feature(source: DeclaredTable, feature: Feature, faults: FaultList) -> pl.Series:
    match feature:
        case Numeric():
            expected = f"a number of {feature.unit}" if feature.unit else "a number"
            numbers = source.read(feature.column, "float", expected, faults)
            _check_range(source, feature, numbers, faults)
            return numbers
        case Ordinal():
            return source.map(feature.column, feature.levels, faults)
        case Categorical(categories=categories):
            places = {name: float(n) for n, name in enumerate(categories)}
            numbers = source.map(feature.column, places, faults)
            names = {n: name for name, n in places.items()}
            return numbers.replace_strict(names, default=None, return_dtype=pl.String)
        case _:
            return _count_days(source, feature, faults)


def _check_range(
    source: DeclaredTable, feature: Numeric, numbers: pl.Series, faults: FaultList
) -> None:
    """Note a column that is mostly outside its range: the values inside are then wrong as well."""
    known = numbers.drop_nulls()
    outside = int((~known.is_between(feature.low, feature.high)).sum())
    if outside < min(_FEWEST_WRONG, known.len()) or 2 * outside <= known.len():
        return
    problem = f"{outside:,} of {known.len():,} values are outside the declared range"
    expected = f"mostly {feature.low:g} to {feature.high:g} {feature.unit}".strip()
    where = f"{source.path}, {feature.column}"
    faults.add(where, problem, expected, "Is the column in another unit than declared?")


def _count_days(source: DeclaredTable, feature: Feature, faults: FaultList) -> pl.Series:
    """Count the days from a date to the prediction; note dates that lie after it."""
    moment = source.declaration.prediction_time.column
    expected = READERS["date"][2]
    dates = (source.read(column, "date", expected, faults) for column in (moment, feature.column))
    days = pl.DataFrame({"now": next(dates), "then": next(dates)}).select(
        days=(pl.col("now") - pl.col("then")).dt.total_days().cast(pl.Float64)
    )["days"]
    late = source.cells.filter(days < 0)["line"]
    if late.len():
        more = f", as are {late.len() - 1} others" if late.len() > 1 else ""
        remedy = "What is dated later may give the target away: list it under gives_away."
        where = source.locate(late[0], feature.column)
        faults.add(where, f"lies after {moment}{more}", "a date up to the prediction", remedy)
    return days


def _check_units(source: DeclaredTable) -> None:
    with collect_faults() as faults:
        for name, feature in source.declaration.numeric.items():
            known = load_ranges().get(name)
            if known and feature.unit != known.unit:
                where = f"{source.path.with_name(DECLARATION)}, numeric.{name}.unit"
                remedy = "Convert the column, or give the feature another name."
                faults.add(where, f"is {feature.unit!r}", f"{known.unit!r} for {name}", remedy)


def _specify(name: str, feature: Feature) -> FeatureSpec:
    kind: Kind = "categorical" if isinstance(feature, Categorical) else "continuous"
    unit, low, high = "", None, None
    if isinstance(feature, Numeric):
        unit, low, high = feature.unit, feature.low, feature.high
    elif isinstance(feature, Ordinal):
        low, high = min(feature.levels.values()), max(feature.levels.values())
    elif kind == "continuous":
        unit = "days"
    return FeatureSpec(name, name, kind, unit, GROUP, feature.description, True, low, high)
