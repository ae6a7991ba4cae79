"""Named laboratory values of an admission up to its prediction time, in their standard units."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import polars as pl

from histofuse.core.errors import collect_faults
from histofuse.data.mimic_tables import TABLES, collect_rows, find_table, scan_rows
from histofuse.features.groups import FeatureGroup, Giveaway, Request, choose, require_content
from histofuse.features.ranges import Range, load_ranges
from histofuse.features.specs import KEY, FeatureSpec

DEFINITIONS: Final = Path(__file__).parent / "labs.json"
STATISTICS: Final = ("mean", "min", "max")
LABEVENT_COLUMNS: Final = TABLES["labevents"].used
# Sums of whole numbers do not depend on the order in which a parallel scan meets the rows, so
# values are summed in ten-thousandths of their unit.
_STEPS: Final = 10_000
_STANDARD, _CONVERTED, _CORRECTED = "as_recorded", "unit_converted", "unit_corrected"
_NO_NUMBER, _UNKNOWN_UNIT, _IMPLAUSIBLE = "no_number", "unknown_unit", "implausible"
_FEWEST_WRONG: Final = 20  # rows of a laboratory value that tell of its unit
FATES: Final = (_STANDARD, _CONVERTED, _CORRECTED, _NO_NUMBER, _UNKNOWN_UNIT, _IMPLAUSIBLE)


@dataclass(frozen=True)
class Lab:
    """How one laboratory value is read."""

    name: str  # in params
    label: str  # in words
    range: Range  # what a patient can have, in the standard unit
    itemids: Sequence[int]  # MIMIC-IV d_labitems.itemid; several analysers may measure the same
    # unit, lower case and without blanks, to its factor; the empty one is a null unit
    units: Mapping[str, float]
    typical: Sequence[float]  # lowest and highest value that a corrected mix-up may have
    # factors tried on a value outside its range that claims the standard unit
    mix_up: Sequence[float]


@cache
def load_labs() -> Mapping[str, Lab]:
    """Load the definitions that come with the package."""
    labs, ranges = json.loads(DEFINITIONS.read_text("utf-8"))["labs"], load_ranges()
    return {
        name: Lab(**lab | {"units": _normalise_units(lab["units"])}, name=name, range=ranges[name])
        for name, lab in labs.items()
    }


def _normalise_units(units: Mapping[str, float]) -> dict[str, float]:
    spelt = pl.select(_spell_units(pl.lit(pl.Series(list(units))))).to_series()
    return dict(zip(spelt, units.values(), strict=True)) | {"": 1.0}


def _spell_units(units: pl.Expr) -> pl.Expr:
    """Bring units to one spelling: "10*9 / L" and "x10E9/L", "mcmol/L" and "µmol/l" are one."""
    return (
        units.str.normalize("NFKC")
        .str.to_lowercase()
        .str.replace_all(r"[\s\[\]()]", "")
        .str.replace_all("μ|mc(mol|g|l|kat)", "u$1")
        .str.replace(r"^x?10(?:\*\*|[*^e])?(\d+)", "10^$1")
        .str.replace("^gm?/", "g/")
    )


def choose_labs(names: Sequence[str]) -> list[Lab]:
    """Look up laboratory values by name, as `choose` does."""
    return choose(names, load_labs(), "ehr_features.labs")


def aggregate_labs(
    labevents: pl.LazyFrame, index: pl.DataFrame, labs: Sequence[Lab], *, lookback_hours: float
) -> pl.LazyFrame:
    """Aggregate `LABEVENT_COLUMNS`, one row per index admission and laboratory value.

    A row counts if it was drawn between `lookback_hours` before the admission and the prediction
    time, both included, and its result was stored by the prediction time; a null ``storetime`` is
    taken for the ``charttime``. A row of another admission never counts; one without ``hadm_id``
    (the emergency department's, mostly) is assigned by patient and time.

    Returns key, ``lab``, `STATISTICS` (null where no value was usable), and a count of rows a name
    of `FATES`. Admissions without rows are absent. Source: MIMIC-IV hosp/labevents.
    """
    items = [(i, lab.name, lab.range.low, lab.range.high) for lab in labs for i in lab.itemids]
    named = labevents.join(_tabulate(items, "itemid:int lab low:float high:float").lazy(), "itemid")
    rows = _join_window(named, index, lookback_hours)
    value = pl.col("value")
    return (
        _judge_values(rows, labs)
        .group_by(*KEY, "lab")
        .agg(
            (value.sum() / value.count() / _STEPS).alias("mean"),
            (value.min() / _STEPS).alias("min"),
            (value.max() / _STEPS).alias("max"),
            *((pl.col("fate") == fate).sum().cast(pl.Int64).alias(fate) for fate in FATES),
        )
        .with_columns(pl.col(STATISTICS).fill_nan(None))
    )


def _tabulate(rows: Iterable[tuple[object, ...]], words: str) -> pl.DataFrame:
    """Make a table of rows; a column without a type is text."""
    types = {"": pl.String, "int": pl.Int64, "float": pl.Float64}
    schema = {name: types[kind] for name, _, kind in (w.partition(":") for w in words.split())}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def _join_window(rows: pl.LazyFrame, index: pl.DataFrame, lookback_hours: float) -> pl.LazyFrame:
    opens = pl.col("admittime") - pl.duration(seconds=round(lookback_hours * 3600))
    windows = index.select(*KEY, "prediction_time", opens=opens)
    own = (pl.col("row_hadm_id") == pl.col("hadm_id")).fill_null(True)
    stored = (pl.col("storetime") <= pl.col("prediction_time")).fill_null(True)
    return (
        rows.rename({"hadm_id": "row_hadm_id"})
        .join(windows.lazy(), on="subject_id", how="inner")
        .filter(own & stored & pl.col("charttime").is_between("opens", "prediction_time"))
    )


def _judge_values(rows: pl.LazyFrame, labs: Sequence[Lab]) -> pl.LazyFrame:
    """Replace ``valuenum`` and ``valueuom`` by ``value`` (ten-thousandths) and ``fate``."""
    units = [(lab.name, unit, factor) for lab in labs for unit, factor in lab.units.items()]
    factors = _tabulate(units, "lab unit factor:float").lazy()
    judged = (
        rows.with_columns(unit=_spell_units(pl.col("valueuom").fill_null("")))
        .join(factors, on=["lab", "unit"], how="left")
        .with_columns(converted=pl.col("valuenum") * pl.col("factor"))
        .with_columns(corrected=_correct_mix_up(labs))
        .with_columns(fate=_judge())
    )
    usable = pl.when(pl.col("fate").is_in([_STANDARD, _CONVERTED])).then("converted")
    value = usable.when(pl.col("fate") == _CORRECTED).then("corrected")
    return judged.with_columns(value=(value * _STEPS).round().cast(pl.Int64))


def _correct_mix_up(labs: Sequence[Lab]) -> pl.Expr:
    """The value in the standard unit if it was recorded in another one by mistake, else null."""
    tries = [pl.lit(None, dtype=pl.Float64)]
    for lab in labs:
        for factor in lab.mix_up:
            guess = pl.col("valuenum") * factor
            fits = (pl.col("lab") == lab.name) & guess.is_between(lab.typical[0], lab.typical[1])
            tries.append(pl.when(fits).then(guess))
    return pl.coalesce(tries)


def _judge() -> pl.Expr:
    claims_standard = pl.col("factor") == 1.0
    plausible = pl.col("converted").is_between("low", "high")
    fates = {  # the first that holds
        _NO_NUMBER: pl.col("valuenum").is_null() | pl.col("valuenum").is_nan(),
        _UNKNOWN_UNIT: pl.col("factor").is_null(),
        _STANDARD: plausible & claims_standard,
        _CONVERTED: plausible,
        _CORRECTED: claims_standard & pl.col("corrected").is_not_null(),
    }
    tries = (pl.when(holds).then(pl.lit(fate)) for fate, holds in fates.items())
    return pl.coalesce(*tries, pl.lit(_IMPLAUSIBLE))


def spread_labs(aggregated: pl.DataFrame, index: pl.DataFrame, labs: Sequence[Lab]) -> pl.DataFrame:
    """Turn aggregates into columns ``<lab>_<statistic>``, in the order of `index`."""
    table = index.select(KEY)
    for lab in labs:
        names = {statistic: f"{lab.name}_{statistic}" for statistic in STATISTICS}
        columns = aggregated.filter(pl.col("lab") == lab.name).select(*KEY, *STATISTICS)
        table = table.join(columns.rename(names), on=KEY, how="left", maintain_order="left")
    return table


def count_fates(aggregated: pl.DataFrame, labs: Sequence[Lab]) -> pl.DataFrame:
    """Count the rows of each laboratory value within the windows, by how they were judged.

    Returns ``lab``, ``unit``, ``low``, ``high``, ``rows``, and a count a name of `FATES`, in the
    order of `labs`.
    """
    kinds = [(lab.name, lab.range.unit, lab.range.low, lab.range.high) for lab in labs]
    table = _tabulate(kinds, "lab unit low:float high:float")
    counts = aggregated.group_by("lab").agg(pl.col(FATES).sum())
    joined = table.join(counts, on="lab", how="left", maintain_order="left")
    joined = joined.with_columns(pl.col(FATES).fill_null(0))
    return joined.select(*table.columns, pl.sum_horizontal(FATES).alias("rows"), *FATES)


def require_units(fates: pl.DataFrame, where: str | Path) -> None:
    """Refuse a laboratory value of which most rows are in another unit than they say.

    Among them those that happen to be plausible are wrong, and cannot be told. Raises InputError
    with each of which more than half of its numbers, and at least `_FEWEST_WRONG`, are corrected,
    of an unknown unit or implausible.
    """
    causes = {
        _CORRECTED: "seem to be in another unit",
        _UNKNOWN_UNIT: "are in an unknown unit",
        _IMPLAUSIBLE: "are implausible",
    }
    with collect_faults() as faults:
        for row in fates.iter_rows(named=True):
            wrong, numbers = sum(row[fate] for fate in causes), row["rows"] - row[_NO_NUMBER]
            if wrong < _FEWEST_WRONG or 2 * wrong <= numbers:
                continue
            lab, unit = row["lab"], row["unit"]
            told = ", ".join(f"{row[f]:,} {cause}" for f, cause in causes.items() if row[f])
            problem = f"{wrong:,} of {numbers:,} values: {told}"
            expected = f"{row['low']:g} to {row['high']:g} {unit}, or another unit in valueuom"
            ways = f"Name the unit as {DEFINITIONS.name} does, or leave {lab} out of"
            faults.add(f"{where}, {lab}", problem, expected, f"{ways} ehr_features.labs.")


def _list_specs(request: Request) -> list[FeatureSpec]:
    return [
        FeatureSpec(
            name=f"{lab.name}_{statistic}",
            variable=lab.name,
            kind="continuous",
            unit=lab.range.unit,
            group="laboratory",
            description=f"{lab.label}, {word} value up to the prediction time",
            indicator=True,
            low=lab.range.low,
            high=lab.range.high,
        )
        for lab in choose_labs(request.params.labs)
        for statistic, word in zip(STATISTICS, ("mean", "lowest", "highest"), strict=True)
    ]


def _build(request: Request) -> tuple[pl.DataFrame, pl.DataFrame]:
    labs = [lab for lab in choose_labs(request.params.labs) if lab.name not in request.masked]
    keep = {"itemid": [itemid for lab in labs for itemid in lab.itemids], **request.subjects}
    rows = scan_rows(request.root, "labevents", LABEVENT_COLUMNS, keep)
    hours, path = request.params.lab_lookback_hours, find_table(request.root, "labevents")
    aggregated = aggregate_labs(rows, request.index, labs, lookback_hours=hours)
    collected = collect_rows(aggregated, path)
    table, fates = spread_labs(collected, request.index, labs), count_fates(collected, labs)
    problem = f"no value of ehr_features.labs is usable, out of {fates['rows'].sum():,} rows"
    require_content(table, path, problem, "Check subject_id, hadm_id, itemid, times and units.")
    require_units(fates, path)
    return table, fates


_MARKERS: Final = Giveaway(
    "cancer",
    "a tumour marker, measured in those known to have the cancer",
    ("cea", "ca_125", "ca_15_3", "ca_19_9", "ca_27_29"),
)
LABORATORY: Final = FeatureGroup("laboratory", _list_specs, _build, gives_away=(_MARKERS,))
