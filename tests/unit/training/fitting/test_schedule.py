"""Learning-rate schedules by value."""

import pytest

from histofuse.training.fitting.recipe import make_schedule


def test_schedules_by_value():
    step = make_schedule("step", 10, step_epochs=3, step_factor=0.5)
    assert [step(e) for e in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    cosine = make_schedule("cosine", 4)
    assert [cosine(e) for e in range(5)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    warm = make_schedule("step", 10, step_epochs=2, step_factor=0.1, warmup_epochs=3)
    assert [warm(e) for e in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.1])
