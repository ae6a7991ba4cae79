"""The comparison in the terminal, over a small project whose models are published."""

import csv
import io
import json

import pytest

from histofuse.commands.runs import describe_runs
from histofuse.core.errors import InputError
from histofuse.tracking.names import CONTENT_TAG
from histofuse.tracking.store import open_store


def names_of(text):
    """The runs in the order of the table."""
    known = {"simple_cnn", "logistic_regression", "mlp", "fusion_label_blind"}
    known.add("fusion_label_aligned")
    words = [set(line.split()) & known for line in text.splitlines()]
    return [found.pop() for found in words if found]


def values(text):
    return {row["run"]: row for row in json.loads(text)}


@pytest.fixture
def scored(published):
    """Final test scores, as `evaluate` would have left them."""
    store = open_store()
    for run in store.find_runs(CONTENT_TAG):
        rank = sum(map(ord, run.info.run_name)) % 97 / 100
        focus = run.data.tags["histofuse.class_in_focus"]
        row = {f"test/auprc/{focus}": rank, f"test/auroc/{focus}": rank, "test/brier": rank}
        store.log_batch(run.info.run_id, rows=[(0, {**row, "test/accuracy": 0.5})])
    return published


def test_patches_and_admissions_have_tables_of_their_own_best_first(scored):
    text = describe_runs()
    patches, admissions = text.split("models on admissions")
    found = values(describe_runs(form="json"))
    on_patches = ["simple_cnn", "fusion_label_blind", "fusion_label_aligned"]
    score = {name: found[name]["metrics"]["test/auprc/mitosis"] for name in on_patches}
    honest = sorted(on_patches[:2], key=score.get, reverse=True)
    assert names_of(patches) == [*honest, "fusion_label_aligned"]
    assert set(names_of(admissions)) == {"mlp", "logistic_regression"}
    head = patches.split("simple_cnn")[0]
    assert head.index("auprc") < head.index("recall") < head.index("accuracy")
    assert "mitosis" in head
    assert max(map(len, text.splitlines())) <= 100


def test_an_interval_is_shown_as_everywhere(scored):
    store = open_store()
    (run,) = [r for r in store.find_runs(CONTENT_TAG) if r.info.run_name == "mlp"]
    ends = {"interval_low/test.brier": 0.111, "interval_high/test.brier": 0.222}
    assert "interval" not in describe_runs(columns=["test/brier"])
    store.log_batch(run.info.run_id, rows=[(0, ends)])

    lines = describe_runs(kind="tabular", columns=["test/brier"]).splitlines()
    assert next(line for line in lines if "mlp" in line).endswith(" [0.111, 0.222]")
    assert any(line.startswith("Intervals are in brackets") for line in lines)


@pytest.mark.parametrize("width", [100, 40])
def test_no_number_is_cut_however_many_columns_there_are(scored, width):
    store = open_store()
    names = [f"test/a_metric_{n}" for n in range(8)]
    row = dict.fromkeys(names, 0.111)
    row |= {f"interval_low/{name.replace('/', '.')}": 0.222 for name in names}
    row |= {f"interval_high/{name.replace('/', '.')}": 0.333 for name in names}
    for run in store.find_runs(CONTENT_TAG):
        store.log_batch(run.info.run_id, rows=[(0, row)])
    text = describe_runs(columns=[*names, "learning_rate"], width=width)
    runs = len(store.find_runs(CONTENT_TAG))
    assert [text.count(number) for number in ("0.111", "0.222", "0.333")] == [runs * 8] * 3
    assert "…" not in text


def test_leaky_runs_rank_last_whatever_they_score(scored):
    store = open_store()
    (leaky,) = [r for r in store.find_runs(CONTENT_TAG) if r.data.tags["histofuse.leaky"] == "true"]
    store.log_batch(leaky.info.run_id, rows=[(0, {"test/auprc/mitosis": 0.999, "test/brier": 0.0})])
    for sort in (None, "test/auprc/mitosis", "test/brier"):
        assert names_of(describe_runs(kind="fusion", sort=sort))[-1] == "fusion_label_aligned"


