"""The positive control as JSON, tables and a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histofuse.core.artifacts import render, write_json
from histofuse.evaluation.drawing import (
    BLUE,
    FAINT,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    draw_interval,
    make_row,
    mark_source,
    save_drawing,
)
from histofuse.evaluation.metrics.bootstrap import Interval, explain_resampling
from histofuse.evaluation.metrics.sides import Rules, answer_gain, explain_gain
from histofuse.evaluation.performance.tables import Cell, Table, write_tables
from histofuse.params.intervals import IntervalParams

TITLE: Final = "Does fusion gain where there is something to gain?"
OWN_TITLE: Final = "Do tissue and record of one patient tell more than either?"
COHORTS: Final[Mapping[str, str]] = {
    "linked": "Own tissue and own record",
    "null": "Null: the record says all that the tissue does",
}
_ARMS: Final[Mapping[str, tuple[str, str]]] = {
    "image": ("Image alone", BLUE),
    "record": ("Record alone", ORANGE),
    "both": ("Both", VERMILION),
    "by_chance": ("Both, records of other patients", PURPLE),
}
_GAINS: Final[Mapping[str, str]] = {
    "gain": "Gain of both over the better side",
    "share": "Share of the achievable gain",
    "gain_by_chance": "Gain of other patients' records over image alone",
}

_ACHIEVABLE: Final = {"gain": "achievable_gain"}

Measured = Mapping[str, Mapping[str, Interval]]  # of each of `COHORTS`, as of `measure_gain`


def write_positive_control(
    measured: Measured,
    fusion: str,
    intervals: IntervalParams,
    rules: Rules,
    folder: Path,
    *,
    source: str,
    own: Mapping[str, Any] | None = None,
) -> str:
    """Write ``positive_control.json``, the tables and the figure; return the verdict.

    `own` is what is known of patients that are not simulated, such as their number.
    """
    gain, share = measured["linked"]["gain"], measured["linked"]["share"]
    answer = answer_gain(gain, rules)
    reached = "" if own else f", {share} of what is achievable"
    sentence = (
        f"AUROC {gain.show('+')} over the better side{reached}. {explain_gain(answer, gain, rules)}"
    )
    content: dict[str, Any] = render(measured)
    content |= {"own": own} if own else {}
    verdict = {"answer": answer, "sentence": sentence, "fusion": fusion}
    write_json({**content, "verdict": verdict}, folder / "positive_control.json")
    write_tables([_tabulate(measured, fusion, source, intervals)], folder / "tables")
    footer = f"{mark_source(source)}  ·  {gain.groups} test patients  ·  fusion: {fusion}"
    save_drawing(draw_positive_control, (measured,), footer, folder / "positive_control.png")
    return f"{answer.upper()}. {sentence}"


def _tabulate(measured: Measured, fusion: str, source: str, intervals: IntervalParams) -> Table:
    """Tabulate what models reach and what is achievable, a row an arm."""
    rows: list[dict[str, Cell]] = []
    for cohort, of in measured.items():
        arms = {name: (f"model/{arm}", f"best/{arm}") for arm, (name, _) in _ARMS.items()}
        gains = {name: (gain, _ACHIEVABLE.get(gain, "")) for gain, name in _GAINS.items()}
        rows += [
            {"cohort": COHORTS[cohort], "model": name, "auroc": of[value], "best": of.get(best)}
            for name, (value, best) in (arms | gains).items()
            if of[value].value is not None
        ]
    mark = " Simulated: no patients." if "simulated" in source else ""
    headings, note = {"cohort": "Cohort", "model": "Model", "auroc": "AUROC"}, ""
    if _is_drawn(measured):
        headings["best"] = "Achievable"
        note = (
            "Achievable: what the model that drew the patients says of the same patients' nuclei "
            "and recorded values. "
        )
    return Table(
        "positive_control",
        f"Linked patients, test split: what fusion gains ({fusion}).{mark}",
        headings,
        rows,
        [
            explain_resampling(intervals, "patients"),
            f"{note}The better side is found on each resample.",
        ],
    )


def _is_drawn(measured: Measured) -> bool:
    """Tell whether a model drew the patients, so that what is achievable is known."""
    return "best/both" in measured["linked"]


def draw_positive_control(measured: Measured) -> Figure:
    """Draw AUROCs with intervals, a panel a cohort; what is achievable is a hollow diamond."""
    title = TITLE if _is_drawn(measured) else OWN_TITLE
    figure, panels = make_row(title, (8.2, 3.5), len(measured), left=2.3, bottom=0.95)
    figure.subplots_adjust(wspace=0.06, top=0.76)
    for axes, (cohort, of) in zip(panels, measured.items(), strict=True):
        _draw_cohort(axes, of)
        title = f"{COHORTS[cohort]}\nGain {of['gain'].show('+')}"
        axes.set_title(title, loc="left", fontsize=9)
    ends = [x for axes in panels for x in axes.get_xlim()]
    for axes in panels:
        axes.set_xlim(min(ends) - 0.01, max(ends) + 0.02)
        axes.set_ylim(len(_ARMS) - 0.4, -0.6)
        axes.set_xlabel("AUROC of the outcome, test patients")
        axes.set_yticks(range(len(_ARMS)), [])
    panels[0].set_yticks(range(len(_ARMS)), [name for name, _ in _ARMS.values()])
    panels[0].legend(loc="upper left", bbox_to_anchor=(-0.75, -0.2), ncols=3)
    return figure


def _draw_cohort(axes: Axes, of: Mapping[str, Interval]) -> None:
    sides = [of[f"model/{side}"].value or 0.0 for side in ("image", "record")]
    if "best/both" in of:
        highest = max(of["best/both"].value or 0.0, *sides)
        axes.axvspan(max(sides), highest, color=FAINT, alpha=0.5, linewidth=0)
    axes.axvline(max(sides), color=GREY, linewidth=1, linestyle="--", label="better side")
    for place, (arm, (_, colour)) in enumerate(_ARMS.items()):
        draw_interval(axes, of[f"model/{arm}"], place, colour, 2.2, marker="o", markersize=6)
        best = of.get(f"best/{arm}")
        if best is not None and best.value is not None:
            style = {"marker": "D", "markersize": 6, "markerfacecolor": "none", "linestyle": ""}
            label = "achievable" if arm == "both" else None
            axes.plot([best.value], [place - 0.24], color=colour, label=label, **style)
