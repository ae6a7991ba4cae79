"""Stage ``train_fusion``: paired embeddings -> the bundle of one fusion model."""

from pathlib import Path

from histofuse.core.artifacts import digest_file
from histofuse.core.progress import report, run_stage
from histofuse.core.tables import read_table
from histofuse.features.embeddings import load_embeddings
from histofuse.features.pairing import PAIRS
from histofuse.params.base import load_section, load_seed
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import PairingParams
from histofuse.tracking.recorder import open_recorder
from histofuse.training.fusion import PairedEmbeddings, train_fusion

EMBEDDINGS = Path("data/embeddings")
PAIRS_FOLDER = Path("data/pairs")
MODELS = Path("models")


def main(rule: str) -> None:
    params = load_section(FusionParams, "fusion")
    pairing = load_section(PairingParams, f"pairing.{rule}")
    path = PAIRS_FOLDER / f"{rule}.parquet"
    files = {"pairs": path, "embeddings": EMBEDDINGS / "meta.json"}
    files |= {f"{side}_embeddings": EMBEDDINGS / f"{side}.npy" for side in ("image", "patient")}
    data = PairedEmbeddings(
        pairs=read_table(path, PAIRS),
        embeddings=load_embeddings(EMBEDDINGS),
        pairing=pairing,
        digests={what: digest_file(file) for what, file in files.items()},
    )
    report(f"read {len(data.pairs):,} pairs by {pairing.root.rule}")

    name = f"fusion_{rule}"
    with open_recorder(run_name=name) as recorder:
        result = train_fusion(data, params, load_seed(), recorder, MODELS / name)
    best = result.history[result.best_epoch - 1]
    report(
        f"wrote {MODELS / name}: epoch {result.best_epoch} of {len(result.history)},"
        f" validation macro-F1 {best['validation_macro_f1']:.3f}"
    )


if __name__ == "__main__":
    run_stage(main)
