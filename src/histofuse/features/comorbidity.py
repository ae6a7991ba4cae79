"""Elixhauser comorbidity groups over mixed ICD-9-CM and ICD-10-CM codes.

A grouping is a data file of code prefixes (AHRQ's 29 groups, Quan's 31). Each distinct code is
looked up once and becomes a bit mask of its groups; rows then join their mask, and an admission's
mask is the bitwise or of its rows'.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import polars as pl

from histofuse.core.errors import InputError
from histofuse.data.mimic_tables import find_table, read_rows
from histofuse.features.groups import FeatureGroup, Giveaway, Request, require_content
from histofuse.features.specs import KEY, FeatureSpec, describe
from histofuse.params.ehr import DiagnosesFrom, EhrFeaturesParams, PredictionTime

COUNT: Final = "comorbidity_count"
# Codes that name a neoplasm or its radiotherapy, in groups of other diseases; prefixes.
CANCER_CODES: Final = (
    "D630",  # anaemia in neoplastic disease
    "28522",
    "M360",  # dermatomyositis in neoplastic disease
    "G130",  # paraneoplastic neuropathy
    "G131",  # atrophy of the nervous system in neoplastic disease
    "J701",  # lung disease due to radiation
    "5081",
)
DIAGNOSIS_COLUMNS: Final = ("subject_id", "hadm_id", "icd_code", "icd_version")
RANK: Final = "seq_num"
_TABLE: Final = "diagnoses_icd"
_PRINCIPAL: Final = 1
_VERSIONS: Final = {9: "icd9", 10: "icd10"}
_LONGEST_CODE: Final = 7
_MASK: Final = pl.UInt64


@dataclass(frozen=True)
class Grouping:
    """A published grouping of diagnosis codes."""

    name: str  # its name in params, and of its file
    labels: Mapping[str, str]  # group to its label, in the order of the bits
    # ICD version to prefix to (bits it sets, bits it clears)
    prefixes: Mapping[int, Mapping[str, tuple[int, int]]]
    # pairs (severe, mild): the severe group switches the mild one off
    overrides: tuple[tuple[str, str], ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups' names in the order of the bits."""
        return tuple(self.labels)


@cache
def load_grouping(name: str) -> Grouping:
    """Load a grouping that comes with the package; its file names the publication."""
    table = json.loads((Path(__file__).parent / f"{name}.json").read_text("utf-8"))
    prefixes: dict[int, dict[str, tuple[int, int]]] = {version: {} for version in _VERSIONS}
    for bit, group in enumerate(table["groups"].values()):
        for version, key in _VERSIONS.items():
            for word in group[key].split():
                prefix = word.removeprefix("!")
                sets, clears = prefixes[version].get(prefix, (0, 0))
                own = (1 << bit, 0) if word == prefix else (0, 1 << bit)
                prefixes[version][prefix] = (sets | own[0], clears | own[1])
    labels = {name: group["label"] for name, group in table["groups"].items()}
    overrides = tuple((severe, mild) for severe, mild in table["overrides"])
    return Grouping(table["name"], labels, prefixes, overrides)


def match_code(grouping: Grouping, code: str, version: int) -> int:
    """Find a code's groups by the longest prefix in each: a mask with bit k for the k-th group."""
    prefixes, code = grouping.prefixes[version], _clean(code)
    mask = 0
    for length in range(1, min(len(code), _LONGEST_CODE) + 1):
        sets, clears = prefixes.get(code[:length], (0, 0))
        mask = (mask | sets) & ~clears
    return mask


def _clean(code: str) -> str:
    return "".join(code.replace(".", "").split()).upper()


def mask_admissions(
    diagnoses: pl.DataFrame, grouping: Grouping, exclude: Collection[str] = ()
) -> pl.DataFrame:
    """Compute the mask of each admission that has a diagnosis: key and ``mask``, sorted by key.

    Null codes match nothing, nor do those of `CANCER_CODES` in `exclude`. Raises InputError if an
    ``icd_version`` is neither 9 nor 10. Source: MIMIC-IV hosp/diagnoses_icd.
    """
    codes = diagnoses.lazy().select("icd_code", "icd_version").unique().collect(engine="streaming")
    hidden = tuple(set(CANCER_CODES).intersection(exclude))
    masks = codes.with_columns(pl.Series("mask", _match_all(codes, grouping, hidden), dtype=_MASK))
    return (
        diagnoses.lazy()
        .join(masks.lazy(), on=["icd_code", "icd_version"], how="inner")
        .group_by(KEY)
        .agg(pl.col("mask").bitwise_or())
        .sort(KEY)
        .collect(engine="streaming")
    )


def _match_all(codes: pl.DataFrame, grouping: Grouping, hidden: tuple[str, ...]) -> list[int]:
    unknown = set(codes["icd_version"].unique()) - set(_VERSIONS)
    if unknown:
        problem = f"icd_version {sorted(map(str, unknown))}"
        raise InputError.of(_TABLE, problem, "9 or 10 in each row")
    return [
        0 if c is None or _clean(c).startswith(hidden) else match_code(grouping, c, v)
        for c, v in codes.iter_rows()
    ]


