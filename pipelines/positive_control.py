"""Stage ``positive_control``: linked patients by image, record and both, next to the achievable."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder
from histofuse.core.bundle import open_bundle
from histofuse.core.naming import name_patient_model, show_name
from histofuse.core.progress import report
from histofuse.data.simulate.linked.achievable import SIDES
from histofuse.data.simulate.linked.cohort import draw_cohort
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.metrics.sides import Rules
from histofuse.evaluation.positive_control.measure import (
    ControlMethods,
    LinkedScores,
    measure_gain,
    read_scores,
    score_by_chance,
    score_cohort,
    select_best,
)
from histofuse.evaluation.positive_control.report import write_positive_control
from histofuse.params.base import load_section, load_seed
from histofuse.params.ehr import EncodingParams
from histofuse.params.evaluation import PositiveControlParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.patients import PatientParams
from histofuse.params.promotion import ControlParams
from histofuse.params.simulation import LinkedSimulationParams
from histofuse.patients.bags import load_bags

LINKED = Path("data/linked")
EMBEDDINGS = Path("data/linked_embeddings")
MODELS = Path("models/patients")
OUT = Path("reports/positive_control")


def main() -> None:
    params = load_section(PositiveControlParams, "positive_control")
    drawn = load_section(LinkedSimulationParams, "simulation.linked")
    seed, bags = load_seed(), load_bags(LINKED, EMBEDDINGS)
    bundles = {s: open_bundle(MODELS / name_patient_model(getattr(params, s))) for s in SIDES}
    sides = {s: PatientParams.model_validate(b.config["params"]).root for s, b in bundles.items()}
    methods = ControlMethods(sides, load_section(EncodingParams, "encoding"), seed)
    report(f"read {len(bags):,} patients and {', '.join(b.name for b in bundles.values())}")

    linked = LinkedScores(
        outcome=bags.outcome[bags.split == "test"],
        models={side: read_scores(bundle.path, side, bags) for side, bundle in bundles.items()},
        best=select_best(bags, draw_cohort(drawn, seed), drawn),
        by_chance=score_by_chance(bags, methods, params.shuffles),
    )
    without = drawn.model_copy(update={"image_own": 0.0})
    null = score_cohort(bags, draw_cohort(without, seed), without, methods)
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), seed)
    measured = {"linked": measure_gain(linked, bootstrap), "null": measure_gain(null, bootstrap)}

    margins = load_section(ControlParams, "controls")
    fewest = bootstrap.params.fewest_groups
    rules = Rules(margins.gain_margin, margins.chance_margin, fewest)
    with replacing_folder(OUT) as folder:
        verdict = write_positive_control(
            measured,
            show_name(params.both),
            bootstrap.params,
            rules,
            folder,
            source=bundles["both"].config["source"],
        )
    report(f"wrote {OUT}. Does fusion gain where there is something to gain? {verdict}")


if __name__ == "__main__":
    run_stage(main)
