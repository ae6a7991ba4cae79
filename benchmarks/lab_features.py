"""Laboratory features of a cohort from one large labevents.csv.gz: ours, pandas, DuckDB.

The limit is one plain decompression pass over the same file with ISA-L. Each way runs in a process
of its own, which tells its seconds (imports are not in) and its peak of memory. The peers read and
filter; what is left, a few rows in a hundred, goes through our own aggregation, and all tables must
be equal. The short mode has a tenth of the rows and of the patients, so the same share is wanted.
Run: python benchmarks/lab_features.py [--short]
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from claims import Claim, best_seconds, main, peak_mib
from histofuse.core.text_tables import DATETIME_FORMAT
from histofuse.data.mimic_tables import collect_rows, find_table, scan_rows
from histofuse.features.labs import LABEVENT_COLUMNS, aggregate_labs, choose_labs
from histofuse.params.base import load_section
from histofuse.params.ehr import EhrFeaturesParams
from labevents import (
    ADMISSION_ROWS,
    CACHE,
    EPOCH,
    FIRST_HADM,
    FIRST_SUBJECT,
    FULL_ROWS,
    PATIENT_ROWS,
    STAY_MINUTES,
    make_table,
)

COHORT = 5_000
SLOWER, FASTER, MOST_MIB = 2.5, 3.0, 1024
KEYS = ["subject_id", "hadm_id", "lab"]
PARAMS = load_section(EhrFeaturesParams, "ehr_features")
LABS = choose_labs(PARAMS.labs)
ITEMIDS = [itemid for lab in LABS for itemid in lab.itemids]


@dataclass(frozen=True)
class Run:
    """What one way took: seconds, MiB, and the table it gave."""

    seconds: float
    mib: float
    table: pl.DataFrame


def make_index(rows: int, patients: int) -> pl.DataFrame:
    """Make the index admissions: the third of every so many patients, predicted at discharge."""
    step = rows // PATIENT_ROWS // patients
    first = pl.arange(0, patients * step, step, dtype=pl.Int64, eager=True)
    start = pl.lit(EPOCH) + pl.duration(minutes=first * 7 + 2 * 90 * 24 * 60)
    return pl.select(
        subject_id=FIRST_SUBJECT + first,
        hadm_id=FIRST_HADM + first * (PATIENT_ROWS // ADMISSION_ROWS) + 2,
        admittime=start,
        prediction_time=start + timedelta(minutes=STAY_MINUTES),
    )


def aggregate(rows: pl.LazyFrame, index: pl.DataFrame, path: Path) -> pl.DataFrame:
    lookback = PARAMS.lab_lookback_hours
    return collect_rows(aggregate_labs(rows, index, LABS, lookback_hours=lookback), path).sort(KEYS)


def run_ours(root: Path, index: pl.DataFrame) -> pl.DataFrame:
    keep = {"itemid": ITEMIDS, "subject_id": index["subject_id"].to_list()}
    rows = scan_rows(root, "labevents", LABEVENT_COLUMNS, keep)
    return aggregate(rows, index, find_table(root, "labevents"))


def run_pandas(root: Path, index: pl.DataFrame) -> pl.DataFrame:
    import pandas as pd

    path, subjects = find_table(root, "labevents"), set(index["subject_id"])
    parts = []
    for chunk in pd.read_csv(path, usecols=list(LABEVENT_COLUMNS), chunksize=1_000_000):
        wanted = chunk["itemid"].isin(ITEMIDS) & chunk["subject_id"].isin(subjects)
        parts.append(chunk[wanted])
    rows = pl.from_pandas(pd.concat(parts)).with_columns(
        pl.col("hadm_id").cast(pl.Int64),
        pl.col("charttime", "storetime").str.to_datetime(DATETIME_FORMAT),
    )
    return aggregate(rows.lazy(), index, path)


def run_duckdb(root: Path, index: pl.DataFrame) -> pl.DataFrame:
    import duckdb

    path = find_table(root, "labevents")
    wanted = pl.DataFrame({"subject_id": index["subject_id"]}).to_arrow()
    connection = duckdb.connect()
    connection.register("wanted", wanted)
    types = (
        "{'subject_id': 'BIGINT', 'hadm_id': 'BIGINT', 'itemid': 'BIGINT', 'valuenum': 'DOUBLE',"
        " 'charttime': 'TIMESTAMP', 'storetime': 'TIMESTAMP', 'value': 'VARCHAR',"
        " 'valueuom': 'VARCHAR', 'comments': 'VARCHAR'}"
    )
    found = connection.execute(
        f"SELECT {', '.join(LABEVENT_COLUMNS)} FROM read_csv('{path}', types={types}, quote='\"')"
        f" WHERE itemid IN ({', '.join(map(str, ITEMIDS))})"
        " AND subject_id IN (SELECT subject_id FROM wanted)"
    )
    return aggregate(pl.from_arrow(found.to_arrow_table()).lazy(), index, path)


def decompress(root: Path, _index: pl.DataFrame) -> pl.DataFrame:
    from isal import igzip

    space = bytearray(1 << 20)
    with igzip.open(find_table(root, "labevents"), "rb") as file:
        while file.readinto(space):
            pass
    return pl.DataFrame()


WAYS: dict[str, Callable[[Path, pl.DataFrame], pl.DataFrame]] = {
    "limit": decompress,
    "ours": run_ours,
    "duckdb": run_duckdb,
    "pandas": run_pandas,
}


def work(way: str, root: str, out: str, rows: int, patients: int) -> None:
    """Run one way in this process and leave its table and figures."""
    index, tables = make_index(rows, patients), []
    repeats = 1 if way in {"pandas", "duckdb"} else 2
    seconds = best_seconds(lambda: tables.append(WAYS[way](Path(root), index)), repeats)
    tables[-1].write_parquet(out)
    print(json.dumps([seconds, peak_mib()]))


def run_apart(way: str, root: Path, rows: int, patients: int) -> Run:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "table.parquet"
        arguments = ["work", way, root, out, rows, patients]
        command = [sys.executable, __file__, *map(str, arguments)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, mib = json.loads(done.stdout)
        return Run(seconds, mib, pl.read_parquet(out))


def measure(short: bool) -> list[Claim]:
    rows, patients = (FULL_ROWS // 10, COHORT // 10) if short else (FULL_ROWS, COHORT)
    root = CACHE / f"labevents_{rows}"
    make_table(root, rows)
    runs = {way: run_apart(way, root, rows, patients) for way in WAYS}
    ours = runs["ours"]
    assert ours.table.height > patients, "hardly a row was found: nothing to compare"
    for way in ("pandas", "duckdb"):
        assert ours.table.equals(runs[way].table), f"not the table that {way} gives"
    shown = {way: f"{run.seconds:.1f} s, {run.mib:,.0f} MiB" for way, run in runs.items()}
    text = f"lab features of {patients:,} patients from {rows:,} rows of labevents.csv.gz"
    peers = f"pandas in chunks {shown['pandas']}; DuckDB {shown['duckdb']}"
    limit = f"one decompression pass (isal) {runs['limit'].seconds:.1f} s"

    def claim(ratio: float, bar: str, *, holds: bool) -> Claim:
        return Claim(1, text, shown["ours"], peers, limit, ratio, bar, holds)

    slower = ours.seconds / runs["limit"].seconds
    faster = runs["pandas"].seconds / ours.seconds
    return [
        claim(slower, f"≤ {SLOWER} × the limit", holds=slower <= SLOWER),
        claim(faster, f"≥ {FASTER:.0f} × pandas", holds=faster >= FASTER),
        claim(ours.mib, f"peak ≤ {MOST_MIB:,} MiB", holds=ours.mib <= MOST_MIB),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:5], *map(int, sys.argv[5:]))
    else:
        main(measure)
