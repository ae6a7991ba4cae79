"""A study's folder: what is written is read back, byte for byte the same for the same trials."""

import json

import pytest

from histofuse.core.errors import HistofuseError, InputError
from histofuse.studies.results import (
    format_trials,
    parse_trials,
    read_best_params,
    read_study,
    write_study,
)
from histofuse.studies.trials import StudySpec, TrialRecord, find_best

SPEC = StudySpec(
    name="fusion",
    study_id="ab" * 32,
    metric="macro_f1",
    measured_on="validation",
    direction="maximize",
    space={"hidden": {"type": "choice", "of": [[256, 128], [128]]}},
    base={"hidden": [128], "dropout": 0.3},
    settings={"trials": 4, "sampler": "tpe"},
    seed=1,
    inputs={"pairs": "cd" * 32},
    source="simulated",
)
TRIALS = [
    TrialRecord(
        0, "COMPLETE", 1 / 3, {"hidden": [128]}, {"cv/f1": 0.1}, {"cv/auroc": [0.1, 1 / 3]}
    ),
    TrialRecord(1, "PRUNED", None, {"hidden": [256, 128]}, {}, {"search/macro_f1": [0.2]}),
    TrialRecord(2, "FAIL", None, {"hidden": [256, 128]}, reason='ValueError: "a", b\nc'),
    TrialRecord(3, "COMPLETE", 1 / 3, {"hidden": [256, 128]}, {"cv/f1": 0.2}),
]


def draw(spec, trials, folder):
    (folder / "history.png").write_bytes(b"png")


def test_a_study_is_read_back_as_it_was_written(tmp_path):
    write_study(SPEC, TRIALS, tmp_path / "study", draw)
    assert read_study(tmp_path / "study") == (SPEC, TRIALS)
    assert read_best_params(tmp_path / "study" / "best_params.json") == {"hidden": [128]}
    assert (tmp_path / "study" / "figures" / "history.png").is_file()
    assert json.loads((tmp_path / "study" / "study.json").read_text())["best"]["number"] == 0


def test_the_first_of_equals_is_the_best():
    assert find_best(SPEC, TRIALS).number == 0
    assert find_best(SPEC, TRIALS[1:]).number == 3
    assert find_best(SPEC, TRIALS[1:3]) is None


def test_smallest_value_is_best_when_minimising():
    less = StudySpec(**{**vars(SPEC), "direction": "minimize"})
    trials = [TrialRecord(n, "COMPLETE", v, {}) for n, v in enumerate((0.3, 0.1, 0.2))]
    assert find_best(less, trials).number == 1
    assert find_best(SPEC, trials).number == 0


def test_without_a_complete_trial_nothing_is_written(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "kept").touch()
    with pytest.raises(HistofuseError, match='none of 2 trials completed: ValueError: "a"'):
        write_study(SPEC, TRIALS[1:3], tmp_path / "study", draw)
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["kept"]


@pytest.mark.parametrize("file", ["study.json", "trials.csv"])
def test_a_broken_folder_is_named(tmp_path, file):
    write_study(SPEC, TRIALS, tmp_path / "study", draw)
    (tmp_path / "study" / file).unlink()
    with pytest.raises(InputError, match="study"):
        read_study(tmp_path / "study")


@pytest.mark.parametrize(
    ("file", "found", "broken", "said"),
    [
        ("study.json", '"seed": 1', '"speed": 1', "seed|speed"),
        ("trials.csv", "0,COMPLETE", "first,COMPLETE", "first"),
        ("trials.csv", "PRUNED", "DONE", "DONE"),
        ("trials.csv", "number,", "trial,", "number"),
        ("trials.csv", "0.3333333333333333", "a third", "a third"),
        ("trials.csv", "[128]", "[128", "JSON"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, file, found, broken, said):
    folder = tmp_path / "study"
    write_study(SPEC, TRIALS, folder, draw)
    text = (folder / file).read_text()
    assert found in text
    (folder / file).write_text(text.replace(found, broken))
    with pytest.raises(InputError, match=said) as caught:
        read_study(folder)
    assert "Run the study again" in str(caught.value)


def test_the_same_trials_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_study(SPEC, TRIALS, tmp_path / name, draw)
        write_study(*read_study(tmp_path / name), tmp_path / name, draw)
    first = {f.name: f.read_bytes() for f in (tmp_path / "a").rglob("*") if f.is_file()}
    assert set(first) == {"best_params.json", "study.json", "trials.csv", "history.png"}
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "b").rglob("*") if f.is_file()}


def test_a_study_replaces_its_folder_completely_or_not_at_all(tmp_path):
    folder = tmp_path / "study"
    write_study(SPEC, TRIALS, folder, draw)
    (folder / "stray").touch()
    before = {f.name for f in folder.iterdir()}

    def fail(spec, trials, figures):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_study(SPEC, TRIALS, folder, fail)
    assert {f.name for f in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["study"]
    write_study(SPEC, TRIALS[:1], folder, draw)
    assert not (folder / "stray").exists()
    assert read_study(folder)[1] == TRIALS[:1]


def test_an_unknown_state_is_refused():
    with pytest.raises(ValueError, match="state 'DONE'"):
        parse_trials(format_trials(TRIALS).replace("PRUNED", "DONE"))


def test_best_params_are_a_mapping(tmp_path):
    (tmp_path / "best_params.json").write_text("[1]")
    with pytest.raises(InputError, match=r"holds \[1\]"):
        read_best_params(tmp_path / "best_params.json")
