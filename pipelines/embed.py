"""Stage ``embed``: frozen encoders from the registry -> embeddings of every patch and patient."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import digest_folder
from histofuse.core.bundle import Bundle
from histofuse.core.errors import InputError
from histofuse.core.progress import report
from histofuse.core.tables import read_table
from histofuse.data.patches import load_index
from histofuse.features.embeddings import (
    Embedded,
    Embeddings,
    find_image_embeddings,
    number_rows,
    write_embeddings,
)
from histofuse.features.encoding import ENCODED
from histofuse.models.backbones import load_image_model
from histofuse.models.tabular import MlpModel, load_tabular_model
from histofuse.params.base import load_section
from histofuse.params.fusion import EncodersParams
from histofuse.tracking.names import name_registered
from histofuse.tracking.registry import pull_encoder
from histofuse.training.image import apply_network

PATCHES = Path("data/patches")
ENCODED_TABLE = Path("data/encoded/imputed.parquet")
IMAGE_EMBEDDINGS = Path("data/image_embeddings")
OUT = Path("data/embeddings")


def main() -> None:
    params = load_section(EncodersParams, "encoders")
    bundles = {"image": pull_encoder(params.image), "patient": pull_encoder(params.patient)}
    report(f"read {', '.join(f'{b.name} {b.digest[:12]}' for b in bundles.values())}")

    image = embed_all_patches(bundles["image"])
    patient = embed_all_patients(bundles["patient"])

    meta = {
        "classes": bundles["image"].config["classes"],
        "focus_class": bundles["image"].config["focus_class"],
        "sources": {side: bundle.config["source"] for side, bundle in bundles.items()},
        "encoders": {side: describe(bundle) for side, bundle in bundles.items()},
    }
    write_embeddings(Embeddings(image, patient, meta), OUT)
    shapes = [f"{len(e.rows):,} x {e.dim}" for e in (image, patient)]
    report(f"wrote {OUT}: patches {shapes[0]}, admissions {shapes[1]}")


def describe(bundle: Bundle) -> dict[str, str]:
    """Name an encoder by model, registered model and digest."""
    registered = name_registered(bundle.name)
    return {"name": bundle.name, "registered": registered, "digest": bundle.digest}


def embed_all_patches(bundle: Bundle) -> Embedded:
    """Take the embeddings that the encoder's training computed; else compute them."""
    origin = {"encoder": bundle.digest, "patches": digest_folder(PATCHES)}
    if kept := find_image_embeddings(origin, IMAGE_EMBEDDINGS / bundle.name):
        return kept
    report(f"{IMAGE_EMBEDDINGS / bundle.name}: not of this encoder and these patches; embedding")
    index = load_index(PATCHES)
    outputs = apply_network(load_image_model(bundle), PATCHES, index)
    return number_rows(index[["patch_id"]], outputs.embeddings)


def embed_all_patients(bundle: Bundle) -> Embedded:
    """Embed the index admissions, in the order of the encoded table."""
    model = load_tabular_model(bundle)
    if not isinstance(model, MlpModel):
        problem = f"{bundle.name} has no embedding"
        raise InputError.of("params.yaml, encoders.patient", problem, "a model of kind mlp")
    rows = read_table(ENCODED_TABLE, ENCODED)
    return number_rows(rows[["subject_id", "hadm_id"]], model.embed(rows))


if __name__ == "__main__":
    run_stage(main)
