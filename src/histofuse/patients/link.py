"""Linked patients: whose nuclei, record and outcome are their own.

They are simulated, or those whom a crosswalk names: all cases of a patient form one bag, with the
record of the index row that the crosswalk means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from histofuse.core.artifacts import load_json, replacing_folder, write_json
from histofuse.core.errors import InputError, collect_faults
from histofuse.core.naming import show_count
from histofuse.core.privacy import FEWEST_PATIENTS, may_show_patients, merge_sources
from histofuse.core.tables import read_table, write_table
from histofuse.data.crosswalk import SPELT
from histofuse.features.embeddings import IMAGE_ROWS, Embedded
from histofuse.features.specs import KEY, FeatureSpec, to_json_list
from histofuse.patients.bags import (
    META,
    NUCLEI,
    PATIENTS,
    check_bags,
    check_outcomes,
    describe_record,
    make_bags,
)
from histofuse.training.rows import WEIGHT

_WHERE: Final = "the patients of the crosswalk"


@dataclass(frozen=True)
class LinkedPatients:
    """What a folder of linked patients holds; see `bags.load_bags`."""

    patients: pd.DataFrame  # `PATIENTS` and raw features
    specs: Sequence[FeatureSpec]  # of these features
    nuclei: pd.DataFrame  # `NUCLEI`
    embeddings: Float32[np.ndarray, "n d"]  # in the order of the nuclei
    logits: Float[np.ndarray, "n k"]
    # ``cohort`` (simulated or crosswalk), ``target``, ``source``, ``encoder``, its ``classes`` and
    # ``focus_class``, and ``patches``, their folder below that of all data
    meta: Mapping[str, Any]


def write_linked(linked: LinkedPatients, folder: Path) -> None:
    """Check linked patients and write them in the place of `folder`.

    Raises InputError with all that `bags.check_bags` finds.
    """
    tables = linked.patients, linked.nuclei, linked.specs, linked.embeddings, linked.logits
    check_bags(make_bags(*tables), _WHERE)
    with replacing_folder(folder) as temporary:
        write_table(linked.patients, temporary / "patients.parquet", PATIENTS)
        write_table(linked.nuclei, temporary / "nuclei.parquet", NUCLEI)
        write_json(to_json_list(linked.specs), temporary / "features.json")
        np.save(temporary / "image.npy", linked.embeddings, allow_pickle=False)
        np.save(temporary / "logits.npy", linked.logits, allow_pickle=False)
        write_json(dict(linked.meta), temporary / META)


def read_simulated(cohort: Path, embeddings: Path) -> LinkedPatients:
    """Read simulated patients and what the encoder made of their nuclei."""
    patients = read_table(cohort / "patients.parquet", PATIENTS)
    meta, source = load_json(embeddings / META), load_json(cohort / META)["source"]
    return LinkedPatients(
        patients=patients,
        specs=describe_record(patients.drop(columns=list(PATIENTS.columns))),
        nuclei=read_table(cohort / "nuclei.parquet", NUCLEI),
        embeddings=np.load(embeddings / "image.npy", allow_pickle=False),
        logits=np.load(embeddings / "logits.npy", allow_pickle=False),
        meta=meta
        | {
            "cohort": "simulated",
            "target": "outcome",
            "source": merge_sources(meta["source"], source),
            "patches": "simulated/linked",
        },
    )


def join_patients(
    pairs: pd.DataFrame,
    cohort: pd.DataFrame,
    features: pd.DataFrame,
    specs: Sequence[FeatureSpec],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the nuclei, record and outcome of each patient of linked pairs.

    Args:
        pairs: `features.pairing.PAIRS` under the rule ``linked``.
        cohort: `data.cohort.COHORT`; a declared table's ids name the patients.
        features: Raw features of the cohort (`features.specs.FEATURES`).
        specs: Of the features.

    Returns patients as `PATIENTS`, with their features, and their nuclei as `NUCLEI`, both by
    patient. Raises InputError with every feature that is named as another column.
    """
    key, splits = list(KEY), pairs[[*KEY, "split"]].drop_duplicates()
    with collect_faults() as faults:
        for name in {spec.name for spec in specs} & set(PATIENTS.columns):
            faults.add(f"the feature {name}", "is named as another column", "another name")
    ids = SPELT[0] if SPELT[0] in cohort else KEY[0]
    named = cohort[key].assign(patient_id=cohort[ids].astype("str"), outcome=cohort["target"])
    patients = splits.merge(named, on=key, validate="1:1")
    nuclei = pairs.merge(patients[[*key, "patient_id"]], on=key, validate="m:1")
    order = ["patient_id", "patch_id"]
    patients = patients[[*key, *PATIENTS.columns]].merge(features, on=key, validate="1:1")
    return (
        patients.drop(columns=key).sort_values("patient_id", ignore_index=True),
        nuclei[order].sort_values(order, ignore_index=True),
    )