def test_leaky_production_and_simulated_are_marked(scored):
    assert "in production" not in describe_runs()
    open_store().set_alias("histofuse-fusion", "production", 1)
    lines = describe_runs().splitlines()
    (blind,) = [line for line in lines if "fusion_label_blind" in line]
    (aligned,) = [line for line in lines if "fusion_label_aligned" in line]
    assert blind.startswith("*")
    assert aligned.startswith("!")
    assert any(line.startswith("Simulated data") for line in lines)


def test_runs_are_filtered_and_sorted(scored):
    assert set(names_of(describe_runs(kind="fusion"))) == {
        "fusion_label_blind", "fusion_label_aligned",
    }  # fmt: skip
    found = values(describe_runs(form="json"))
    tabular = ["mlp", "logistic_regression"]
    by_brier = names_of(describe_runs(kind="tabular", sort="test/brier"))
    assert by_brier == sorted(tabular, key=lambda n: found[n]["metrics"]["test/brier"])
    by_score = names_of(describe_runs(kind="tabular", sort="test/auroc/{focus}"))
    assert by_score == sorted(
        tabular, key=lambda n: -found[n]["metrics"]["test/auroc/mortality_1y"]
    )


def test_learning_rates_share_a_name(scored):
    text = describe_runs(columns=["learning_rate", "learning_rate.head", "study"])
    assert "0.001" in text
    params = values(describe_runs(form="json"))["simple_cnn"]["params"]
    assert {"learning_rate.head", "learning_rate.backbone"} <= set(params)


def test_an_unknown_column_is_named(scored):
    with pytest.raises(InputError, match="no run has 'test/auprc/mitosys'"):
        describe_runs(columns=["test/auprc/mitosys"])
    with pytest.raises(InputError, match=r"such as test/auprc/mitosis"):
        describe_runs(columns=["test/auprc/mitosys"])
    with pytest.raises(InputError, match=r"such as .*test/auprc/mitosis"):
        describe_runs(sort="auprc")


def test_json_and_csv_hold_all(scored):
    found = values(describe_runs(form="json"))
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(describe_runs(form="csv")))}
    assert set(found) == set(rows)
    assert len(found["mlp"]["digest"]) == 64
    assert float(rows["mlp"]["test/brier"]) == found["mlp"]["metrics"]["test/brier"]
    assert rows["mlp"]["params.dropout"] == found["mlp"]["params"]["dropout"]
    assert found["fusion_label_blind"]["model"] == "histofuse-fusion"


@pytest.mark.parametrize("form", ["json", "csv"])
def test_json_and_csv_are_sorted_and_hold_the_columns_that_are_named(scored, form):
    def read(**more):
        text = describe_runs(form=form, kind="tabular", **more)
        return json.loads(text) if form == "json" else [*csv.DictReader(io.StringIO(text))]

    by = "test/brier"
    rows = [row["metrics"] if form == "json" else row for row in read(sort=by)]
    scores = [float(row[by]) for row in rows]
    assert scores == sorted(scores)
    assert scores != [float(row[by]) for row in rows[::-1]]
    row = read(columns=[by, "test/auroc/{focus}"])[0]
    row = row["metrics"] if form == "json" else row
    assert {name for name in row if "/" in name and not name.startswith("interval_")} == {
        by, "test/auroc/mortality_1y",
    }  # fmt: skip


def test_only_models_that_are_here(scored):
    (scored.root / "models/mlp/manifest.json").unlink()
    assert "mlp" in names_of(describe_runs())
    assert "mlp" not in names_of(describe_runs(current=True))


def test_an_empty_store_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert describe_runs().startswith("no published runs at sqlite:///")
    assert json.loads(describe_runs(form="json")) == []
