"""Controls as tables and as a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from histofuse.core.artifacts import write_json
from histofuse.core.naming import name_metric
from histofuse.evaluation.controls.measure import Controls, describe_controls
from histofuse.evaluation.controls.verdicts import ControlVerdict
from histofuse.evaluation.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    draw_interval,
    make_row,
    save_drawing,
)
from histofuse.evaluation.metrics.bootstrap import (
    EXPLAIN_BIASED,
    Interval,
    explain_resampling,
    is_biased,
)
from histofuse.evaluation.performance.tables import Cell, Table, write_tables
from histofuse.params.intervals import IntervalParams

_ARMS: Final = {
    "label_blind": ("Fusion, label-blind", "Label-blind, shuffled images", BLUE),
    "permuted": ("Fusion, permuted", "Permuted, shuffled images", GREEN),
    "label_aligned": (
        "Fusion, label-aligned (leaky)",
        "Label-aligned (leaky), shuffled images",
        VERMILION,
    ),
}
TITLES: Final[Mapping[str, str]] = {
    "image": "Image alone",
    "linked": "Fusion, linked",
    "shuffled_labels": "Fusion, shuffled labels",
    "shuffled_targets": "Record, shuffled targets",
    **{arm: title for arm, (title, _, _) in _ARMS.items()},
    **{f"shuffled_images[{arm}]": title for arm, (_, title, _) in _ARMS.items()},
}
_COLOURS: Final = {
    "image": BLACK,
    "linked": ORANGE,
    "shuffled_labels": GREY,
    **{arm: colour for arm, (_, _, colour) in _ARMS.items()},
    **{f"shuffled_images[{arm}]": colour for arm, (_, _, colour) in _ARMS.items()},
}


def write_controls(
    controls: Controls,
    verdicts: Sequence[ControlVerdict],
    intervals: IntervalParams,
    folder: Path,
    *,
    simulated: bool,
) -> None:
    """Write ``controls.json``, the tables and the figure."""
    write_json(describe_controls(controls, verdicts), folder / "controls.json")
    tables = make_control_tables(controls, verdicts, intervals, simulated=simulated)
    write_tables(tables, folder / "tables")
    source = "SIMULATED DATA" if simulated else "real data, paired by rule"
    patches = controls.sizes["patches"]
    footer = f"{source}  ·  test split  ·  {patches}; squares: means over shuffles"
    save_drawing(draw_controls, (controls,), footer, folder / "controls.png")


def make_control_tables(
    controls: Controls,
    verdicts: Sequence[ControlVerdict],
    intervals: IntervalParams,
    *,
    simulated: bool,
) -> list[Table]:
    """Make the tables of arms, of differences, of shuffles and of verdicts."""
    mark = ". Simulated data: no patients, no claim." if simulated else "."
    patches = controls.sizes["patches"]
    headings = {"model": "Arm"} | {m: name_metric(m) for m in controls.metrics}
    over_cases = (
        f"{explain_resampling(intervals, 'cases')} With fewer than {intervals.fewest_groups} cases "
        "an interval covers the true value less often than it claims."
    )
    if any(is_biased(metric) for metric in controls.metrics):
        over_cases += f" {EXPLAIN_BIASED}"
    deciding = (
        f"{name_metric(controls.metrics[0])} decides, and macro AUROC about chance; other metrics "
        "are shown without a verdict, for a gain in one of several is soon found by chance. "
        f"With fewer than {intervals.fewest_groups} cases, or patients, every answer is "
        "inconclusive."
    )
    over_shuffles = (
        f"Means over shuffles; in brackets {intervals.confidence:.0%} percentile intervals over "
        "shuffles and whole cases (of the record: patients). –: another model's classes."
    )
    chance = ", ".join(f"{name_metric(m)} {c:.3f}" for m, c in _find_chance(controls).items())
    differences = {
        f"{TITLES.get(new, new)} less {TITLES.get(old, old).lower()}": of
        for (new, old), of in controls.differences.items()
    }
    shuffled = _list_shuffled(controls)
    chance_note = f"Chance level: {chance}."
    tables = {
        "arms": (f"Pairing arms, test split, {patches}", controls.arms, [over_cases]),
        "differences": (f"Paired differences of arms, {patches}", differences, [over_cases]),
        "shuffled": ("Metrics after shuffling, test split", shuffled, [over_shuffles, chance_note]),
    }
    return [
        *(
            Table(name, caption + mark, headings, _make_rows(of, controls.metrics), notes)
            for name, (caption, of, notes) in tables.items()
        ),
        Table(
            "verdicts",
            f"Verdicts of the controls{mark}",
            {"model": "Question", "answer": "Answer", "sentence": "Why"},
            [{"model": v.question, "answer": v.answer, "sentence": v.sentence} for v in verdicts],
            [deciding],
        ),
    ]


def _make_rows(
    intervals: Mapping[str, Mapping[str, Interval]], metrics: Sequence[str]
) -> list[dict[str, Cell]]:
    return [
        {"model": TITLES.get(name, name), **{m: of.get(m) for m in metrics}}
        for name, of in intervals.items()
    ]


def _list_shuffled(controls: Controls) -> dict[str, dict[str, Interval]]:
    return {name: {m: s.interval for m, s in of.items()} for name, of in controls.shuffled.items()}


def _find_chance(controls: Controls) -> dict[str, float]:
    for name, of in controls.shuffled.items():
        if name != "shuffled_targets":
            return {m: s.chance for m, s in of.items() if s.chance is not None}
    return {}


def draw_controls(controls: Controls) -> Figure:
    """Draw arms and shuffles, a panel a metric, as points with intervals; chance is dashed."""
    listed = {**controls.arms, **_list_shuffled(controls)}
    rows = [(name, of) for name, of in listed.items() if name != "shuffled_targets"]
    chance = _find_chance(controls)
    count = len(controls.metrics)
    size = (3.3 + 2.1 * count, 1.9 + 0.34 * len(rows))
    title = "Controls: pairing arms, and metrics after shuffling labels or images"
    figure, panels = make_row(title, size, count, left=2.75, bottom=0.85)
    figure.subplots_adjust(wspace=0.12)
    for axes, metric in zip(panels, controls.metrics, strict=True):
        for place, (name, intervals) in enumerate(rows):
            if metric in intervals:
                colour = _COLOURS.get(name, PURPLE)
                point = {"marker": "o", "markersize": 5}
                if name.startswith("shuffled"):
                    point |= {"marker": "s", "markerfacecolor": "white"}
                draw_interval(axes, intervals[metric], place, colour, 1.6, **point)
        if metric in chance:
            axes.axvline(chance[metric], color=GREY, linestyle="--", linewidth=1)
        axes.axhline(len(controls.arms) - 0.5, color=GREY, linewidth=0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [])
        axes.set_xlabel(name_metric(metric))
    panels[0].set_yticks(range(len(rows)), [TITLES.get(name, name) for name, _ in rows])
    return figure
