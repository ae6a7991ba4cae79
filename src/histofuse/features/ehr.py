"""The feature table: one row per index admission, nothing from after its prediction time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import polars as pl

from histofuse.data.targets import Target
from histofuse.features.comorbidity import COMORBIDITY, choose_diagnoses
from histofuse.features.demographics import DEMOGRAPHICS, UTILISATION
from histofuse.features.groups import FeatureGroup, Request
from histofuse.features.labs import LABORATORY
from histofuse.features.ranges import find_outside
from histofuse.features.specs import KEY, FeatureSpec
from histofuse.features.treatments import TREATMENT
from histofuse.params.ehr import EhrFeaturesParams, PredictionTime

# In the order of the columns. A new group is one entry (docs/extending.md).
GROUPS: Final = (DEMOGRAPHICS, UTILISATION, COMORBIDITY, TREATMENT, LABORATORY)


@dataclass(frozen=True)
class EhrFeatures:
    """The feature table and what belongs to it."""

    table: pd.DataFrame  # ``subject_id``, ``hadm_id`` and one column per feature, sorted by key
    specs: list[FeatureSpec]  # the features in the order of their columns
    masked: dict[str, Any]  # what would give the target away and was left out, with the reasons
    # the tables on the quality of the source, by group; ``laboratory`` has one row per laboratory
    # value
    quality: dict[str, pd.DataFrame]
    # ``feature,unit,low,high,outside``: how many values were outside their range, and are missing
    outside: pd.DataFrame


def build_features(
    cohort: pd.DataFrame,
    root: Path,
    params: EhrFeaturesParams,
    target: Target,
    prediction_time: PredictionTime,
    *,
    groups: Sequence[FeatureGroup] = GROUPS,
) -> EhrFeatures:
    """Build the feature table of a cohort (`data.cohort.ADMISSIONS`).

    Features that would give the target away are left out.
    """
    masks = mask_groups(target, prediction_time, groups)
    masked = frozenset(name for mask in masks.values() for name in mask)
    request = Request(pl.from_pandas(cohort).sort(KEY), root, params, prediction_time, masked)
    specs = [spec for group in groups for spec in group.specs(request)]
    specs = [spec for spec in specs if not {spec.name, spec.variable} & masked]

    table, quality = request.index.select(KEY), {}
    for group in groups:
        columns, source_quality = group.build(request)
        table = table.join(columns, on=KEY, how="left", maintain_order="left", validate="1:1")
        if source_quality is not None:
            quality[group.name] = source_quality.to_pandas()
    masked_json = {
        "target": target.name,
        "prediction_time": prediction_time,
        "diagnoses_from": choose_diagnoses(params, prediction_time),
        "masked": [
            {"group": group, "name": name, "reason": reason}
            for group, mask in masks.items()
            for name, reason in sorted(mask.items())
        ],
    }
    return finish_features(table, specs, masked_json, quality)


def finish_features(
    table: pl.DataFrame,
    specs: Sequence[FeatureSpec],
    masked: dict[str, Any],
    quality: dict[str, pd.DataFrame],
) -> EhrFeatures:
    """Give the columns of `specs` their types, and take what is outside its range as missing."""
    dtypes = {"continuous": "float64", "binary": "int8", "categorical": "str"}
    table = table.select(*KEY, *(spec.name for spec in specs))
    typed = table.to_pandas().astype({spec.name: dtypes[spec.kind] for spec in specs})
    ranges = {spec.name: spec.range for spec in specs if spec.range}
    outside = find_outside(typed, ranges)
    rows = [(n, r.unit, r.low, r.high, int(outside[n].sum())) for n, r in ranges.items()]
    counts = pd.DataFrame(rows, columns=["feature", "unit", "low", "high", "outside"])
    typed[list(ranges)] = typed[list(ranges)].mask(outside)
    return EhrFeatures(typed, list(specs), masked, quality, counts)


def replace_diagnoses(
    features: EhrFeatures,
    cohort: pd.DataFrame,
    root: Path,
    params: EhrFeaturesParams,
    target: Target,
) -> pd.DataFrame | None:
    """Replace comorbidities by those of earlier admissions only; None if there are no others."""
    if features.masked["diagnoses_from"] == "prior":
        return None
    earlier = params.model_copy(update={"diagnoses_from": "prior"})
    moment = features.masked["prediction_time"]
    prior = build_features(cohort, root, earlier, target, moment, groups=(COMORBIDITY,)).table
    others = features.table.drop(columns=[name for name in prior if name not in KEY])
    return others.merge(prior, on=list(KEY), validate="1:1")[list(features.table)]


def mask_groups(
    target: Target, prediction_time: PredictionTime, groups: Sequence[FeatureGroup] = GROUPS
) -> dict[str, dict[str, str]]:
    """Say what would give the target away: group to name to reason."""
    secrets = target.secrets_at(prediction_time)
    return {group.name: group.mask(secrets) for group in groups}
