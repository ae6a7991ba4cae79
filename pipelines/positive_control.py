"""Stage ``positive_control``: linked patients by image, record and both.

Of simulated patients what is achievable stands next to it, and the null.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder
from histofuse.core.bundle import open_bundle
from histofuse.core.ids import SPLITS
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
from histofuse.patients.bags import META, PatientBags, load_bags

LINKED = Path("data/linked")
MODELS = Path("models/patients")
OUT = Path("reports/positive_control")


def main() -> None:
    params = load_section(PositiveControlParams, "positive_control")
    seed, bags = load_seed(), load_bags(LINKED)
    bundles = {s: open_bundle(MODELS / name_patient_model(getattr(params, s))) for s in SIDES}
    sides = {s: PatientParams.model_validate(b.config["params"]).root for s, b in bundles.items()}
    methods = ControlMethods(sides, load_section(EncodingParams, "encoding"), seed)
    report(f"read {len(bags):,} patients and {', '.join(b.name for b in bundles.values())}")

    linked = LinkedScores(
        outcome=bags.outcome[bags.split == "test"],
        models={side: read_scores(bundle.path, side, bags) for side, bundle in bundles.items()},
        best={},
        by_chance=score_by_chance(bags, methods, params.shuffles),
    )
    meta, scores = load_json(LINKED / META), {"linked": linked}
    if meta["cohort"] == "simulated":
        scores = add_simulated(linked, bags, methods)
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), seed)
    measured = {cohort: measure_gain(of, bootstrap) for cohort, of in scores.items()}

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
            source=meta["source"],
            own=describe_own(meta, bags) if meta["cohort"] == "crosswalk" else None,
        )
    report(f"wrote {OUT}. Does fusion gain where there is something to gain? {verdict}")


def add_simulated(
    linked: LinkedScores, bags: PatientBags, methods: ControlMethods
) -> dict[str, LinkedScores]:
    """Add what the model that drew the patients says, and the null."""
    drawn = load_section(LinkedSimulationParams, "simulation.linked")
    without = drawn.model_copy(update={"image_own": 0.0})
    return {
        "linked": replace(linked, best=select_best(bags, draw_cohort(drawn, methods.seed), drawn)),
        "null": score_cohort(bags, draw_cohort(without, methods.seed), without, methods),
    }


def describe_own(meta: Mapping[str, Any], bags: PatientBags) -> dict[str, Any]:
    """Describe the patients of the crosswalk."""
    patients = {split: int((bags.split == split).sum()) for split in SPLITS}
    return {name: meta[name] for name in ("target", "partners")} | {"patients": patients}


if __name__ == "__main__":
    run_stage(main)
