"""Features -> the numbers a model sees, learnt from train rows alone.

Continuous features are imputed by the median of their stratum and standardised; binary ones are
imputed by their mode; categorical ones are imputed by their mode and one-hot encoded. A sparse
clinical variable that is missing often enough also gets a 0/1 column ``<variable>_missing``. Of
columns that repeat each other on the train rows one stays.

A null or NaN always means "missing"; infinity is refused. Categories are normalised first
(`features.categories`); one never seen in train is encoded as all zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histofuse.core.artifacts import write_json
from histofuse.core.errors import FaultList, InputError, collect_faults
from histofuse.core.naming import show_count
from histofuse.core.tables import Contract, write_table
from histofuse.features.categories import normalise_column
from histofuse.features.ranges import Range
from histofuse.features.specs import KEY, FeatureSpec, Kind
from histofuse.params.ehr import EncodingParams

ENCODED: Final = Contract(
    name="encoded features",
    columns={"subject_id": "int", "hadm_id": "int", "split": "str", "target": "int"},
    key=KEY,
    open_ended=True,
)
FORMAT: Final = 2
AGE_BANDS_YEARS: Final = (40, 50, 60, 70, 80)  # below 40, 40-49, ..., 80 and above
_REPEAT_TOLERANCE: Final = 1e-6  # in standard deviations
STRATUM_COLUMNS: Final[Mapping[str, str]] = {"sex": "sex", "age_band": "age_years"}

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Continuous:
    """A continuous feature: imputed, then ``(value - mean) / std``."""

    name: str  # its column, before and after
    median: float  # over all train rows
    medians: dict[str, float]  # stratum to its median, for strata with a value
    mean: float  # over the train rows that have a value
    std: float  # likewise, of the population
    # of the train rows once standardised, rounded down to a whole number: no single patient's value
    # can be read from it
    lowest: float
    highest: float  # likewise, rounded up
    unit: str
    low: float | None  # the lowest plausible value; None if it has no range
    high: float | None
    kind: Kind = "continuous"

    @property
    def columns(self) -> tuple[str, ...]:
        """The encoded columns."""
        return (self.name,)

    @property
    def range(self) -> Range | None:
        """What is plausible; None if it has no range."""
        if self.low is None or self.high is None:
            return None
        return Range(self.unit, self.low, self.high)

    def is_beyond(self, values: pd.Series) -> pd.Series:
        """Tell which values lie beyond what the train rows span; missing ones do not."""
        standardised = (values.astype(np.float64) - self.mean) / self.std
        return (standardised < self.lowest) | (standardised > self.highest)

    def encode(self, values: pd.Series, strata: pd.Series, *, impute: bool) -> Values:
        """Encode a column, shape (rows, 1); imputed ones are clipped to what train rows span."""
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        missing = np.isnan(numbers)
        if impute and missing.any():
            medians = strata.map(self.medians).fillna(self.median).to_numpy(dtype=np.float64)
            numbers = np.where(missing, medians, numbers)
        standardised = (numbers - self.mean) / self.std
        if impute:
            standardised = standardised.clip(self.lowest, self.highest)
        return standardised[:, None]


@dataclass(frozen=True)
class Binary:
    """A 0/1 feature."""

    name: str  # its column, before and after
    mode: int  # what stands for a missing value; 0 on a tie
    kind: Kind = "binary"

    @property
    def columns(self) -> tuple[str, ...]:
        """The encoded columns."""
        return (self.name,)

    def encode(self, values: pd.Series, strata: pd.Series, *, impute: bool) -> Values:
        """Encode a column, shape (rows, 1)."""
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        if impute:
            numbers = np.where(np.isnan(numbers), float(self.mode), numbers)
        return numbers[:, None]


@dataclass(frozen=True)
class Categorical:
    """A categorical feature."""

    name: str  # its column before encoding; after it, one column ``<name>=<category>`` a category
    mode: str  # what stands for a missing value; the first in order on a tie
    categories: tuple[str, ...]  # those of train, sorted
    kind: Kind = "categorical"

    @property
    def columns(self) -> tuple[str, ...]:
        """The encoded columns."""
        return tuple(f"{self.name}={category}" for category in self.categories)

    def encode(self, values: pd.Series, strata: pd.Series, *, impute: bool) -> Values:
        """Encode a column, shape (rows, categories); an unknown category is all zeros."""
        missing = values.isna().to_numpy()
        texts = np.where(missing, self.mode if impute else "", values.to_numpy(dtype=object))
        hot = (texts[:, None] == np.array(self.categories, dtype=object)).astype(np.float64)
        if not impute:
            hot[missing] = np.nan
        return hot


@dataclass(frozen=True)
class Indicator:
    """A 0/1 column: 1 where a variable is missing."""

    variable: str
    sources: tuple[str, ...]  # its features; it is missing if all of them are

    @property
    def column(self) -> str:
        """The encoded column."""
        return f"{self.variable}_missing"

    def mark(self, features: pd.DataFrame) -> pd.Series:
        """Tell where the variable is missing."""
        return features[list(self.sources)].isna().all(axis=1)


@dataclass(frozen=True)
class Dropped:
    """A feature, or an indicator, that was left out."""

    name: str
    # ``missing`` (in too many train rows), ``constant`` (one value in all of them), ``few
    # patients`` (fewer than `EncodingParams.fewest_patients` have a value or share one), or
    # ``repeats <column>`` (the same, the opposite or on a line with it in all of them)
    reason: str
    missing: float  # share of train rows without it


@dataclass(frozen=True)
class Encoder:
    """What was learnt from the train rows; JSON holds all of it."""

    # names of the strata medians were taken within; those of params whose column is among the
    # features
    strata: tuple[str, ...]
    features: tuple[Continuous | Binary | Categorical, ...]  # in the order of their columns
    indicators: tuple[Indicator, ...]  # their columns stand last
    dropped: tuple[Dropped, ...]
    rows: int  # of train

    @property
    def feature_order(self) -> list[str]:
        """The encoded columns in order."""
        order = [column for feature in self.features for column in feature.columns]
        return order + [indicator.column for indicator in self.indicators]

    @cached_property
    def inputs(self) -> dict[str, Kind]:
        """The columns it needs, and their kinds; strata need theirs even where it was dropped."""
        needed: dict[str, Kind] = {feature.name: feature.kind for feature in self.features}
        kinds: dict[str, Kind] = {"sex": "categorical", "age_band": "continuous"}
        for stratum in self.strata:
            needed.setdefault(STRATUM_COLUMNS[stratum], kinds[stratum])
        return needed

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The plausible ranges of its inputs."""
        numbers = [feature for feature in self.features if isinstance(feature, Continuous)]
        return {number.name: number.range for number in numbers if number.range}

    @cached_property
    def descriptions(self) -> dict[str, str]:
        """What each of its inputs holds: type, unit and range, or categories."""
        features = {feature.name: feature for feature in self.features}
        return {n: _describe(kind, features.get(n)) for n, kind in self.inputs.items()}

    def to_dict(self) -> dict[str, Any]:
        """Turn into what ``encoder.json`` holds."""
        return {
            "format": FORMAT,
            "strata": list(self.strata),
            "age_bands_years": list(AGE_BANDS_YEARS),
            "features": [asdict(feature) for feature in self.features],
            "indicators": [asdict(indicator) for indicator in self.indicators],
            "dropped": [asdict(dropped) for dropped in self.dropped],
            "rows": self.rows,
            "feature_order": self.feature_order,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Encoder":
        """Read what `to_dict` wrote; InputError if of another format or at odds with itself."""
        if values.get("format") != FORMAT or values["age_bands_years"] != list(AGE_BANDS_YEARS):
            problem = f"format {values.get('format')!r}, age bands {values.get('age_bands_years')}"
            expected = f"format {FORMAT} and age bands {list(AGE_BANDS_YEARS)}"
            raise InputError.of("encoder.json", problem, expected, "Train the model again.")
        encoder = cls(
            strata=tuple(values["strata"]),
            features=tuple(_FEATURE_TYPES[f["kind"]](**_tupled(f)) for f in values["features"]),
            indicators=tuple(Indicator(**_tupled(i)) for i in values["indicators"]),
            dropped=tuple(Dropped(**d) for d in values["dropped"]),
            rows=values["rows"],
        )
        if encoder.feature_order != values["feature_order"]:
            problem = "feature_order does not follow from features and indicators"
            raise InputError.of("encoder.json", problem, "the file as it was written")
        return encoder


def _describe(kind: Kind, feature: Continuous | Binary | Categorical | None) -> str:
    if isinstance(feature, Categorical):
        return f"a text, or null; training had {', '.join(feature.categories)}"
    if not isinstance(feature, Continuous):
        return {"binary": "0 or 1, or null", "categorical": "a text, or null"}.get(
            kind, "a finite number, or null"
        )
    of = f" of {feature.unit}" if feature.unit else ""
    return f"a finite number{f' from {feature.range}' if feature.range else of}, or null"


_FEATURE_TYPES: Final = {"continuous": Continuous, "binary": Binary, "categorical": Categorical}


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def fit_encoder(
    train: pd.DataFrame, specs: Sequence[FeatureSpec], params: EncodingParams
) -> Encoder:
    """Learn the encoding of the train rows, in the order of `specs`.

    Without ``subject_id`` each row is a patient. Raises InputError if there is no row, or with
    every column that is missing or holds what its kind does not allow.
    """
    kinds: dict[str, Kind] = {spec.name: spec.kind for spec in specs}
    check_features(train, kinds, "the train rows")
    if train.empty:
        raise InputError.of("the train rows", "none", "at least one row to learn from")
    train = _normalise(train.reset_index(drop=True), kinds)
    strata = tuple(name for name in params.strata if STRATUM_COLUMNS[name] in kinds)
    labels = label_strata(train, strata)
    patients = train.get("subject_id", pd.Series(train.index))

    features, dropped = [], []
    for spec in specs:
        missing = float(train[spec.name].isna().mean())
        if missing >= params.maximum_missing:
            dropped.append(Dropped(spec.name, "missing", missing))
        elif _is_constant(train[spec.name], spec.kind):
            dropped.append(Dropped(spec.name, "constant", missing))
        elif feature := _fit_feature(train[spec.name], spec, labels, patients, params):
            features.append(feature)
        else:
            dropped.append(Dropped(spec.name, "few patients", missing))
    indicators = _fit_indicators(train, specs, {f.name for f in features}, params)
    repeats = find_repeats(train, features, indicators)
    for name, of in repeats.items():
        missing = float(train[name].isna().mean()) if name in train else 0.0
        dropped.append(Dropped(name, f"repeats {of}", missing))
    kept = tuple(feature for feature in features if feature.name not in repeats)
    told = tuple(indicator for indicator in indicators if indicator.column not in repeats)
    return Encoder(strata, kept, told, tuple(dropped), len(train))


def _is_constant(values: pd.Series, kind: Kind) -> bool:
    # Values that differ by less than their spread can be computed with are constant too.
    return values.nunique() <= 1 or (kind == "continuous" and not values.std(ddof=0) > 0)


def _normalise(features: pd.DataFrame, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    texts = [name for name, kind in kinds.items() if kind == "categorical"]
    return features.assign(**{name: normalise_column(features[name]) for name in texts})


def find_repeats(
    train: pd.DataFrame,
    features: Sequence[Continuous | Binary | Categorical],
    indicators: Sequence[Indicator],
) -> dict[str, str]:
    """Map features and indicators that tell nothing new to the column that they repeat.

    Numbers repeat each other if they are equal, complementary or on a line on all train rows, and
    missing in the same; categories, if each of one is one of the other. A number that repeats one
    category of a feature is the repeat wherever it stands.
    """
    known: list[tuple[str, Values]] = []
    repeats: dict[str, str] = {}

    def note(name: str, column: Values, hot: Mapping[str, Values] | None = None) -> None:
        of = next((seen for seen, values in known if _is_close(values, column)), None)
        if of is None:
            known.extend([(name, column), *(hot or {}).items()])
        else:
            repeats[name] = of

    # Stable: categories first, else in the order given.
    for feature in sorted(features, key=lambda feature: feature.kind != "categorical"):
        values, name = train[feature.name], feature.name
        if isinstance(feature, Categorical):
            # Codes by first appearance are equal if the categories are each other's.
            whole = np.append(pd.factorize(values)[0].astype(np.float64), np.inf)
            each = {f"{name}={c}": values.eq(c) for c in feature.categories}
            note(name, whole, {c: _standardise(is_it, values.isna()) for c, is_it in each.items()})
        else:
            note(name, _standardise(values, values.isna()))
    for indicator in indicators:
        note(indicator.column, _standardise(indicator.mark(train), pd.Series(False, train.index)))
    return repeats


def _standardise(values: pd.Series, missing: pd.Series) -> Values:
    """Bring a column to mean 0, spread 1 and a positive first deviation; NaN where missing."""
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.where(missing, np.nan, numbers)
    centred = numbers - np.nanmean(numbers)
    spread = np.nanstd(numbers)
    if not spread:
        return numbers
    first = centred[np.flatnonzero(np.abs(centred) > _REPEAT_TOLERANCE * spread)[0]]
    return centred / (spread * np.sign(first))


def _is_close(one: Values, other: Values) -> bool:
    return len(one) == len(other) and np.allclose(
        one, other, rtol=0, atol=_REPEAT_TOLERANCE, equal_nan=True
    )


def _fit_feature(
    values: pd.Series,
    spec: FeatureSpec,
    labels: pd.Series,
    patients: pd.Series,
    params: EncodingParams,
) -> Continuous | Binary | Categorical | None:
    observed = values.dropna()
    patients = patients.loc[observed.index]
    if patients.nunique() < params.fewest_patients:
        return None
    if spec.kind == "categorical":
        common = _find_common(observed, patients, params.fewest_patients)
        counts = observed[observed.isin(common)].value_counts()
        if counts.empty:
            return None
        mode = min(counts.index[counts == counts.max()])
        return Categorical(spec.name, mode, tuple(sorted(counts.index)))
    numbers = observed.astype(np.float64)
    if spec.kind == "binary":
        return Binary(spec.name, int(numbers.mean() > 0.5))
    strata = labels.loc[numbers.index]
    large = strata.isin(_find_common(strata, patients, params.fewest_patients))
    medians = numbers[large].groupby(strata[large]).median()
    mean, std = float(numbers.mean()), float(numbers.std(ddof=0))
    return Continuous(
        name=spec.name,
        median=float(numbers.median()),
        medians={str(stratum): float(median) for stratum, median in medians.items()},
        mean=mean,
        std=std,
        lowest=float(np.floor((numbers.min() - mean) / std)),
        highest=float(np.ceil((numbers.max() - mean) / std)),
        unit=spec.unit,
        low=spec.low,
        high=spec.high,
    )


def _find_common(groups: pd.Series, patients: pd.Series, fewest: int) -> pd.Index:
    counts = patients.groupby(groups).nunique()
    return counts.index[counts >= fewest]


def _fit_indicators(
    train: pd.DataFrame, specs: Sequence[FeatureSpec], kept: set[str], params: EncodingParams
) -> tuple[Indicator, ...]:
    sources: dict[str, list[str]] = {}
    for spec in specs:
        if spec.indicator and spec.name in kept:
            sources.setdefault(spec.variable, []).append(spec.name)
    indicators = [Indicator(variable, tuple(names)) for variable, names in sources.items()]
    least = max(params.indicator_minimum_missing, np.nextafter(0, 1))
    return tuple(i for i in indicators if i.mark(train).mean() >= least)


def encode(encoder: Encoder, features: pd.DataFrame, *, impute: bool = True) -> pd.DataFrame:
    """Encode rows to float32: the columns of ``feature_order``, the index of `features`.

    Without `impute`, NaN stays for models that split on it; missing indicators are there either
    way. Raises InputError with every column that is missing or holds what its kind does not allow.
    """
    check_features(features, encoder.inputs, "the features")
    return encode_checked(encoder, features, impute=impute)


def encode_checked(encoder: Encoder, features: pd.DataFrame, *, impute: bool) -> pd.DataFrame:
    """Encode rows that are known to be what `check_features` demands."""
    features = _normalise(features, encoder.inputs)
    strata = label_strata(features, encoder.strata)
    blocks = [np.empty((len(features), 0))]
    blocks += [f.encode(features[f.name], strata, impute=impute) for f in encoder.features]
    blocks += [i.mark(features).to_numpy()[:, None] for i in encoder.indicators]
    values = np.hstack(blocks).astype(np.float32)
    return pd.DataFrame(values, columns=encoder.feature_order, index=features.index)


def find_unknown(encoder: Encoder, features: pd.DataFrame) -> pd.DataFrame:
    """Tell which values of each categorical feature no train row had, or too few patients."""
    columns = {}
    for feature in (f for f in encoder.features if isinstance(f, Categorical)):
        texts = normalise_column(features[feature.name])
        columns[feature.name] = texts.notna() & ~texts.isin(feature.categories)
    return pd.DataFrame(columns, index=features.index, dtype=bool)


def find_beyond(encoder: Encoder, features: pd.DataFrame) -> pd.DataFrame:
    """Tell which numbers of each continuous feature lie beyond what the train rows span."""
    numbers = [feature for feature in encoder.features if isinstance(feature, Continuous)]
    columns = {number.name: number.is_beyond(features[number.name]) for number in numbers}
    return pd.DataFrame(columns, index=features.index, dtype=bool)


def label_strata(features: pd.DataFrame, strata: Sequence[str]) -> pd.Series:
    """Name each row's stratum, such as ``F|60``: sex, lower end of the age band; ``?`` is null."""
    label = pd.Series("", index=features.index, dtype="str")
    for name in strata:
        part = _label_age(features["age_years"]) if name == "age_band" else features["sex"]
        part = part.astype("str").where(part.notna(), "?")
        label = part if name == strata[0] else label + "|" + part
    return label


def _label_age(age_years: pd.Series) -> pd.Series:
    ages = age_years.to_numpy(dtype=np.float64, na_value=np.nan)
    lower = np.array([0, *AGE_BANDS_YEARS]).astype(str)
    band = lower[np.searchsorted(AGE_BANDS_YEARS, ages, side="right")]
    return pd.Series(band, index=age_years.index, dtype="str").where(~np.isnan(ages))


def check_features(features: pd.DataFrame, kinds: Mapping[str, Kind], where: str) -> None:
    """Check columns against their kinds.

    Raises InputError with every column that is missing, text in a number, an infinite number, a
    binary value other than 0 and 1, or a number in a text.
    """
    with collect_faults() as faults:
        for name, kind in kinds.items():
            if name not in features.columns:
                remedy = "Add it; an empty column means that it is not known."
                faults.add(where, f"no column {name!r}", f"a {kind} column", remedy)
            elif kind == "categorical":
                text = features[name].map(lambda value: isinstance(value, str)).astype(bool)
                bad = features[name].notna() & ~text
                _note_first(features[name], bad, where, "a text", faults)
            else:
                _check_numbers(features[name], kind, where, faults)


def _check_numbers(column: pd.Series, kind: Kind, where: str, faults: FaultList) -> None:
    missing = column.isna()
    if pd.api.types.is_numeric_dtype(column):
        numbers, textual = column.astype("float64"), pd.Series(False, index=column.index)
    else:
        textual = column.map(lambda value: not isinstance(value, int | float | np.number))
        textual = textual.astype(bool) & ~missing
        numbers = column.where(~textual & ~missing, np.nan).astype("float64")
    _note_first(column, textual, where, "a number", faults)
    _note_first(column, numbers.abs() == np.inf, where, "a finite number, or nothing", faults)
    if kind == "binary":
        outside = ~(missing | textual | numbers.isin([0.0, 1.0]))
        _note_first(column, outside, where, "0 or 1", faults)


def _note_first(
    column: pd.Series, bad: pd.Series, where: str, expected: str, faults: FaultList
) -> None:
    if not bad.any():
        return
    row, value = next(column[bad].items())
    more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
    plain = value.item() if isinstance(value, np.generic) else value
    faults.add(f"{where}, row {row}, {column.name}", f"is {plain!r}{more}", expected)


def join_splits(features: pd.DataFrame, splits: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """Add ``split`` and ``target`` to the features by key: both after the key, rows sorted by it.

    Raises InputError if the three tables do not hold the same admissions.
    """
    keys = list(KEY)
    with collect_faults() as faults:
        ours = pd.MultiIndex.from_frame(features[keys])
        for name, table in (("splits", splits), ("cohort", cohort)):
            theirs = pd.MultiIndex.from_frame(table[keys])
            if unmatched := len(ours.symmetric_difference(theirs)):
                problem = (
                    f"{show_count(unmatched, 'admissions')} in one of features and {name} alone"
                )
                faults.add(f"the {name}", problem, "the same admissions", "Run dvc repro.")
    targets = splits[[*keys, "split"]].merge(cohort[[*keys, "target"]], on=keys, validate="1:1")
    joined = targets.merge(features, on=keys, validate="1:1")
    return joined.sort_values(keys, ignore_index=True)


def encode_table(encoder: Encoder, joined: pd.DataFrame, *, impute: bool) -> pd.DataFrame:
    """Encode what `join_splits` returns, keeping key, split and target as `ENCODED` has them."""
    keys = joined[list(ENCODED.columns)]
    return pd.concat([keys, encode(encoder, joined, impute=impute)], axis=1)


def write_encoded(encoder: Encoder, joined: pd.DataFrame, folder: Path) -> None:
    """Write ``imputed.parquet``, ``with_missing.parquet`` and ``encoder.json`` of joined rows."""
    for name, impute in (("imputed", True), ("with_missing", False)):
        table = encode_table(encoder, joined, impute=impute)
        write_table(table, folder / f"{name}.parquet", ENCODED)
    write_json(encoder.to_dict(), folder / "encoder.json")
