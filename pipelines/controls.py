"""Stage ``controls``: compare pairing arms, and train on shuffled labels, targets and images."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder
from histofuse.core.progress import report
from histofuse.evaluation.controls.report import write_controls
from histofuse.evaluation.controls.run import ControlInputs, load_arms, run_controls
from histofuse.evaluation.controls.verdicts import judge
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.sides import Rules
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.pairing import PairingsParams
from histofuse.params.promotion import ControlParams
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import apply_values
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.training.tabular import load_table

MODELS = Path("models")
PAIRS = Path("data/pairs")
EMBEDDINGS = Path("data/embeddings")
ENCODED = Path("data/encoded")
COHORT_METADATA = Path("data/cohort/meta.json")
PATCH_METADATA = Path("data/patches/meta.json")
STUDIES = Path("studies")
OUT = Path("reports/controls")


def main() -> None:
    params = load_section(ControlParams, "controls")
    pairings = load_section(PairingsParams, "pairing").root
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    fusion = load_section(FusionParams, "fusion")
    tabular = load_section(TabularParams, f"tabular.{params.tabular}").root
    inputs = ControlInputs(
        pairings=pairings,
        pairs=PAIRS,
        embeddings=EMBEDDINGS,
        fusion=apply_values(fusion, read_best_params(STUDIES / fusion.study / BEST_PARAMS)),
        table=load_table(ENCODED, COHORT_METADATA, tabular.kind),
        tabular=apply_values(tabular, read_best_params(STUDIES / tabular.study / BEST_PARAMS)),
    )
    arms = load_arms(MODELS, load_value(EncodersParams, "encoders.image"), pairings)
    report(f"read predictions of {len(arms)} arms")

    controls = run_controls(arms, inputs, params, bootstrap)
    rules = Rules(params.gain_margin, params.chance_margin, bootstrap.params.fewest_groups)
    verdicts = judge(controls, rules)
    simulated = "simulated" in (
        load_json(PATCH_METADATA)["source"],
        load_json(COHORT_METADATA)["source"],
    )
    with replacing_folder(OUT) as folder:
        write_controls(controls, verdicts, bootstrap.params, folder, simulated=simulated)
    for verdict in verdicts:
        report(f"{verdict.question} {verdict.answer.upper()}. {verdict.sentence}")
    report(f"wrote {OUT}")


if __name__ == "__main__":
    run_stage(main)
