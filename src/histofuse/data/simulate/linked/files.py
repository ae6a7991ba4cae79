"""Linked patients on disk: the patches of their nuclei, their records, and what is achievable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from histofuse.core.artifacts import replacing_folder, write_json
from histofuse.core.ids import SPLITS
from histofuse.core.progress import track
from histofuse.core.seeding import make_rng
from histofuse.core.tables import Contract, parse_columns, write_parts, write_table
from histofuse.core.workers import map_jobs
from histofuse.data.cutting import Shards, cut_windows, index_shards
from histofuse.data.patches import INDEX, META, PATCH_INDEX, Patches, PatchMeta
from histofuse.data.simulate.brecahad.frames import FramePlan, place_dots, render_frame
from histofuse.data.simulate.brecahad.stains import CaseLook, draw_case_look, soften_look
from histofuse.data.simulate.linked.achievable import measure_achievable
from histofuse.data.simulate.linked.cohort import (
    CLASSES,
    MARKERS,
    OWN,
    LinkedCohort,
    draw_cohort,
    tabulate_record,
)
from histofuse.params.simulation import LinkedSimulationParams

PATIENTS: Final = "patients.parquet"
NUCLEI: Final = "nuclei.parquet"
ACHIEVABLE: Final = "achievable.json"
RECORD_COLUMNS: Final = (*MARKERS, *OWN)

LINKED_PATIENTS: Final = Contract(
    name="linked patients",
    columns=parse_columns("patient_id split outcome:int") | dict.fromkeys(RECORD_COLUMNS, "float"),
    key=("patient_id",),
    nullable=frozenset(RECORD_COLUMNS),
)
LINKED_NUCLEI: Final = Contract(
    name="nuclei of linked patients",
    columns=parse_columns("patient_id patch_id"),
    key=("patch_id",),
)
_FRAME_PX: Final = 448
_PLEOMORPHISM: Final = (0.19, 0.045)  # mean and standard deviation, as BreCaHAD's is simulated
_PLEOMORPHISM_RANGE: Final = (0.06, 0.36)
_KEYS: Final = dict(zip(CLASSES, ("mitosis", "tumor", "non_tumor"), strict=True))
_STREAM: Final = "simulate_linked"


@dataclass(frozen=True)
class Cutting:
    """How patches are cut."""

    meta: PatchMeta  # size, classes and stain normalisation
    shard_patches: int  # patches in a shard
    # applied to each frame
    normalise: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None


def simulate_linked(
    params: LinkedSimulationParams, cutting: Cutting, seed: int, folder: Path
) -> dict[str, dict[str, float]]:
    """Write patients, patches and ``achievable.json``, which it returns, in place of `folder`."""
    cohort = draw_cohort(params, seed)
    patients = tabulate_patients(cohort, params, seed)
    with replacing_folder(folder) as temporary:
        jobs = [
            _Job(n, patient, tuple(map(int, counts)), _draw_look(cohort, params, seed, n))
            for n, (patient, counts) in enumerate(
                zip(patients["patient_id"], cohort.tissue.counts, strict=True)
            )
        ]
        nuclei = pd.concat(_write_patches(jobs, cutting, seed, temporary.absolute()))
        parts = list(index_shards(nuclei, cutting.shard_patches))
        write_parts(parts, temporary / INDEX, PATCH_INDEX)
        write_json(vars(cutting.meta), temporary / META)
        of_patients = pd.concat(parts)[["case_id", "patch_id"]]
        of_patients = of_patients.rename(columns={"case_id": "patient_id"})
        write_table(of_patients, temporary / NUCLEI, LINKED_NUCLEI)
        write_table(patients, temporary / PATIENTS, LINKED_PATIENTS)
        test = (patients["split"] == "test").to_numpy()
        achievable = measure_achievable(cohort, test, params, seed)
        write_json(achievable, temporary / ACHIEVABLE)
    return achievable


def tabulate_patients(
    cohort: LinkedCohort, params: LinkedSimulationParams, seed: int
) -> pd.DataFrame:
    """Give the patients their ids and splits: a `LINKED_PATIENTS` table."""
    count = len(cohort.outcome)
    place = make_rng(seed, _STREAM, "splits").permutation(count)
    ends = np.round(count * np.cumsum([params.train, params.validation])).astype(int)
    splits = np.array(SPLITS)[np.searchsorted(ends, place, side="right")]
    ids = [f"linked-{n:05d}" for n in range(1, count + 1)]
    table = pd.DataFrame({"patient_id": ids, "split": splits, "outcome": cohort.outcome})
    return pd.concat((table, tabulate_record(cohort.record)), axis=1)


@dataclass(frozen=True)
class _Job:
    number: int
    patient_id: str
    counts: tuple[int, ...]
    look: CaseLook


def _write_patches(
    jobs: Sequence[_Job], cutting: Cutting, seed: int, folder: Path
) -> Iterator[pd.DataFrame]:
    nuclei = sum(sum(job.counts) for job in jobs)
    shards = Shards(folder, nuclei, cutting.shard_patches, cutting.meta.stored_px)
    shards.create()

    def render(job: _Job) -> tuple[pd.DataFrame, Patches]:
        return _render_nuclei(job, cutting, make_rng(seed, _STREAM, "frame", job.number))

    first = 0
    done = map_jobs(render, jobs, engine="threads")
    for table, patches in track(done, "simulating linked patients", total=len(jobs)):
        shards.write(np.arange(first, first + len(patches)), patches)
        first += len(patches)
        yield table


def _draw_look(
    cohort: LinkedCohort, params: LinkedSimulationParams, seed: int, number: int
) -> CaseLook:
    look = draw_case_look(make_rng(seed, _STREAM, "look", number))
    look = soften_look(look, params.look_variation)
    mean, spread = _PLEOMORPHISM
    drawn = np.clip(mean + spread * cohort.tissue.pleomorphism[number], *_PLEOMORPHISM_RANGE)
    return replace(look, pleomorphism=float(drawn))


def _render_nuclei(job: _Job, cutting: Cutting, rng: Generator) -> tuple[pd.DataFrame, Patches]:
    counts = {**dict(zip(_KEYS.values(), job.counts, strict=True)), "apoptosis": 0}
    plan = FramePlan(job.patient_id, job.number, counts)
    frame, centres = render_frame(plan, job.look, (_FRAME_PX, _FRAME_PX), rng)
    frame = frame if cutting.normalise is None else cutting.normalise(frame)
    labels = np.repeat(CLASSES, job.counts)
    order = rng.permutation(len(labels))
    points = np.concatenate([centres[key] for key in _KEYS.values()])[order]
    x_px, y_px = np.clip(place_dots(points, rng), 0, _FRAME_PX - 1).T
    side = cutting.meta.stored_px
    patches = np.empty((len(order), side, side, 3), np.uint8)
    cut_windows(frame, x_px, y_px, patches)
    ids = {"frame_id": job.patient_id, "case_id": job.patient_id}
    return pd.DataFrame({**ids, "x_px": x_px, "y_px": y_px, "label": labels[order]}), patches
