"""A laboratory table like MIMIC-IV's: 16 columns, 114 bytes a row, one gzip stream, made once.

Patients follow one another, a specimen gives fifteen rows, an eighth of the rows are of the nine
values that params.yaml asks for. As in the published table, `valuenum` may be missing, units are
written in several ways, and comments hold commas, quotes and, rarely, line breaks.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from isal import igzip

from histofuse.core.text_tables import DATETIME_FORMAT
from histofuse.data.mimic_tables import TABLES
from histofuse.features.labs import load_labs

CACHE = Path(__file__).parent / ".cache"
FULL_ROWS = 118_171_367
SPECIMEN_ROWS, ADMISSION_ROWS, PATIENT_ROWS = 15, 150, 600
SPECIMENS = ADMISSION_ROWS // SPECIMEN_ROWS
FIRST_SUBJECT, FIRST_HADM = 10_000_000, 20_000_000
BATCH_ROWS = 600_000
EPOCH = datetime(2150, 1, 1)
STAY_MINUTES = 4 * 24 * 60
# The published file is compressed about 6 times; gzip's own levels are too slow to write this one.
LEVEL = 2
COMMENTS = (
    "___",
    "HEMOLYSIS FALSELY ELEVATES THIS TEST.",
    "IF FASTING, 70-100 NORMAL, >125 PROVISIONAL DIABETES.",
    "Using this patient's age, gender, and serum creatinine, estimated GFR = 71 (mL/min/1.73 m2).",
    'REPORTED AS "SEEN BY LAB", REPEATED.',
)
BROKEN_COMMENT = "FIRST LINE,\n10000001,SECOND LINE"


@dataclass(frozen=True)
class Item:
    """An itemid with the unit and the numbers its rows have."""

    itemid: int
    unit: str | None
    low: float
    high: float


def make_items() -> list[Item]:
    """The defined laboratory values, most of them twice as common as the other items."""
    labs = list(load_labs().values())
    known = [Item(lab.itemids[0], lab.range.unit, *lab.typical) for lab in labs]
    return known * 2 + [Item(52_700 + i, None if i % 3 else "mg/dL", 0, 9) for i in range(60)]


def make_table(root: Path, rows: int) -> Path:
    """Make ``hosp/labevents.csv.gz`` under `root`, unless it is there."""
    path = root / "hosp" / "labevents.csv.gz"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name("unfinished")
    with igzip.open(unfinished, "wb", compresslevel=LEVEL) as file:
        for start in range(0, rows, BATCH_ROWS):
            batch = make_rows(start, min(BATCH_ROWS, rows - start))
            file.write(batch.write_csv(include_header=not start).encode())
    return unfinished.rename(path)


def admit_minutes(row: np.ndarray) -> np.ndarray:
    """When the admission began that a row belongs to, in minutes since `EPOCH`."""
    admission = row // ADMISSION_ROWS % (PATIENT_ROWS // ADMISSION_ROWS)
    return admission * 90 * 24 * 60 + row // PATIENT_ROWS * 7


def make_rows(start: int, count: int) -> pl.DataFrame:
    """Make the rows from `start` on, typed and ordered as published."""
    rng = np.random.default_rng(start)
    row = np.arange(start, start + count)
    specimen = row // SPECIMEN_ROWS - start // SPECIMEN_ROWS
    specimens = int(specimen[-1]) + 1
    item = rng.integers(0, len(make_items()), count)
    minutes = admit_minutes(row) + row // SPECIMEN_ROWS % SPECIMENS * (STAY_MINUTES // SPECIMENS)
    stored = minutes + rng.integers(20, 600, specimens)[specimen]
    providers = [f"P{n:05X}" for n in rng.integers(0, 16**5, 500)]
    provider = rng.integers(0, 800, specimens)[specimen]
    table = pl.DataFrame(
        {
            "labevent_id": row,
            "subject_id": FIRST_SUBJECT + row // PATIENT_ROWS,
            "hadm_id": FIRST_HADM + row // ADMISSION_ROWS,
            "specimen_id": rng.integers(10_000_000, 99_999_999, specimens)[specimen],
            "item": item,
            "provider": provider,
            "charttime": minutes,
            "storetime": stored,
            "kind": rng.integers(0, 100, count),
            "outside": rng.integers(0, 100, specimens)[specimen],
            "share": rng.random(count),
            "comment": rng.integers(0, 40, count),
        }
    )
    return _spell(table, providers)


def _spell(table: pl.DataFrame, providers: list[str]) -> pl.DataFrame:
    items = pl.DataFrame([vars(i) for i in make_items()]).with_row_index("item")
    items = items.with_columns(pl.col("item").cast(pl.Int64))
    low, high, share, kind = (pl.col(name) for name in ("low", "high", "share", "kind"))
    # One in a hundred is written in a thousandth of the unit: implausible, or a mix-up.
    number = ((low + (high - low) * share / 3) * pl.when(kind == 0).then(1000).otherwise(1)).round(
        1
    )
    time = pl.lit(EPOCH) + pl.duration(minutes=pl.col("charttime"))
    stored = pl.lit(EPOCH) + pl.duration(minutes=pl.col("storetime"))
    names = pl.Series(providers + [None] * 300)
    comments = pl.Series([*COMMENTS, *[None] * 35])
    return (
        table.join(items, on="item", how="left", maintain_order="left")
        .with_columns(
            hadm_id=pl.when(pl.col("outside") < 60).then("hadm_id"),
            order_provider_id=names.gather(table["provider"]),
            charttime=time.dt.strftime(DATETIME_FORMAT),
            storetime=pl.when(kind != 1).then(stored.dt.strftime(DATETIME_FORMAT)),
            valuenum=pl.when(kind >= 8).then(number),
            valueuom=pl.when(kind != 9).then("unit"),
            ref_range_lower=low.round(1),
            ref_range_upper=high.round(1),
            flag=pl.when(share > 0.7).then(pl.lit("abnormal")),
            priority=pl.when(pl.col("outside") % 2 == 0)
            .then(pl.lit("STAT"))
            .otherwise(pl.lit("ROUTINE")),
            comments=comments.gather(table["comment"]),
        )
        .with_columns(
            value=pl.when(kind >= 8)
            .then(pl.col("valuenum").cast(pl.String))
            .otherwise(pl.lit("___")),
            comments=pl.when(share < 1e-4).then(pl.lit(BROKEN_COMMENT)).otherwise("comments"),
        )
        .select(*TABLES["labevents"].columns)
    )
