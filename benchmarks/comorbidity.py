"""Elixhauser groups of as many diagnoses as MIMIC-IV has: one look-up a distinct code.

The peers take a sample, for they are slow: a loop in Python that asks each row for each group, and
one regular expression a group over the whole code column, as comorbidipy does, on the ICD-10 half.
The limit is the same group-by without codes: how many rows each admission has.
Run: python benchmarks/comorbidity.py [--short]
"""

from collections import defaultdict

import numpy as np
import pandas as pd
import polars as pl

from claims import Claim, best_seconds, main
from histofuse.features.comorbidity import load_grouping, mask_admissions, unpack_mask

ROWS, ADMISSIONS = 4_800_000, 431_000
BAR = 2_000_000
GROUPING = load_grouping("elixhauser_quan")  # without exclusions, which a plain regex cannot say
KEYS = ["subject_id", "hadm_id"]


def make_codes() -> pl.DataFrame:
    """The prefixes of the table with every tail, and codes that match none of them."""
    codes = {
        (prefix + tail, version)
        for version, prefixes in GROUPING.prefixes.items()
        for prefix in prefixes
        for tail in ("", *(str(i) for i in range(30)))
    }
    strangers = {(f"Q{i:04d}", 10) for i in range(len(codes) // 2)}
    columns = ["icd_code", "icd_version"]
    return pl.DataFrame(sorted(codes | strangers), schema=columns, orient="row")


def make_diagnoses(rows: int) -> pl.DataFrame:
    """Draw a code a row for admissions that come in any order."""
    rng = np.random.default_rng(0)
    codes = make_codes()
    hadm_id = rng.integers(20_000_000, 20_000_000 + ADMISSIONS, rows)
    keys = pl.DataFrame({"subject_id": hadm_id // 2, "hadm_id": hadm_id})
    return keys.hstack(codes[rng.integers(0, len(codes), rows)])


def flag_by_row(diagnoses: pd.DataFrame) -> pd.DataFrame:
    """Ask each row for each group."""
    words = {
        version: {
            group: tuple(p for p, (sets, _) in prefixes.items() if sets >> bit & 1)
            for bit, group in enumerate(GROUPING.groups)
        }
        for version, prefixes in GROUPING.prefixes.items()
    }
    found: dict[tuple[int, int], set[str]] = defaultdict(set)
    for subject_id, hadm_id, code, version in diagnoses.itertuples(index=False):
        groups = words[version].items()
        found[subject_id, hadm_id] |= {g for g, starts in groups if code.startswith(starts)}
    keys = sorted(found)
    flags = [[group in found[key] for group in GROUPING.groups] for key in keys]
    index = pd.MultiIndex.from_tuples(keys, names=KEYS)
    return pd.DataFrame(flags, index=index, columns=list(GROUPING.groups))


def flag_by_regex(diagnoses: pd.DataFrame) -> pd.DataFrame:
    """Match one regular expression a group against the ICD-10 codes."""
    flags = {}
    for bit, group in enumerate(GROUPING.groups):
        words = [p for p, (sets, _) in GROUPING.prefixes[10].items() if sets >> bit & 1]
        flags[group] = diagnoses["icd_code"].str.match("|".join(words))
    return diagnoses[KEYS].assign(**flags).groupby(KEYS).max()


def flag_ours(diagnoses: pl.DataFrame) -> pd.DataFrame:
    flags = unpack_mask(mask_admissions(diagnoses, GROUPING), GROUPING, hierarchy=False)
    return flags.to_pandas().set_index(KEYS)[list(GROUPING.groups)].astype(bool)


def rate_peer(flag, diagnoses: pl.DataFrame) -> float:
    """Rows a second of a peer, once it is known to give what we give."""
    table, found = diagnoses.to_pandas(), []
    seconds = best_seconds(lambda: found.append(flag(table)), repeats=1)
    assert flag_ours(diagnoses).equals(found[0]), f"{flag.__name__} disagrees"
    assert found[0].any().all(), "a group is empty: nothing to compare"
    return len(table) / seconds


def measure(short: bool) -> list[Claim]:
    diagnoses = make_diagnoses(ROWS)
    seconds = best_seconds(lambda: mask_admissions(diagnoses, GROUPING))
    count = diagnoses.lazy().group_by(KEYS).len()
    limit = best_seconds(lambda: count.collect(engine="streaming"))
    some = diagnoses.head(100_000 if short else 500_000)
    by_row = rate_peer(flag_by_row, some)
    by_regex = rate_peer(flag_by_regex, some.filter(pl.col("icd_version") == 10))
    rate = ROWS / seconds
    return [
        Claim(
            number=2,
            work=f"Elixhauser groups of {ROWS:,} mixed ICD-9/10 rows",
            ours=f"{rate / 1e6:.2f} M rows/s",
            peer=f"a loop over rows {by_row / 1e6:.3f} M rows/s;"
            f" a regex a group, ICD-10 half, {by_regex / 1e6:.3f} M rows/s",
            limit=f"counting the rows of each admission {ROWS / limit / 1e6:.2f} M rows/s",
            ratio=rate / BAR,
            bar=f"≥ {BAR / 1e6:.0f} M rows/s (ratio to it)",
            holds=rate >= BAR,
            note=f"{rate / by_row:,.0f} × the loop, {rate / by_regex:,.0f} × the regexes.",
        )
    ]


if __name__ == "__main__":
    main(measure)
