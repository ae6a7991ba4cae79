"""Stage ``tune_fusion``: paired embeddings -> the study of the fusion head."""

from pathlib import Path

from _stage import run_stage
from histofuse.params.base import load_section, load_seed
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.fusion import FusionParams
from histofuse.params.pairing import PairingParams, PairingsParams
from histofuse.params.tune import StudyParams, StudyStorage
from histofuse.studies.figures import draw_study
from histofuse.studies.objectives.epochs import MEASURED_ON, FusionObjective
from histofuse.studies.run import StudyJob, parse_options, run_study
from histofuse.tracking.studies import open_observer
from histofuse.training.fusion import load_pairs, merge_sources

EMBEDDINGS = Path("data/embeddings")
PAIRS = Path("data/pairs")
STUDIES = Path("studies")


def main(name: str, *words: str) -> None:
    params = load_section(StudyParams, f"tune.{name}")
    storage = load_section(StudyStorage, "study_storage").root
    # One head for all rules: what the label gives away must not choose it.
    rule = load_section(EvaluationParams, "evaluation").primary_rule
    pairing = PairingParams(load_section(PairingsParams, "pairing").root[rule])
    seed, data = load_seed(), load_pairs(PAIRS / f"{rule}.parquet", EMBEDDINGS, pairing)
    sources = data.embeddings.meta["sources"]
    job = StudyJob(
        name=name,
        model="fusion",
        base=load_section(FusionParams, "fusion"),
        params=params,
        seed=seed,
        inputs=dict(data.digests),
        source=merge_sources(sources["image"], sources["patient"]),
        measured_on=MEASURED_ON,
        make_objective=lambda: FusionObjective(data, seed, params.metric),
    )
    with open_observer() as observer:
        run_study(job, parse_options(words, storage), STUDIES / name, observer, draw_study)


if __name__ == "__main__":
    run_stage(main)
