"""Cross-validation of methods at patient level: each linked patient is tested once.

In a fold of the chain, the patients of the crosswalk have the split of their cases and the nuclei
of the fold's own encoder, which has not seen those that are tested. Simulated patients are dealt to
folds of their own; their encoder was trained on other tissue.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from histofuse.core.artifacts import replacing_folder
from histofuse.core.bundle import open_bundle
from histofuse.core.naming import name_patient_model
from histofuse.core.tables import read_table
from histofuse.data.patches import load_index
from histofuse.data.splits import PATCH_SPLITS, fold_patients
from histofuse.models.backbones import load_image_model
from histofuse.patients.bags import NUCLEI, PatientBags, check_bags
from histofuse.patients.train import PatientCohort, load_cohort, train_patients
from histofuse.training.image import apply_network
from histofuse.training.protocols.crossval import (
    MODELS,
    PATCHES,
    Chain,
    Sources,
    complete_fold,
    find_fold,
    list_folds,
)
from histofuse.training.recorder import Recorder

PATIENT_MODELS: Final = Path("patients")  # within the folder of a fold


def complete_with_patients(chain: Chain, sources: Sources, fold: int, run: Path) -> None:
    """Run one fold, or what it lacks, with the methods at patient level last.

    Raises InputError if patients of a fold are too few to train a method.
    """
    folder = complete_fold(chain, sources, fold, run)
    if is_complete(chain, fold, run):
        return
    cohort = split_cohort(chain, sources, fold, folder)
    with replacing_folder(folder / PATIENT_MODELS) as temporary:
        for method, params in chain.patients.items():
            path = temporary / name_patient_model(method)
            train_patients(cohort, params, chain.encoding, chain.seed, Recorder(), path)


def is_complete(chain: Chain, fold: int, run: Path) -> bool:
    """Tell whether nothing of a fold is left to run."""
    done = find_fold(run, fold)
    return done.exists() and (not chain.patients or (done / PATIENT_MODELS).exists())


def split_cohort(chain: Chain, sources: Sources, fold: int, folder: Path) -> PatientCohort:
    """Split the linked patients for a fold, whose folder `folder` is."""
    cohort = load_cohort(sources.linked)
    if cohort.kind == "simulated":
        folds = len(list_folds(chain, sources))
        bags = replace(cohort.bags, split=deal_patients(cohort.bags, folds, fold, chain.seed))
    else:
        encoder = open_bundle(folder / MODELS / chain.encoders.image)
        nuclei = read_table(sources.linked / "nuclei.parquet", NUCLEI)[["patch_id"]]
        index = nuclei.merge(load_index(sources.patches), on="patch_id", validate="1:1")
        network = apply_network(load_image_model(encoder), sources.patches, index)
        splits = nuclei.merge(read_table(folder / PATCHES, PATCH_SPLITS), on="patch_id")["split"]
        of_patients = splits.groupby(cohort.bags.bag_of).first().to_numpy(dtype=object)
        bags = replace(cohort.bags, split=of_patients, **network._asdict())
        named = {"name": encoder.name, "digest": encoder.digest}
        cohort = replace(cohort, encoder={**cohort.encoder, **named})
    check_bags(bags, f"{sources.linked}, fold {fold + 1} of crossval.patient_models")
    return replace(cohort, bags=bags)


def deal_patients(bags: PatientBags, folds: int, fold: int, seed: int) -> np.ndarray:
    """Deal patients to the splits of a fold, as `splits.fold_patients` does."""
    numbers = np.arange(len(bags))
    cohort = pd.DataFrame({"subject_id": numbers, "hadm_id": numbers, "target": bags.outcome})
    return fold_patients(cohort, folds, fold, seed)["split"].to_numpy(dtype=object)
