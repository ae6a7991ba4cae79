"""Patches and patients, brought together by key and never across splits.

BreCaHAD and MIMIC-IV share no patient, so who is paired with whom is an assumption, and it decides
what a gain from fusion can mean. ``label_blind``: the record can add nothing; a gain measures
leakage or chance. ``permuted``: its null, the same patients as often, but none stands for a case
any more. ``label_aligned``: chosen by the patch's label; a gain is the pairing's own doing.
``linked``: a crosswalk gives the patient of each case. Only here does a gain mean something.

Choices hash identifiers with the seed; they depend neither on the order of rows nor on any state.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from histofuse.core.errors import InputError, LeakageError, collect_faults
from histofuse.core.ids import SPLITS
from histofuse.core.naming import show_count
from histofuse.core.tables import Contract, parse_columns
from histofuse.data.crosswalk import PATIENT, SPELT, read_crosswalk
from histofuse.params.pairing import (
    LabelAlignedParams,
    LabelBlindParams,
    LinkedParams,
    PairingParams,
    PermutedParams,
)

PAIRS: Final = Contract(
    name="pairs of patch and patient",
    columns=parse_columns("patch_id case_id frame_id subject_id:int hadm_id:int split label"),
    key=("patch_id",),
)


def join_targets(patient_splits: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """Join patients' splits with the target, and ids as a declared table spells them."""
    spelt = [name for name in SPELT if name in cohort]
    target = cohort[[*PATIENT, "target", *spelt]]
    return patient_splits.merge(target, on=PATIENT, how="inner", validate="1:1")


def make_pairs(
    patches: pd.DataFrame,
    patients: pd.DataFrame,
    params: PairingParams,
    seed: int,
    crosswalk: Path | None = None,
) -> pd.DataFrame:
    """Give each patch (`data.splits.PATCH_SPLITS`) a patient of its split: `PAIRS`, by patch.

    `patients` are as from `join_targets`; `crosswalk` is read under the rule ``linked`` alone,
    which leaves out the patches of cases without a patient.
    Raises InputError if a split lacks the patients a rule needs, or with every fault of a
    crosswalk; LeakageError if a patient or a case would cross splits.
    """
    patches = patches.sort_values("patch_id", ignore_index=True)
    match params.root:
        case LabelBlindParams(level="case"):
            assigned = _pair_cases(patches, patients, seed)
        case LabelBlindParams():
            assigned = _deal_by_split(patches, "patch_id", patients, seed).sort_index()
        case PermutedParams():
            assigned = _permute(patches, _pair_cases(patches, patients, seed), seed)
        case LabelAlignedParams(positive_share=shares):
            assigned = _align(patches, patients, shares, seed)
        case LinkedParams():
            assert crosswalk, "the rule linked reads a crosswalk"
            assigned = _link(patches, patients, crosswalk)
            patches = patches[patches["case_id"].isin(assigned["case_id"])]
    pairs = patches.assign(**{c: assigned[c].to_numpy() for c in PATIENT})[list(PAIRS.columns)]
    require_disjoint(pairs, patches, patients)
    return pairs


def require_disjoint(pairs: pd.DataFrame, patches: pd.DataFrame, patients: pd.DataFrame) -> None:
    """Stop if pairing takes a patient or a case into a split that is not theirs.

    A case is in several splits only where the patches were split by frame or patch; pairing adds
    none. Raises LeakageError saying for each breach how many, with an example.
    """
    checked = pairs.merge(
        patches[["patch_id", "split"]], on="patch_id", suffixes=("", "_patch"), validate="1:1"
    ).merge(patients[[*PATIENT, "split"]], on=PATIENT, how="left", suffixes=("", "_patient"))
    crossing = pairs.groupby("subject_id")["split"].nunique()
    crossing = crossing[crossing > 1]
    breaches = [
        *_name_breaches(checked, "patch", "patch_id"),
        *_name_breaches(checked, "patient", "subject_id"),
    ]
    if len(crossing):
        example = f"such as subject_id {crossing.index[0]}"
        breaches.append(f"{show_count(crossing, 'patients')} in several splits, {example}")
    if len(checked) != len(patches):
        breaches.append(f"{show_count(checked, 'pairs')} for {show_count(patches, 'patches')}")
    if breaches:
        raise LeakageError(f"the pairing leaks: {'; '.join(breaches)}.")


def _name_breaches(table: pd.DataFrame, of: str, key: str) -> Iterator[str]:
    breaches = table[table["split"] != table[f"split_{of}"]]
    for first in breaches.head(1).to_dict("records"):
        example = f"such as {key} {first[key]} in {first['split']}, of {first[f'split_{of}']}"
        yield f"{show_count(breaches, 'pairs')} not in the split of their {of}, {example}"