def find_rows(nuclei: pd.DataFrame, image: Embedded) -> Float32[np.ndarray, "n d"]:
    """Find the embeddings of nuclei, in their order. Raises InputError if some have none."""
    rows = nuclei[["patch_id"]].merge(image.rows, on="patch_id", how="left", validate="1:1")["row"]
    if missing := int(rows.isna().sum()):
        problem = f"{show_count(missing, 'nuclei')} of linked patients not among them"
        raise InputError.of(IMAGE_ROWS.name, problem, "all of them", "Run dvc repro embed.")
    return np.asarray(image.values[rows.to_numpy(dtype=np.int64)])


def check_encoder(config: Mapping[str, Any], splits: str, embedded: str, digest: str) -> None:
    """Check that the encoder learnt from the current train patches, and made the embeddings.

    Args:
        config: Of the encoder's bundle.
        splits: SHA-256 of the splits of patches.
        embedded: Digest of the encoder of the embeddings.
        digest: Of the encoder's bundle.

    Raises InputError with both, if neither is so.
    """
    where, remedy = f"the encoder {config['name']}", "Run dvc repro."
    with collect_faults() as faults:
        if config["inputs"]["splits"] != splits:
            problem = "was trained on patches of other splits: it may know test patients"
            faults.add(where, problem, "the current data/splits/patches.parquet", remedy)
        if embedded != digest:
            faults.add(where, "is not that of data/embeddings", "the same bundle", remedy)


def check_own(links: pd.DataFrame, cohort: pd.DataFrame, source: str) -> None:
    """Check that models can be trained and measured on the patients of a crosswalk.

    No split of a restricted source may be of few patients, for its scores would tell of these.
    `links` has ``subject_id``, ``hadm_id`` and ``split``, at least one row a patient, `cohort` is a
    `data.cohort.COHORT`. Raises InputError with every patient of several index rows, every split of
    one outcome or of few restricted patients, and weights, which these models do not take.
    """
    rows = links[[*KEY, "split"]].drop_duplicates().merge(cohort, on=list(KEY))
    with collect_faults() as faults:
        for subject in rows["subject_id"][rows["subject_id"].duplicated()].unique():
            problem = f"subject_id {subject} has cases of several index rows"
            faults.add(_WHERE, problem, "one hadm_id for all cases of a patient")
        if WEIGHT in rows:
            expected = "target.censoring: left_out in records.yaml"
            faults.add(_WHERE, "are weighted, which these models do not take", expected)
        check_outcomes(rows.rename(columns={"target": "outcome"}), _WHERE, faults)
        patients = rows.groupby("split")["subject_id"].nunique()
        if not may_show_patients([source]):
            for split in patients.index[patients < FEWEST_PATIENTS]:
                problem = f"fewer than {FEWEST_PATIENTS} {split} patients of a restricted source"
                faults.add(_WHERE, problem, f"at least {FEWEST_PATIENTS}", "Link more patients.")