def build_comorbidities(
    index: pl.DataFrame,
    admissions: pl.DataFrame,
    diagnoses: pl.DataFrame,
    grouping: Grouping,
    *,
    from_index: bool,
    principal: bool,
    exclude: Collection[str] = (),
) -> pl.DataFrame:
    """Flag the comorbidity groups known at prediction time, and count them, as `index` is ordered.

    Codes are billed after discharge. So an earlier admission counts if it ended by the prediction
    time, and the index admission only if `from_index` and the prediction time is its discharge or
    later. The principal diagnosis of the index admission is the reason for it, and counts only if
    `principal`; that of an earlier admission is a comorbidity by now.

    Groups, and those of `CANCER_CODES`, in `exclude` leave no trace: neither a flag, nor in the
    count, nor through the hierarchy. A patient without a code has zeros.
    """
    own = diagnoses.join(index.select(KEY), on=KEY, how="semi")
    counted = own if principal else own.filter(pl.col(RANK).ne_missing(_PRINCIPAL))
    own_masks = mask_admissions(counted, grouping, exclude).rename({"mask": "own_mask"})
    masks = mask_admissions(diagnoses, grouping, exclude).join(own_masks, on=KEY, how="left")
    known = _join_known(index, admissions, masks, from_index=from_index)
    mask = known.group_by(KEY).agg(pl.col("mask").bitwise_or())
    joined = index.select(KEY).join(mask, on=KEY, how="left", maintain_order="left")
    return unpack_mask(joined, grouping, exclude=exclude)


def _join_known(
    index: pl.DataFrame, admissions: pl.DataFrame, masks: pl.DataFrame, *, from_index: bool
) -> pl.DataFrame:
    others = masks.join(admissions, on=KEY)
    pairs = index.join(others, on="subject_id", suffix="_other")
    ended = pl.col("dischtime_other") <= pl.col("prediction_time")
    own = pl.col("hadm_id_other") == pl.col("hadm_id")
    prior = ~own & (pl.col("admittime_other") < pl.col("admittime"))
    known = pairs.filter(ended & (prior | (own & pl.lit(from_index))))
    return known.with_columns(mask=pl.when(prior).then("mask").otherwise("own_mask"))


def unpack_mask(
    table: pl.DataFrame,
    grouping: Grouping,
    *,
    exclude: Collection[str] = (),
    hierarchy: bool = True,
) -> pl.DataFrame:
    """Replace ``mask`` by a 0/1 column a group and `COUNT`; a null mask is none of the groups."""
    kept = [group for group in grouping.groups if group not in exclude]
    bits = {group: 1 << bit for bit, group in enumerate(grouping.groups)}
    mask = pl.col("mask").fill_null(0)
    flags = {g: mask & pl.lit(bits[g], dtype=_MASK) != pl.lit(0, dtype=_MASK) for g in kept}
    for severe, mild in grouping.overrides if hierarchy else ():
        if severe in flags and mild in flags:
            flags[mild] = flags[mild] & ~flags[severe]
    flagged = table.with_columns(flag.cast(pl.Int8).alias(g) for g, flag in flags.items())
    count = pl.sum_horizontal(pl.col(kept).cast(pl.Int64)).alias(COUNT)
    return flagged.with_columns(count).drop("mask")


def choose_diagnoses(params: EhrFeaturesParams, prediction_time: PredictionTime) -> DiagnosesFrom:
    """Choose the admissions of the diagnoses; codes are assigned after discharge."""
    return params.diagnoses_from if prediction_time == "discharge" else "prior"


def _list_specs(request: Request) -> list[FeatureSpec]:
    grouping = load_grouping(request.params.comorbidities)
    kept = [group for group in grouping.groups if group not in request.masked]
    flags = [describe("comorbidity", g, "binary", grouping.labels[g]) for g in kept]
    present = f"Comorbidity groups present, out of {len(kept)}"
    return [*flags, describe("comorbidity", COUNT, "continuous", present, "groups")]


def _build(request: Request) -> tuple[pl.DataFrame, None]:
    diagnoses = choose_diagnoses(request.params, request.prediction_time)
    principal, path = request.params.index_diagnoses == "all", find_table(request.root, _TABLE)
    columns = DIAGNOSIS_COLUMNS if principal else (*DIAGNOSIS_COLUMNS, RANK)
    rows = read_rows(request.root, _TABLE, columns, request.subjects)
    ranked = diagnoses == "prior" or principal or (rows[RANK] == _PRINCIPAL).any()
    if rows.height and not ranked:
        problem, expected = f"no {RANK} is {_PRINCIPAL}", "the reason for the stay marked so"
        remedy = "Number the codes of each admission, or set ehr_features.index_diagnoses: all."
        raise InputError.of(f"{path}, {RANK}", problem, expected, remedy)
    grouping = load_grouping(request.params.comorbidities)
    table = build_comorbidities(
        request.index.select(*KEY, "admittime", "dischtime", "prediction_time"),
        request.admissions.select(*KEY, "admittime", "dischtime"),
        rows,
        grouping,
        from_index=diagnoses == "prior_and_index",
        principal=principal,
        exclude=request.masked,
    )
    # Codes of which none is known yet at the prediction time are no fault of the table.
    if not any(_match_all(rows.select("icd_code", "icd_version").unique(), grouping, ())):
        problem = f"none of {rows.height:,} codes is in a group of {grouping.name}"
        remedy = "Check subject_id, hadm_id, icd_code and icd_version."
        require_content(table, path, problem, remedy)
    return table, None


COMORBIDITY: Final = FeatureGroup(
    "comorbidity",
    _list_specs,
    _build,
    gives_away=(
        Giveaway(
            "cancer",
            "holds C50/174 or C77-C80/196-199 themselves, or is emptied by them in the group "
            "hierarchy",
            ("metastatic_cancer", "solid_tumour", "lymphoma"),
        ),
        Giveaway("cancer", "a code of another disease that names a neoplasm", CANCER_CODES),
    ),
)
