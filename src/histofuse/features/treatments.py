"""Treatment groups ordered before the prediction time, by the names of prescribed drugs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import polars as pl

from histofuse.data.mimic_tables import collect_rows, find_table, scan_rows
from histofuse.features.groups import FeatureGroup, Giveaway, Request, choose, require_content
from histofuse.features.specs import KEY, describe

DEFINITIONS: Final = Path(__file__).parent / "treatments.json"
PRESCRIPTION_COLUMNS: Final = ("subject_id", "starttime", "drug_type", "drug", "route")
SOLVENT: Final = "BASE"
# Antiemetics given with chemotherapy alone: NK1 antagonists, and the setron combined with them.
CHEMOTHERAPY_ANTIEMETICS: Final = (
    *("aprepitant", "fosaprepitant", "emend", "palonosetron"),
    *("netupitant", "fosnetupitant", "rolapitant"),
)
_ORDER: Final = ("drug", "route")


@dataclass(frozen=True)
class Treatment:
    """How a treatment group is identified."""

    name: str  # in params
    label: str  # in words
    words: re.Pattern[str]  # matches the names of its drugs
    not_words: re.Pattern[str] | None  # matches names to exclude; None if there are none
    local_routes: frozenset[str]  # routes that do not count for it, upper case

    def holds(self, drug: str, route: str | None) -> bool:
        """Tell whether a drug given by a route (None: not recorded) belongs to the group."""
        if (route or "").strip().upper() in self.local_routes:
            return False
        excluded = self.not_words is not None and self.not_words.search(drug) is not None
        return not excluded and self.words.search(drug) is not None


@cache
def load_treatments() -> Mapping[str, Treatment]:
    """Load the definitions that come with the package."""
    table = json.loads(DEFINITIONS.read_text("utf-8"))
    treatments = {}
    for name, group in table["treatments"].items():
        local = group["local"]
        not_words = group["not_words"] + ([] if local else table["local_forms"])
        treatments[name] = Treatment(
            name=name,
            label=group["label"],
            words=_compile(group["words"]),
            not_words=_compile(not_words) if not_words else None,
            local_routes=frozenset() if local else frozenset(table["local_routes"]),
        )
    return treatments


def _compile(words: Sequence[str]) -> re.Pattern[str]:
    # Not \b: "1%" and "5-fu" begin or end in no letter, and "_" ends a name in "SulfaSALAzine_".
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(words)})(?![a-z0-9])", re.IGNORECASE)


def choose_treatments(names: Sequence[str]) -> list[Treatment]:
    """Look up treatment groups by name, as `choose` does."""
    return choose(names, load_treatments(), "ehr_features.treatments")


def select_orders(
    prescriptions: pl.LazyFrame, index: pl.DataFrame, *, lookback_days: float
) -> pl.LazyFrame:
    """Find the distinct drugs and routes ordered for each index admission by its prediction time.

    An order counts if it starts between `lookback_days` before the admission and the prediction
    time, both included, at any admission of the patient. Orders without a start, and the solvents
    of drugs, do not count. Source: MIMIC-IV hosp/prescriptions.
    """
    opens = pl.col("admittime") - pl.duration(seconds=round(lookback_days * 86_400))
    windows = index.select(*KEY, "prediction_time", opens=opens)
    drugs = pl.col("drug_type").str.to_uppercase().ne_missing(SOLVENT)
    return (
        prescriptions.filter(pl.col("drug").is_not_null(), drugs)
        .join(windows.lazy(), on="subject_id", how="inner")
        .filter(pl.col("starttime").is_between("opens", "prediction_time"))
        .select(*KEY, *_ORDER)
        .unique()
    )


def flag_treatments(
    orders: pl.DataFrame, index: pl.DataFrame, treatments: Sequence[Treatment]
) -> pl.DataFrame:
    """Flag the treatment groups of `select_orders` in 0/1 columns, rows as of `index`.

    No order is a zero: what was given elsewhere is not known.
    """
    distinct = orders.select(_ORDER).unique()
    flags = {t.name: [t.holds(*order) for order in distinct.iter_rows()] for t in treatments}
    columns = (pl.Series(name, held, dtype=pl.Int8) for name, held in flags.items())
    flagged = orders.join(distinct.with_columns(*columns), on=_ORDER, nulls_equal=True)
    given = flagged.group_by(KEY).agg(pl.col(list(flags)).max())
    joined = index.select(KEY).join(given, on=KEY, how="left", maintain_order="left")
    return joined.with_columns(pl.col(list(flags)).fill_null(0))


def _build(request: Request) -> tuple[pl.DataFrame, None]:
    chosen = choose_treatments(request.params.treatments)
    treatments = [treatment for treatment in chosen if treatment.name not in request.masked]
    rows = scan_rows(request.root, "prescriptions", PRESCRIPTION_COLUMNS, request.subjects)
    days, path = request.params.treatment_lookback_days, find_table(request.root, "prescriptions")
    orders = select_orders(rows, request.index, lookback_days=days)
    drug = pl.col("drug").str.to_lowercase()
    for name in sorted(request.masked.intersection(CHEMOTHERAPY_ANTIEMETICS)):
        orders = orders.filter(~drug.str.contains(name, literal=True))
    collected = collect_rows(orders, path)
    table = flag_treatments(collected, request.index, treatments)
    problem = f"none of {collected.height:,} orders is one of ehr_features.treatments"
    require_content(table, path, problem, "Check subject_id, starttime and the names of drugs.")
    return table, None


TREATMENT: Final = FeatureGroup(
    "treatment",
    specs=lambda request: [
        describe("treatment", treatment.name, "binary", treatment.label)
        for treatment in choose_treatments(request.params.treatments)
    ],
    build=_build,
    gives_away=(
        Giveaway(
            "cancer",
            "given for the cancer or its spread",
            ("chemotherapy", "endocrine", "her2", "g_csf", "bisphosphonates"),
        ),
        Giveaway("cancer", "an antiemetic given with chemotherapy alone", CHEMOTHERAPY_ANTIEMETICS),
    ),
)
