"""Checkpoint keys, and when checkpoints are removed."""

import pytest

from histofuse.training.fitting.checkpoints import LAST, make_checkpoint_key, resumable


def test_the_checkpoint_key_hangs_on_all_it_should():
    keys = {
        make_checkpoint_key({"a": 1}, 1, {"x": "1"}, "c"),
        make_checkpoint_key({"a": 2}, 1, {"x": "1"}, "c"),
        make_checkpoint_key({"a": 1}, 2, {"x": "1"}, "c"),
        make_checkpoint_key({"a": 1}, 1, {"x": "2"}, "c"),
        make_checkpoint_key({"a": 1}, 1, {"x": "1"}, "d"),
    }
    assert len(keys) == 5
    assert make_checkpoint_key({"a": 1}, 1, {"x": "1"}, "c") in keys


def test_checkpoints_go_when_the_run_succeeds_and_stay_when_it_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), resumable("m", "old", tmp_path) as folder:
        (folder / LAST).write_text("state")
        raise ZeroDivisionError
    assert (tmp_path / "m" / "old" / LAST).read_text() == "state"
    with resumable("m", "new", tmp_path) as folder:
        assert list(folder.iterdir()) == []
    assert not (tmp_path / "m").exists()
