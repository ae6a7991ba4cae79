"""Stage ``link_patients``: patients with a tissue and a record of their own, for models of both.

They are the simulated ones, or those of the data whom the crosswalk names.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from _stage import run_stage
from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import open_bundle
from histofuse.core.privacy import merge_sources
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.data.cohort import COHORT
from histofuse.data.crosswalk import count_partners
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.features.embeddings import load_embeddings
from histofuse.features.pairing import join_targets, make_pairs
from histofuse.features.specs import FEATURES, load_specs
from histofuse.params.base import load_section, load_value
from histofuse.params.data import DataParams
from histofuse.params.fusion import EncodersParams
from histofuse.params.pairing import PairingParams
from histofuse.params.patients import PatientCohortParams
from histofuse.patients.link import (
    LinkedPatients,
    check_encoder,
    check_own,
    find_rows,
    join_patients,
    read_simulated,
    write_linked,
)

SIMULATED = Path("data/simulated/linked")
EMBEDDED = Path("data/simulated/linked_embeddings")
PATCHES = Path("data/splits/patches.parquet")
PATIENTS = Path("data/splits/patients.parquet")
COHORT_FOLDER = Path("data/cohort")
FEATURES_FOLDER = Path("data/ehr")
EMBEDDINGS = Path("data/embeddings")
MODELS = Path("models")
OUT = Path("data/linked")


def main() -> None:
    cohort = load_section(PatientCohortParams, "patient_cohort").root
    linked = read_simulated(SIMULATED, EMBEDDED) if cohort == "simulated" else link_own()
    write_linked(linked, OUT)
    counts = linked.patients["split"].value_counts().to_dict()
    report(f"wrote {OUT}: {cohort} patients {counts}, {len(linked.nuclei):,} nuclei")


def link_own() -> LinkedPatients:
    """Link the patients of the crosswalk to the nuclei of their cases."""
    cohort = read_table(COHORT_FOLDER / "cohort.parquet", COHORT)
    facts = load_json(COHORT_FOLDER / "meta.json")
    embeddings = load_embeddings(EMBEDDINGS)
    source = merge_sources(embeddings.meta["sources"]["image"], facts["source"])
    pairs, partners = pair(cohort)
    features = read_table(FEATURES_FOLDER / "features.parquet", FEATURES)
    specs = load_specs(FEATURES_FOLDER / "features.json")
    check_own(pairs, cohort, source)
    patients, nuclei = join_patients(pairs, cohort, features, specs)
    image = find_rows(nuclei, embeddings.image)
    return LinkedPatients(
        patients,
        specs,
        nuclei,
        image,
        compute_logits(image, embeddings.meta["encoders"]["image"]["digest"]),
        {
            "cohort": "crosswalk",
            "target": facts["target"],
            "source": source,
            "partners": partners,
            "patches": "patches",
            "encoder": embeddings.meta["encoders"]["image"],
            **{name: embeddings.meta[name] for name in ("classes", "focus_class")},
        },
    )


def pair(cohort: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Pair the nuclei of linked cases with their patients; also say how many found a partner."""
    crosswalk = Path(load_value(DataParams, "data.crosswalk"))
    patches = read_table(PATCHES, PATCH_SPLITS)
    patients = join_targets(read_table(PATIENTS, PATIENT_SPLITS), cohort)
    rule = PairingParams.model_validate({"rule": "linked"})
    pairs = make_pairs(patches, patients, rule, 0, crosswalk)
    partners = count_partners(pairs.drop_duplicates("case_id"), patches, patients)
    report(f"{crosswalk}: {partners}")
    return pairs, str(partners)


def compute_logits(embeddings: np.ndarray, digest: str) -> np.ndarray:
    """Compute the class logits of embeddings by the encoder that made them."""
    from histofuse.models.backbones import load_image_model
    from histofuse.serving.networks import compute_image_logits

    encoder = open_bundle(MODELS / load_value(EncodersParams, "encoders.image"))
    check_encoder(encoder.config, digest_file(PATCHES), digest, encoder.digest)
    return compute_image_logits(load_image_model(encoder), embeddings)


if __name__ == "__main__":
    run_stage(main)
