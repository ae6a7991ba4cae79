"""Stage ``train_fusion``: paired embeddings -> the bundle of one fusion model."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.naming import name_fusion
from histofuse.core.progress import report
from histofuse.params.base import load_section, load_seed
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import PairingParams
from histofuse.params.tune import apply_values
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.tracking.recorder import open_recorder
from histofuse.training.fusion import load_pairs, train_fusion

EMBEDDINGS = Path("data/embeddings")
PAIRS = Path("data/pairs")
STUDIES = Path("studies")
MODELS = Path("models")


def main(rule: str) -> None:
    params = load_section(FusionParams, "fusion")
    params = apply_values(params, read_best_params(STUDIES / params.study / BEST_PARAMS))
    pairing = load_section(PairingParams, f"pairing.{rule}")
    data = load_pairs(PAIRS / f"{rule}.parquet", EMBEDDINGS, pairing)
    report(f"read {len(data.pairs):,} pairs by {pairing.root.rule}")

    name = name_fusion(rule)
    with open_recorder(run_name=name) as recorder:
        result = train_fusion(data, params, load_seed(), recorder, MODELS / name)
    best = result.history[result.best_epoch - 1]
    report(
        f"wrote {MODELS / name}: epoch {result.best_epoch} of {len(result.history)},"
        f" validation macro-F1 {best['validation_macro_f1']:.3f}"
    )


if __name__ == "__main__":
    run_stage(main)
