"""Stage ``embed_linked``: the frozen image encoder -> embeddings and logits of linked patients."""

from pathlib import Path

import numpy as np

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.progress import report
from histofuse.data.patches import load_index
from histofuse.models.backbones import load_image_model
from histofuse.params.base import load_section
from histofuse.params.fusion import EncodersParams
from histofuse.tracking.registry import pull_encoder
from histofuse.training.image import apply_network

LINKED = Path("data/simulated/linked")
OUT = Path("data/simulated/linked_embeddings")


def main() -> None:
    encoder = pull_encoder(load_section(EncodersParams, "encoders").image)
    index = load_index(LINKED)
    report(f"embedding {len(index):,} patches with {encoder.name} {encoder.digest[:12]}")

    outputs = apply_network(load_image_model(encoder), LINKED, index)

    meta = {k: encoder.config[k] for k in ("classes", "focus_class", "source")}
    with replacing_folder(OUT) as folder:
        np.save(folder / "image.npy", outputs.embeddings, allow_pickle=False)
        np.save(folder / "logits.npy", outputs.logits, allow_pickle=False)
        encoder_meta = {"name": encoder.name, "digest": encoder.digest}
        write_json({**meta, "encoder": encoder_meta}, folder / "meta.json")
    report(f"wrote {OUT}: {' x '.join(map(str, outputs.embeddings.shape))}")


if __name__ == "__main__":
    run_stage(main)
