"""Stage ``protocol``: the paper's networks under its leaky split, next to the honest ones."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder
from histofuse.core.bundle import open_bundle
from histofuse.core.progress import report
from histofuse.evaluation.crossval.protocol import compare_protocols, write_protocols
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.params.base import load_section, load_seed
from histofuse.params.crossval import ProtocolParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.protocols.paper import train_as_paper

HONEST = (Path("models/simple_cnn"), Path("models/resnet18"))
PATCHES = Path("data/patches")
FRAMES_TABLE = Path("data/annotations/frames.parquet")
SPLITS = Path("data/splits")
WORK = Path(".histofuse/protocol")
OUT = Path("evidence/protocol")


def main() -> None:
    folds = load_section(ProtocolParams, "protocol").folds
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    found = []
    for honest in HONEST:
        config = open_bundle(honest).config
        report(f"read {honest}, to be trained with one patch in {folds} held out at random")
        leaky = train_as_paper(config, PATCHES, folds, WORK)
        compared = compare_protocols(leaky, honest, PATCHES, FRAMES_TABLE, SPLITS, bootstrap, folds)
        found.append(compared)

    with replacing_folder(OUT) as folder:
        write_protocols(found, bootstrap.params, folder)
    report(f"wrote {OUT}: {', '.join(p.name for p in found)}")


if __name__ == "__main__":
    run_stage(main)
