"""Stage ``train_tabular``: encoded health records -> the bundle of one tabular model."""

from pathlib import Path

from _stage import run_stage
from histofuse.core.progress import report
from histofuse.params.base import load_section, load_seed
from histofuse.params.tabular import TabularParams
from histofuse.params.tune import apply_values
from histofuse.studies.results import BEST_PARAMS, read_best_params
from histofuse.tracking.recorder import open_recorder
from histofuse.training.tabular import describe_training, load_table, train_tabular

ENCODED = Path("data/encoded")
COHORT_METADATA = Path("data/cohort/meta.json")
STUDIES = Path("studies")
MODELS = Path("models")


def main(model: str) -> None:
    params = load_section(TabularParams, f"tabular.{model}").root
    params = apply_values(params, read_best_params(STUDIES / params.study / BEST_PARAMS))
    table = load_table(ENCODED, COHORT_METADATA, params.kind)
    report(
        f"read {len(table.rows):,} rows of {len(table.features)} features,"
        f" {int(table.rows['target'].sum()):,} with {table.target}"
    )

    with open_recorder(run_name=model) as recorder:
        train_tabular(table, params, load_seed(), recorder, MODELS / model)
    report(f"wrote {MODELS / model}: {describe_training(MODELS / model)}")


if __name__ == "__main__":
    run_stage(main)
