"""Stage ``tune_fusion``: paired embeddings -> the study of the fusion head."""

from pathlib import Path

from _stage import run_stage
from _study import run_job
from histofuse.core.privacy import merge_sources
from histofuse.params.base import load_section, load_seed
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import PairingParams, PairingsParams
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.studies.objectives.epochs import MEASURED_ON, FusionObjective
from histofuse.studies.run import StudyJob
from histofuse.training.fusion import load_pairs

EMBEDDINGS = Path("data/embeddings")
PAIRS = Path("data/pairs")


def main(name: str, *words: str) -> None:
    # One head for all rules: what the label gives away must not choose it.
    rule = load_section(EvaluationParams, "evaluation").primary_rule
    pairing = PairingParams(load_section(PairingsParams, "pairing").root[rule])
    data = load_pairs(PAIRS / f"{rule}.parquet", EMBEDDINGS, pairing)
    sources = data.embeddings.meta["sources"]
    job = StudyJob(
        name=name,
        model="fusion",
        base=load_section(FusionParams, "fusion"),
        params=load_section(StudyParams, f"tune.{name}"),
        seed=load_seed(),
        inputs=dict(data.digests),
        source=merge_sources(sources["image"], sources["patient"]),
        measured_on=MEASURED_ON,
        make_objective=lambda seed, metric: FusionObjective(data, seed, metric),
    )
    run_job(job, words, load_section(StudyStorage, "study_storage").root)


if __name__ == "__main__":
    run_stage(main)
