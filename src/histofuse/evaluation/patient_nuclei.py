"""Which nuclei carried the answer for some test patients, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from histofuse.core.artifacts import load_json
from histofuse.core.bundle import Bundle
from histofuse.core.naming import name_model, show_name
from histofuse.core.tables import read_table
from histofuse.data.patches import Patches, ShardReader, crop_margin, load_index
from histofuse.evaluation.drawing import make_row, mark_source, save_drawing
from histofuse.evaluation.predictions import read_predictions
from histofuse.features.encoding import Encoder
from histofuse.models.tabular import ENCODER
from histofuse.patients.bags import NUCLEI, PatientBags
from histofuse.patients.influence import measure_nuclei
from histofuse.patients.rows import make_rows
from histofuse.patients.train import load_patient_model

_NUCLEI: Final = 8
_ENDS: Final = 2  # patients with the highest probabilities, and with the lowest


@dataclass(frozen=True)
class Strip:
    """The nuclei of a patient that move the answer most, the most moving first."""

    probability: float
    outcome: str
    changes: Sequence[float]  # of the log-odds, by each nucleus
    patches: Patches


def draw_nuclei(bundle: Bundle, bags: PatientBags, linked: Path, patches: Path, out: Path) -> None:
    """Draw the test patients with the highest and the lowest probabilities.

    `linked` is the folder of the bags, `patches` that of their nuclei.
    """
    test, model = read_predictions(bundle).of("test"), load_patient_model(bundle)
    rows = make_rows(bags, Encoder.from_dict(load_json(bundle.path / ENCODER)))
    nuclei = read_table(linked / "nuclei.parquet", NUCLEI)
    index = nuclei.merge(load_index(patches), on="patch_id", validate="1:1")
    reader = ShardReader(patches)
    ranked = np.argsort(-test.probabilities[:, 1], kind="stable")
    strips = []
    shown = ranked if len(ranked) < 2 * _ENDS else [*ranked[:_ENDS], *ranked[-_ENDS:]]
    for patient in shown:
        place = int(np.flatnonzero(bags.patient_ids == test.keys[patient])[0])
        changes = measure_nuclei(model, rows.take(np.array([place])))
        top = np.argsort(-np.abs(changes), kind="stable")[:_NUCLEI]
        stored = index.iloc[np.flatnonzero(bags.bag_of == place)[top]]
        pixels = reader.read(stored["shard"], stored["row"])
        strips.append(
            Strip(
                float(test.probabilities[patient, 1]),
                show_name(test.classes[test.labels[patient]]),
                changes[top].tolist(),
                crop_margin(pixels, reader.meta.margin_px),
            )
        )
    mark = mark_source(bundle.config["source"])
    footer = f"{mark}  ·  test patients  ·  {name_model(bundle.name)}  ·  log-odds"
    save_drawing(_draw, (strips,), footer, out)


def _draw(strips: Sequence[Strip]) -> Figure:
    title = "What single nuclei add to the log-odds of the outcome"
    figure, (area,) = make_row(title, (8.2, 0.75 + 1.05 * len(strips)), 1, left=1.6, bottom=0.35)
    area.axis("off")
    height = 1 / len(strips)
    for line, strip in enumerate(strips, 1):
        for column, (change, patch) in enumerate(zip(strip.changes, strip.patches, strict=True)):
            place = column / _NUCLEI, 1 - (line - 0.1) * height
            axes = area.inset_axes((*place, 0.95 / _NUCLEI, 0.72 * height))
            axes.imshow(patch)
            axes.set_title(f"{change:+.2f}", fontsize=8, pad=2)
            axes.set_axis_off()
        text = f"probability {strip.probability:.2f}\n{strip.outcome}"
        area.text(-0.02, 1 - (line - 0.5) * height, text, ha="right", va="center", fontsize=8)
    return figure
