"""Elixhauser groups of a table the size of MIMIC-IV's: one look-up a code, against regexes a row.

The peer is what packages do: for each group one regular expression over the whole code column.
Run: python benchmarks/comorbidity.py [rows]
"""

import sys
import time

import numpy as np
import pandas as pd
import polars as pl

from histofuse.features.comorbidity import load_grouping, mask_admissions, match_code, unpack_mask

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 4_800_000
PEER_ROWS = min(ROWS, 200_000)
ADMISSIONS = 431_000
GROUPING = load_grouping("elixhauser_quan")  # without exclusions, which a plain regex cannot say


def make_codes() -> list[tuple[str, int]]:
    """The prefixes of the table with every tail, and codes that match none of them."""
    codes = {
        (prefix + tail, version)
        for version, prefixes in GROUPING.prefixes.items()
        for prefix in prefixes
        for tail in ("", *(str(i) for i in range(30)))
    }
    strangers = {(f"Q{i:04d}", 10) for i in range(len(codes) // 2)}
    return sorted(codes | strangers)


def make_diagnoses(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    codes = make_codes()
    chosen = rng.integers(0, len(codes), rows)
    hadm_id = rng.integers(20_000_000, 20_000_000 + ADMISSIONS, rows)
    return pl.DataFrame(
        {
            "subject_id": hadm_id // 2,
            "hadm_id": hadm_id,
            "icd_code": [codes[i][0] for i in chosen],
            "icd_version": [codes[i][1] for i in chosen],
        }
    )


def flag_by_regex(diagnoses: pd.DataFrame) -> pd.DataFrame:
    flags = {}
    for bit, group in enumerate(GROUPING.groups):
        hits = pd.Series(False, index=diagnoses.index)
        for version, prefixes in GROUPING.prefixes.items():
            words = [p for p, (sets, _) in prefixes.items() if sets >> bit & 1]
            matched = diagnoses["icd_code"].str.match("|".join(words))
            hits |= matched & (diagnoses["icd_version"] == version)
        flags[group] = hits
    table = diagnoses[["subject_id", "hadm_id"]].assign(**flags)
    return table.groupby(["subject_id", "hadm_id"]).max()


def main() -> None:
    diagnoses = make_diagnoses(ROWS)
    start = time.perf_counter()
    masks = mask_admissions(diagnoses, GROUPING)
    seconds = time.perf_counter() - start
    print(f"look-up and join: {ROWS:,} rows in {seconds:.2f} s, {ROWS / seconds:,.0f} rows/s")

    some = diagnoses.head(PEER_ROWS)
    start = time.perf_counter()
    peer = flag_by_regex(some.to_pandas())
    peer_seconds = time.perf_counter() - start
    rate = PEER_ROWS / peer_seconds
    print(f"regex a group:    {PEER_ROWS:,} rows in {peer_seconds:.2f} s, {rate:,.0f} rows/s")

    ours = unpack_mask(mask_admissions(some, GROUPING), GROUPING, hierarchy=False).to_pandas()
    ours = ours.set_index(["subject_id", "hadm_id"])[list(GROUPING.groups)].astype(bool)
    assert ours.equals(peer), "the two disagree"
    assert match_code(GROUPING, "C50919", 10), "the table is empty"
    print(f"same flags; {ROWS / seconds / rate:.0f} times as fast; {masks.height:,} admissions")


if __name__ == "__main__":
    main()
