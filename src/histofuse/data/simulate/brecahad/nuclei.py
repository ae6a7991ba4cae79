"""Simulated cells: what each kind looks like, as blobs of dye."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from histofuse.data.simulate.brecahad.blobs import Blob
from histofuse.data.simulate.brecahad.stains import CaseLook


class Place(NamedTuple):
    """Where a cell lies, in pixels, and the direction of the fibres there."""

    x: float
    y: float
    direction: float


Sampler = Callable[[Generator, CaseLook, Place], list[Blob]]


def sample_tumour(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """A tumour nucleus: large and uneven; vesicular, granular, or now and then condensed."""
    radius = 18.5 * look.nuclear_scale * np.exp(rng.normal(0, look.pleomorphism))
    stretch = np.exp(abs(rng.normal(0, 0.17)))
    body = Blob(
        at.x, at.y, radius * stretch, radius / stretch, rng.uniform(0, np.pi),
        haematoxylin=0.46, eosin=0.16, wobble=0.10 + 0.25 * look.pleomorphism,
        edge_px=rng.uniform(1.8, 4.5), opacity=rng.uniform(0.85, 1.0),
    )  # fmt: skip
    shade = np.exp(rng.normal(0, 0.16))
    kind = rng.random()
    if kind < look.condensed:
        return _condensed_tumour(rng, look, body)
    if kind < look.condensed + (1 - look.condensed) * look.vesicular:
        return [replace(
            body, haematoxylin=0.30 * shade, rim=rng.uniform(0.18, 0.42),
            clumps=rng.uniform(0.2, 0.45), grain=0.14, nucleoli=int(rng.integers(0, 4)),
            edge_px=1.8,
        )]  # fmt: skip
    return [replace(
        body, haematoxylin=0.50 * shade, rim=rng.uniform(0.0, 0.16), clumps=rng.uniform(0.08, 0.26),
        grain=0.12, nucleoli=int(rng.integers(0, 3)),
    )]  # fmt: skip


def _condensed_tumour(rng: Generator, look: CaseLook, body: Blob) -> list[Blob]:
    """A hyperchromatic or pyknotic nucleus: the kind that is taken for a mitosis."""
    shrink = rng.uniform(0.5, 0.95)
    dark = rng.uniform(0.60, 1.05) * look.contrast
    nucleus = replace(
        body, a=body.a * shrink * rng.uniform(1.0, 1.6), b=body.b * shrink,
        haematoxylin=dark, eosin=0.12, wobble=rng.uniform(0.12, 0.3),
        roughness_px=rng.uniform(0.0, 3.2), clumps=0.10, grain=0.06,
    )  # fmt: skip
    return [_halo(nucleus, 1.35, rng.uniform(0.0, 0.5)), nucleus]


def sample_mitosis(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """A dividing cell: condensed, rough-edged chromatin without a membrane in cleared cytoplasm."""
    phase = rng.choice(4, p=[0.28, 0.30, 0.30, 0.12])
    size = look.nuclear_scale * np.exp(rng.normal(0, 0.14))
    dark = look.contrast * np.clip(rng.normal(0.80, 0.18), 0.40, 1.2)
    angle = rng.uniform(0, np.pi)
    plate = Blob(
        at.x, at.y, 20 * size, 6.5 * size * rng.uniform(0.75, 1.25), angle,
        haematoxylin=dark, eosin=0.10, edge_px=rng.uniform(1.8, 4.0),
        wobble=0.20, roughness_px=rng.uniform(0.8, 1.9), clumps=0.10, grain=0.08,
    )  # fmt: skip
    clear = _halo(
        replace(plate, a=27 * size, b=24 * size, roughness_px=0.0), 1.0, rng.uniform(0.15, 0.65)
    )
    make = (_prophase, _prometaphase, lambda *_: [plate], _anaphase)[phase]
    return [clear, *make(rng, plate, size)]


def _prophase(rng: Generator, plate: Blob, size: float) -> list[Blob]:
    """Chromatin drawn into threads over the whole nucleus; the hardest to tell from interphase."""
    return [replace(
        plate, a=19 * size, b=16.5 * size, haematoxylin=0.62 * plate.haematoxylin, eosin=0.16,
        roughness_px=rng.uniform(0.8, 2.2), clumps=rng.uniform(0.42, 0.75), grain=0.22, wobble=0.12,
    )]  # fmt: skip


def _prometaphase(rng: Generator, plate: Blob, size: float) -> list[Blob]:
    """An irregular clump, sometimes a ring seen from the pole."""
    rough = rng.uniform(1.6, 3.4)
    clump = replace(plate, a=15.5 * size, b=13 * size, roughness_px=rough, wobble=0.3, clumps=0.18)
    if rng.random() < 0.3:
        hole = Blob(
            plate.x, plate.y, 5 * size, 4 * size, plate.angle,
            haematoxylin=0.12, eosin=0.2, opacity=0.7, edge_px=4.0, roughness_px=1.5,
        )  # fmt: skip
        return [clump, hole]
    return [clump]


def _anaphase(rng: Generator, plate: Blob, size: float) -> list[Blob]:
    """Two plates moving away from each other."""
    gap = rng.uniform(8, 14) * size
    across = np.array([-np.sin(plate.angle), np.cos(plate.angle)]) * gap
    thin = replace(plate, a=0.85 * plate.a, b=0.72 * plate.b)
    return [
        replace(thin, x=plate.x + s * across[0], y=plate.y + s * across[1], angle=plate.angle + t)
        for s, t in ((-1, rng.normal(0, 0.15)), (1, rng.normal(0, 0.15)))
    ]


def sample_lymphocyte(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """Small, round, dark and clumped, in a thin rim of cytoplasm."""
    radius = rng.uniform(8.5, 12.5) * look.nuclear_scale**0.5
    stretch = np.exp(abs(rng.normal(0, 0.10)))
    nucleus = Blob(
        at.x, at.y, radius * stretch, radius / stretch, rng.uniform(0, np.pi),
        haematoxylin=rng.uniform(0.58, 0.86), eosin=0.12, edge_px=rng.uniform(1.6, 3.2),
        wobble=0.08, clumps=rng.uniform(0.10, 0.25), grain=0.06, rim=rng.uniform(0, 0.12),
    )  # fmt: skip
    return [_halo(nucleus, 1.25, rng.uniform(0.1, 0.5)), nucleus]


def sample_spindle(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """A fibroblast or endothelial nucleus, drawn out along the fibres."""
    length = rng.uniform(15, 27) * look.nuclear_scale
    plump = rng.uniform(0.18, 0.5)
    return [Blob(
        at.x, at.y, length, length * plump, at.direction + rng.normal(0, 0.2),
        haematoxylin=rng.uniform(0.42, 0.72), eosin=0.20, opacity=0.95,
        edge_px=rng.uniform(1.6, 3.5), wobble=0.12, clumps=rng.uniform(0.08, 0.25), grain=0.10,
        rim=rng.uniform(0.0, 0.2),
    )]  # fmt: skip


def sample_non_tumour(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """A lymphocyte or, as often, a spindle cell of the stroma."""
    return (sample_lymphocyte if rng.random() < 0.5 else sample_spindle)(rng, look, at)


def sample_apoptosis(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """A shrunken, eosinophilic cell in a halo, with one to four smooth dark globules."""
    radius = rng.uniform(11, 17) * look.nuclear_scale
    cell = Blob(
        at.x, at.y, radius, radius * rng.uniform(0.8, 1.0), rng.uniform(0, np.pi),
        haematoxylin=0.14, eosin=rng.uniform(0.3, 0.55), edge_px=2.5, wobble=0.15, grain=0.1,
    )  # fmt: skip
    globules = [
        Blob(
            at.x + rng.uniform(-0.45, 0.45) * radius * (n > 0),
            at.y + rng.uniform(-0.45, 0.45) * radius * (n > 0),
            rng.uniform(0.18, 0.45) * radius, rng.uniform(0.18, 0.45) * radius,
            rng.uniform(0, np.pi),
            haematoxylin=rng.uniform(0.75, 1.1) * look.contrast, eosin=0.3, edge_px=1.8,
            wobble=0.06,
        )
        for n in range(rng.integers(1, 5))
    ]  # fmt: skip
    return [_halo(cell, 1.35, rng.uniform(0.5, 0.95)), cell, *globules]


def sample_ghost(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """A nucleus out of focus, as annotators leave it unmarked."""
    (nucleus, *_) = sample_tumour(rng, replace(look, condensed=0.0, vesicular=0.0), at)
    return [replace(
        nucleus, haematoxylin=rng.uniform(0.2, 0.36), opacity=rng.uniform(0.35, 0.7),
        edge_px=rng.uniform(7, 13), nucleoli=0, rim=0.0,
    )]  # fmt: skip


def sample_red_cell(rng: Generator, look: CaseLook, at: Place) -> list[Blob]:
    """An erythrocyte."""
    return [Blob(
        at.x, at.y, rng.uniform(9, 12), rng.uniform(7, 10), rng.uniform(0, np.pi),
        haematoxylin=0.0, eosin=rng.uniform(0.5, 0.75), edge_px=2.5, wobble=0.08, opacity=0.9,
    )]  # fmt: skip


def _halo(body: Blob, reach: float, opacity: float) -> Blob:
    """Cleared cytoplasm or a retraction space around a body."""
    return Blob(
        body.x, body.y, body.a * reach + 3, body.b * reach + 3, body.angle,
        haematoxylin=0.03, eosin=0.06, opacity=opacity, edge_px=7.0, wobble=0.12,
    )  # fmt: skip


# BreCaHAD key -> how such a cell is drawn.
SAMPLERS: Mapping[str, Sampler] = {
    "mitosis": sample_mitosis,
    "apoptosis": sample_apoptosis,
    "tumor": sample_tumour,
    "non_tumor": sample_non_tumour,
}
