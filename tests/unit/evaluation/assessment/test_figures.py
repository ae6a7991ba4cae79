import numpy as np
import pytest

from histofuse.evaluation.assessment.calibration import Bin
from histofuse.evaluation.assessment.decision_curves import DecisionCurve
from histofuse.evaluation.assessment.figures import draw_decision_curve, draw_reliabilities


@pytest.mark.parametrize("deepest", [-0.001, -0.4, -3.0])
def test_no_decision_curve_leaves_the_frame(deepest):
    thresholds = np.linspace(0.01, 0.6, 20)
    model = np.linspace(0.05, deepest, 20)
    everyone = 1 - 1 / (1 - thresholds)
    curve = DecisionCurve(thresholds, model, model - 0.02, model + 0.02, everyone)
    (axes,) = draw_decision_curve(curve, "mitosis", "x").axes
    low, high = axes.get_ylim()
    for line in axes.lines:
        values = np.asarray(line.get_ydata(), dtype=float)
        assert low <= np.nanmin(values) and np.nanmax(values) <= high


def test_each_class_has_a_panel_with_both_sides_of_calibration():
    bins = [Bin(0.2, 0.3, 0.1, 0.5, 10, 5)]
    sides = {side: {"a": bins, "b": bins} for side in ("before", "after")}
    figure = draw_reliabilities(sides, ["a", "b"], 0.95, "x")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert all(len(axes.collections) == 4 for axes in figure.axes)  # points and bars of each side
