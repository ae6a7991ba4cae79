"""How well nuclei were found and classified, as the field's challenges measure it.

Found nuclei are paired with dots one to one within a radius. A nucleus found where no dot is counts
as false, also where the dots are not exhaustive: precision is then a lower bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int64
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from histofuse.evaluation.metrics.bootstrap import Bootstrap, Interval, Resampled
from histofuse.evaluation.metrics.weighted import Clusters

NUCLEI: Final = "nuclei"
FROC_RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false answers a frame
_PLACE: Final = ["x_px", "y_px"]
_THRESHOLDS: Final = 60
NONE: Final = -1  # in the place of the dot of a nucleus that has none


def match(
    found: Float[np.ndarray, "n 2"], dots: Float[np.ndarray, "m 2"], radius_px: float
) -> Int64[np.ndarray, " n"]:
    """Match found nuclei to dots within a radius: as many as possible, then as close as possible.

    Hungarian method, as in the challenges of the field; pairs beyond the radius are no pairs.
    Returns (n,) number of the dot of each found nucleus, or `NONE`.
    """
    answer = np.full(len(found), NONE, np.int64)
    if not len(found) or not len(dots):
        return answer
    near = KDTree(found).sparse_distance_matrix(KDTree(dots), radius_px, output_type="ndarray")
    # A pair less costs more than all distances together.
    beyond = 1.0 + radius_px * min(len(found), len(dots))
    cost = np.full((len(found), len(dots)), beyond)
    cost[near["i"], near["j"]] = near["v"]
    rows, columns = linear_sum_assignment(cost)
    paired = cost[rows, columns] < beyond
    answer[rows[paired]] = columns[paired]
    return answer


def match_frames(
    found: pd.DataFrame, dots: pd.DataFrame, frames: Sequence[str], radius_px: float
) -> pd.DataFrame:
    """Pair the found nuclei of frames with their dots.

    `found` has ``frame_id``, ``x_px``, ``y_px``, ``score``, and anything else; `dots` ``frame_id``,
    ``x_px``, ``y_px``, ``label``. `frames` count also where nothing was found. Returns the found
    nuclei with ``label``, the class of their dot, None where there is none; and the dots that were
    missed, whose score is NaN.
    """
    parts = []
    for frame in frames:
        mine = found[found["frame_id"] == frame]
        truth = dots[dots["frame_id"] == frame]
        pairs = match(mine[_PLACE].to_numpy(float), truth[_PLACE].to_numpy(float), radius_px)
        labels = np.array([*truth["label"], None], dtype=object)  # unpaired: -1, the last place
        parts.append(mine.assign(label=labels[pairs]))
        missed = truth[~np.isin(np.arange(len(truth)), pairs)]
        parts.append(missed[["frame_id", *_PLACE, "label"]])
    columns = list(dict.fromkeys([*found, "label"]))
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def choose_threshold(matched: pd.DataFrame) -> tuple[float, float]:
    """Choose the score that gives the highest F1 of nuclei.

    `matched` are candidates and missed dots, of `match_frames`: pairing them again at each
    threshold would change few pairs. Returns the score and that F1; 0.5 and 0 where nothing was
    found.
    """
    found = matched["score"].notna()
    scores = matched.loc[found, "score"].to_numpy()
    if not len(scores):
        return 0.5, 0.0
    hit = matched.loc[found, "label"].notna().to_numpy()
    dots = int(matched["label"].notna().sum())
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, _THRESHOLDS, endpoint=False)))
    f1 = [2 * hit[scores >= t].sum() / ((scores >= t).sum() + dots) for t in thresholds]
    best = int(np.argmax(f1))
    return float(thresholds[best]), float(f1[best])


def pair_by_score(
    found: pd.DataFrame, dots: pd.DataFrame, scores: Float[np.ndarray, " n"], radius_px: float
) -> Bool[np.ndarray, " n"]:
    """Pair candidates with dots, the most certain first, each with the closest that is left."""
    hit = np.zeros(len(found), dtype=bool)
    order = np.argsort(-scores, kind="stable")
    frames = found["frame_id"].to_numpy(object)
    for frame, truth in dots.groupby("frame_id", sort=False):
        rows = order[frames[order] == frame]
        tree, taken = KDTree(truth[_PLACE].to_numpy(float)), set()
        k = min(len(truth), 8)
        distances, near = tree.query(found[_PLACE].to_numpy(float)[rows], k=k)
        for row, ds, ns in zip(rows, distances.reshape(-1, k), near.reshape(-1, k), strict=True):
            free = [n for d, n in zip(ds, ns, strict=True) if d <= radius_px and n not in taken]
            if free:
                taken.add(free[0])
                hit[row] = True
    return hit


@dataclass(frozen=True)
class Detections:
    """The answer for some frames, and the truth."""

    frames: pd.DataFrame  # ``frame_id``, ``case_id``; all that were looked at
    candidates: pd.DataFrame  # ``frame_id``, places, ``score``, ``prediction`` and ``p_<class>``
    dots: pd.DataFrame  # ``frame_id``, places, ``label``
    threshold: float  # least score of a nucleus
    radius_px: float  # of pairs

    @cached_property
    def matched(self) -> pd.DataFrame:
        """The nuclei found, paired with the dots."""
        found = self.candidates[self.candidates["score"] >= self.threshold]
        return match_frames(found, self.dots, self.frames["frame_id"].tolist(), self.radius_px)


def measure_detections(
    detections: Detections, classes: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Interval]:
    """Measure how nuclei, and those of each class, were found; intervals are over cases.

    Returns ``f1``, ``precision``, ``recall`` and ``ap`` of ``nuclei`` and of each class (without
    classes in the candidates, of nuclei alone), and the mean sensitivity of ``froc``.
    """
    return _resample(detections, classes, bootstrap).intervals()


def measure_gain(new: Detections, old: Detections, bootstrap: Bootstrap) -> Interval:
    """Measure how much higher the F1 of nuclei is, on the same resamples."""
    gain = _resample(new, [], bootstrap).minus_paired(_resample(old, [], bootstrap))
    return gain.interval(f"f1/{NUCLEI}")


def _resample(detections: Detections, classes: Sequence[str], bootstrap: Bootstrap) -> Resampled:
    cases = sorted(detections.frames["case_id"].unique())
    number = {name: n for n, name in enumerate(cases)}
    of_frame = detections.frames.set_index("frame_id")["case_id"].map(number)
    matched = detections.matched
    answers = [NUCLEI, *(classes if "prediction" in detections.candidates else ())]
    curves = {name: _make_curve(detections, name, of_frame, len(cases)) for name in answers}
    counts = {name: _count(matched, name, of_frame, len(cases)) for name in answers}
    names = [f"{m}/{a}" for a in answers for m in ("f1", "precision", "recall", "ap", "froc")]

    def measure(weights: Int[np.ndarray, "w g"]) -> Float[np.ndarray, "w m"]:
        parts = [[*_rate(weights @ counts[a]), *curves[a].measure(weights)] for a in answers]
        return np.stack([column for part in parts for column in part], axis=1)

    clusters = Clusters(np.arange(len(cases)), len(cases), "cases")
    return bootstrap.resample(measure, names, clusters)


def _count(
    matched: pd.DataFrame, name: str, of_frame: pd.Series, cases: int
) -> Float[np.ndarray, "g 3"]:
    """Count hits, answers and dots of each case."""
    answered, real, hit = _mark(matched, name)
    case = matched["frame_id"].map(of_frame).to_numpy(np.int64)
    return np.stack([np.bincount(case[m], minlength=cases) for m in (hit, answered, real)], 1) * 1.0


def _mark(matched: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    answered, real = matched["score"].notna(), matched["label"].notna()
    if name != NUCLEI:
        answered &= matched["prediction"] == name
        real &= matched["label"] == name
    return answered.to_numpy(), real.to_numpy(), (answered & real).to_numpy()


def _rate(sums: Float[np.ndarray, "w 3"]) -> list[Float[np.ndarray, " w"]]:
    """Compute F1, precision and recall from hits, answers and dots; NaN where not defined."""
    hits, answers, dots = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return [2 * hits / (answers + dots), hits / answers, hits / dots]


@dataclass(frozen=True)
class _Curve:
    """Candidates of one class, the most certain first."""

    case: Int[np.ndarray, " n"]  # number of the case of each
    hit: Bool[np.ndarray, " n"]  # whether it is paired
    dots: Int[np.ndarray, " g"]  # of each case
    frames: Int[np.ndarray, " g"]  # of each case

    def measure(self, weights: Int[np.ndarray, "w g"]) -> list[Float[np.ndarray, " w"]]:
        """Compute average precision, and the mean sensitivity at `FROC_RATES`."""
        drawn = weights[:, self.case].astype(float)
        hits, false = np.cumsum(drawn * self.hit, 1), np.cumsum(drawn * ~self.hit, 1)
        dots, frames = weights @ self.dots, weights @ self.frames
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(hits + false > 0, hits / (hits + false), 0.0)
            ap = (drawn * self.hit * precision).sum(1) / dots
            reached = [
                np.where(false <= rate * frames[:, None], hits, 0).max(1, initial=0)
                for rate in FROC_RATES
            ]
            return [np.where(dots > 0, ap, np.nan), np.mean(reached, axis=0) / dots]

    def list_froc(self) -> list[float | None]:
        """List the sensitivity at each of `FROC_RATES`; None without dots."""
        hits, false = np.cumsum(self.hit), np.cumsum(~self.hit)
        dots, frames = self.dots.sum(), self.frames.sum()
        reached = [hits[false <= rate * frames].max(initial=0) for rate in FROC_RATES]
        return [float(n / dots) if dots else None for n in reached]


def _make_curve(detections: Detections, name: str, of_frame: pd.Series, cases: int) -> _Curve:
    candidates, dots = detections.candidates, detections.dots
    scores = candidates["score"].to_numpy(float)
    if name != NUCLEI:
        scores, dots = scores * candidates[f"p_{name}"].to_numpy(float), dots[dots["label"] == name]
    hit = pair_by_score(candidates, dots, scores, detections.radius_px)
    order = np.argsort(-scores, kind="stable")
    case = candidates["frame_id"].map(of_frame).to_numpy(np.int64)
    of_dots = dots["frame_id"].map(of_frame).to_numpy(np.int64)
    return _Curve(
        case[order],
        hit[order],
        np.bincount(of_dots, minlength=cases),
        np.bincount(of_frame.to_numpy(np.int64), minlength=cases),
    )


def compute_froc(detections: Detections, name: str) -> list[float | None]:
    """Compute the sensitivity at each of `FROC_RATES` false answers a frame."""
    of_frame = pd.Series(0, index=detections.frames["frame_id"])
    return _make_curve(detections, name, of_frame, 1).list_froc()


def count_classes(
    matched: pd.DataFrame, frames: pd.DataFrame, name: str
) -> dict[str, dict[str, list[int]]]:
    """Count dots and answers of a class by case and by frame: ``{unit: {id: [dots, answers]}}``."""
    answered, real, _ = _mark(matched, name)
    marked = frames.merge(
        matched[["frame_id"]].assign(dots=real, answers=answered), on="frame_id", how="left"
    )
    marked[["dots", "answers"]] = marked[["dots", "answers"]].fillna(False).astype(int)
    return {
        unit: {str(k): row for k, row in _sum(marked, f"{unit}_id").items()}
        for unit in ("case", "frame")
    }


def _sum(marked: pd.DataFrame, key: str) -> dict[Any, list[int]]:
    sums = marked.groupby(key)[["dots", "answers"]].sum()
    return {k: row.tolist() for k, row in zip(sums.index, sums.to_numpy(), strict=True)}


def split_hot_spots(
    matched: pd.DataFrame, name: str, reach_px: float
) -> Mapping[str, dict[str, int]]:
    """Count hits, misses and false answers of a class in hot spots and elsewhere.

    A place is in a hot spot if at least two dots of the class lie within reach of it, itself left
    out.
    """
    answered, real, hit = _mark(matched, name)
    hot = np.zeros(len(matched), dtype=bool)
    for rows in map(np.asarray, matched.groupby("frame_id").indices.values()):
        truth = rows[real[rows]]
        if len(truth):
            tree = KDTree(matched[_PLACE].to_numpy(float)[truth])
            near = tree.query_ball_point(matched[_PLACE].to_numpy(float)[rows], reach_px)
            hot[rows] = [len(n) - real[row] >= 2 for n, row in zip(near, rows, strict=True)]
    return {
        region: {
            "found": int((hit & where).sum()),
            "missed": int((real & ~hit & where).sum()),
            "false": int((answered & ~hit & where).sum()),
        }
        for region, where in (("hot_spots", hot), ("elsewhere", ~hot))
    }
