"""Stage ``evaluate_patients``: predictions of all methods at patient level -> table and metrics."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.bundle import list_bundles, open_bundle
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.patients import (
    VIEWS,
    compare_methods,
    make_methods_table,
    rank_by_size,
    summarise_patients,
)
from histofuse.evaluation.performance.tables import write_tables
from histofuse.evaluation.predictions import read_view
from histofuse.params.base import load_section, load_seed
from histofuse.params.evaluation import EvaluationParams
from histofuse.params.intervals import IntervalParams

MODELS = Path("models/patients")
OUT = Path("reports/patients")


def main() -> None:
    split = load_section(EvaluationParams, "evaluation").split
    bundles = sorted(map(open_bundle, list_bundles(MODELS)), key=rank_by_size)
    models = {b.name: {view: read_view(b, view) for view in VIEWS} for b in bundles}
    report(f"read predictions of {show_count(bundles, 'models')}")

    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), load_seed())
    comparison = compare_methods(models, split, bootstrap)
    with replacing_folder(OUT) as folder:
        write_tables([make_methods_table(comparison, bootstrap, split)], folder)
        write_json(
            summarise_patients(bundles, comparison, split, bootstrap), folder / "metrics.json"
        )
    report(f"wrote {OUT}: default {comparison.default}")


if __name__ == "__main__":
    run_stage(main)
