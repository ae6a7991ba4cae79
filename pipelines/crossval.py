"""Stage ``crossval``: the whole chain once a fold, by case -> pooled and per-fold results.

Called with the number of a fold it runs that fold alone, as a process of the stage.
"""

import shutil
import sys
from pathlib import Path

from _stage import run_stage
from histofuse.core.artifacts import load_json, replacing_folder, write_json
from histofuse.core.naming import show_count
from histofuse.core.progress import report
from histofuse.evaluation.crossval.evaluate import cross_validate
from histofuse.evaluation.crossval.folds import load_folds
from histofuse.evaluation.crossval.patients import compare_patients
from histofuse.evaluation.crossval.report import describe_run, make_crossval_tables
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.evaluation.performance.results import Context
from histofuse.evaluation.performance.tables import write_tables
from histofuse.params.base import load_section, load_seed, load_value
from histofuse.params.crossval import CrossvalParams
from histofuse.params.data import DataParams
from histofuse.params.ehr import EncodingParams
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.image import AllImageParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.pairing import PairingsParams
from histofuse.params.patients import AllPatientParams
from histofuse.params.promotion import PromotionParams
from histofuse.params.tabular import AllTabularParams
from histofuse.patients.crossval import complete_with_patients, is_complete
from histofuse.training.protocols.crossval import (
    Chain,
    Sources,
    find_fold,
    list_folds,
    name_run,
    select_models,
)
from histofuse.training.protocols.processes import count_workers, end_with_parent, run_processes

PATCHES = Path("data/patches")
FRAMES_TABLE = Path("data/annotations/frames.parquet")
COHORT = Path("data/cohort")
FEATURES = Path("data/ehr")
LINKED = Path("data/linked")
WORK = Path(".histofuse/crossval")
OUT = Path("evidence/crossval")


def main(fold: str | None = None) -> None:
    chain, sources = load_chain(), find_sources()
    run = WORK / name_run(chain, sources, complete_with_patients.__module__)
    if fold is not None:
        end_with_parent()
        complete_with_patients(chain, sources, int(fold), run)
        return
    folds = list_folds(chain, sources)
    count = len(chain.names) + len(chain.patients)
    report(f"read {show_count(count, 'models')} to train in each of {len(folds)} folds by case")

    run_folds(chain, folds, run)
    write_results(chain, sources, [find_fold(run, k) for k in folds])

    for other in set(WORK.iterdir()) - {run}:
        shutil.rmtree(other)


def load_chain() -> Chain:
    """Load every section the chain depends on."""
    return select_models(
        Chain(
            load_section(CrossvalParams, "crossval"),
            load_section(AllImageParams, "image").root,
            load_section(AllTabularParams, "tabular").root,
            load_section(PairingsParams, "pairing").root,
            load_section(AllPatientParams, "patients").root,
            load_section(EncodingParams, "encoding"),
            load_section(EncodersParams, "encoders"),
            load_section(FusionParams, "fusion"),
            load_seed(),
        )
    )


def find_sources() -> Sources:
    """Name what a fold reads."""
    crosswalk = Path(load_value(DataParams, "data.crosswalk"))
    return Sources(PATCHES, FRAMES_TABLE, COHORT, FEATURES, crosswalk, LINKED)


def run_folds(chain: Chain, folds: range, run: Path) -> None:
    """Run the folds that are not there yet, and say how each went."""
    params = chain.crossval
    workers = count_workers(params.workers, params.threads)
    there = [k for k in folds if is_complete(chain, k, run)]
    for k in there:
        report(f"fold {k + 1} of {len(folds)} is there")
    commands = {f"fold_{k}": [sys.executable, __file__, str(k)] for k in folds if k not in there}

    def tell(name: str, seconds: float) -> None:
        report(f"fold {int(name[5:]) + 1} of {len(folds)} in {seconds:.0f} s")

    run_processes(commands, run, workers=workers, threads=params.threads, done=tell)


def write_results(chain: Chain, sources: Sources, folds: list[Path]) -> None:
    """Write ``crossval.json`` and tables."""
    cohort = load_json(sources.cohort / "meta.json")
    context = Context(
        image_source=load_json(sources.patches / "meta.json")["source"],
        patient_source=cohort["source"],
        patch_audit={"leaky": False},
        rules={name: pairing.rule for name, pairing in chain.pairings.items()},
        split="test",
        primary=chain.crossval.rules[0],
        alarm_at=load_section(PromotionParams, "promotion").alarm_at,
    )
    bootstrap = Bootstrap(load_section(IntervalParams, "intervals"), chain.seed)
    found = cross_validate(load_folds(folds, chain.names, sources), context, bootstrap)
    tables = make_crossval_tables(found)
    patients = compare_patients(folds, bootstrap) if chain.patients else None
    if patients:
        tables.append(patients.table)
    with replacing_folder(OUT) as folder:
        said = describe_run(found, chain.crossval)
        if patients:
            said["at_patient_level"] = patients.summary
        write_json(said, folder / "crossval.json")
        write_tables(tables, folder / "tables")
    report(f"wrote {OUT}: {show_count(found.results, 'models')} over {len(folds)} folds")


if __name__ == "__main__":
    run_stage(main)