def _pair_cases(patches: pd.DataFrame, patients: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Give each case a patient of its own; patients are used again once all have a case."""
    cases = patches[["case_id", "split"]].drop_duplicates()
    given = _deal_by_split(cases, "case_id", patients, seed)
    return patches[["case_id", "split"]].merge(given, on=["case_id", "split"], validate="m:1")


def _permute(patches: pd.DataFrame, assigned: pd.DataFrame, seed: int) -> pd.DataFrame:
    shuffled = assigned[PATIENT].to_numpy()
    for _, group in _groups(patches):
        rows = group.index.to_numpy()
        order = np.argsort(_hash(group["patch_id"], seed, "permute"), kind="stable")
        shuffled[rows[order]] = shuffled[rows]
    return pd.DataFrame(shuffled, columns=PATIENT)


def _align(
    patches: pd.DataFrame, patients: pd.DataFrame, shares: dict[str, float], seed: int
) -> pd.DataFrame:
    """Give a set share of each class patients with target 1, in turn, and the rest others."""
    _require_shares(set(patches["label"]), shares)
    dealt: list[pd.DataFrame] = []
    for split, group in _groups(patches):
        positive = _choose_positive(group, shares, seed)
        for target in (0, 1):
            chosen = group[positive == bool(target)]
            pool = patients[(patients["split"] == split) & (patients["target"] == target)]
            where = f"split {split!r}, target {target}"
            dealt.append(_deal(chosen, "patch_id", pool, where, seed))
    return pd.concat(dealt).sort_index()


def _choose_positive(group: pd.DataFrame, shares: dict[str, float], seed: int) -> np.ndarray:
    """Mark the patches that get a patient with target 1: each class's share, to half a patch."""
    hashes = pd.Series(_hash(group["patch_id"], seed, "positive"), index=group.index)
    rank = hashes.groupby(group["label"]).rank(method="first")
    size = group["label"].map(group["label"].value_counts())
    wanted = np.floor(group["label"].map(shares) * size + 0.5)
    return (rank <= wanted).to_numpy()


def _require_shares(labels: set[str], shares: dict[str, float]) -> None:
    unknown = sorted(shares.keys() - labels)
    with collect_faults() as faults:
        for label in sorted(labels - shares.keys()):
            problem = f"no share for class {label!r}" + (f", but for {unknown}" if unknown else "")
            faults.add("params.yaml, pairing, positive_share", problem, "one for each class")


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    groups = ((split, table[table["split"] == split]) for split in SPLITS)
    return ((split, group) for split, group in groups if len(group))


def _deal_by_split(
    units: pd.DataFrame, key: str, patients: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Deal the patients of each split out to its units, as evenly as can be."""
    return pd.concat(
        _deal(group, key, patients[patients["split"] == split], f"split {split!r}", seed)
        for split, group in _groups(units)
    )


def _deal(units: pd.DataFrame, key: str, pool: pd.DataFrame, where: str, seed: int) -> pd.DataFrame:
    """Deal the admissions of a pool out to units, in turn; both in the order of their hashes."""
    if units.empty:
        return units.assign(**dict.fromkeys(PATIENT, 0))
    if pool.empty:
        problem = f"no patients for {show_count(units, 'cases')} or patches"
        remedy = "Widen the cohort, or change splits.patients."
        raise InputError.of(where, problem, "at least one", remedy)
    pool = _shuffle_patients(pool, seed)
    order = np.argsort(_hash(units[key], seed, key), kind="stable")
    turn = np.empty(len(units), dtype=np.int64)
    turn[order] = np.arange(len(units)) % len(pool)
    return units.assign(**{column: pool[column].to_numpy()[turn] for column in PATIENT})


def _shuffle_patients(pool: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Order admissions by hash, one per patient first, then the second of each, and so on."""
    ids = pool["subject_id"].astype(str) + "/" + pool["hadm_id"].astype(str)
    shuffled = pool.iloc[np.argsort(_hash(ids, seed, "patient"), kind="stable")]
    number = shuffled.groupby("subject_id").cumcount().to_numpy()
    return shuffled.iloc[np.argsort(number, kind="stable")]


def _hash(ids: Iterable[str], seed: int, stream: str) -> np.ndarray:
    salt = f"{seed}/pairing/{stream}/"
    digests = (hashlib.blake2b(f"{salt}{i}".encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _link(patches: pd.DataFrame, patients: pd.DataFrame, path: Path) -> pd.DataFrame:
    links = read_crosswalk(path, patches, patients)
    joined = patches[["case_id", "split"]].merge(links, on="case_id", how="inner", validate="m:1")
    split_of = patients.set_index(PATIENT)["split"]
    actual = split_of.loc[pd.MultiIndex.from_frame(joined[PATIENT])].to_numpy()
    joined = joined.assign(patient_split=actual)
    wrong = joined[joined["split"] != joined["patient_split"]]
    if wrong.empty:
        return joined
    lines = [
        f"{row.case_id} is in {row.split}, its patient {row.subject_id} in {row.patient_split}"
        for row in wrong.drop_duplicates(["case_id", "split"]).itertuples()
    ]
    raise LeakageError(
        f"{path} links cases and patients of different splits: {'; '.join(lines)}. Set "
        "data.crosswalk to this file before the patients are split: they then follow their cases."
    )
