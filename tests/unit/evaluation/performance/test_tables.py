import csv

import pytest

from histofuse.evaluation.performance.tables import (
    make_tables,
    render_csv,
    render_markdown,
    write_tables,
)


@pytest.fixture
def make(models, context, measured):
    def tables(chosen=slice(None), **changes):
        known = context(**changes)
        results, comparison, intervals = measured(models[chosen], known)
        return {t.name: t for t in make_tables(results, comparison, known, intervals)}

    return tables


def read(table):
    return list(csv.DictReader(render_csv(table).splitlines()))


def test_table_1_is_the_papers_with_mitosis_first_and_accuracy_last(make):
    table = make()["table1_image"]
    (row,) = read(table)
    values = {c: v for c, v in row.items() if not c.endswith(("_low", "_high"))}
    assert values == {
        "model": "ResNet-18",
        "mitosis_auprc": "0.2000",
        "mitosis_recall": "0.0000",
        "mitosis_f1": "0.0000",
        "precision": "0.5714",
        "recall": "0.6111",
        "f1": "0.5897",
        "roc_auc": "0.7014",
        "accuracy": "0.7000",
        "leaky": "no",
        "data": "simulated",
    }
    assert list(values) == list(table.headings)


def test_each_number_has_its_interval(make, models, context, measured):
    table = make()["table1_image"]
    accuracy = measured(models, context())[2].of["resnet18"]["accuracy"]
    (row,) = read(table)

    assert row["accuracy_low"] == f"{accuracy.low:.4f}"
    assert row["accuracy_high"] == f"{accuracy.high:.4f}"
    assert accuracy.low < accuracy.high
    assert f"| 0.700 [{accuracy.low:.3f}, {accuracy.high:.3f}] |" in render_markdown(table)


def test_table_2_holds_models_on_records(make):
    assert [row["model"] for row in read(make()["table2_tabular"])] == ["MLP"]


def test_table_3_has_no_mitosis_auc_for_records_and_names_the_leak(make):
    rows = {row["model"]: row for row in read(make()["table3_all"])}
    assert list(rows) == [
        "ResNet-18 (image only)",
        "MLP (health record only)",
        "Fusion (ResNet-18 + MLP), aligned",
        "Fusion (ResNet-18 + MLP), label-blind",
    ]
    assert rows["MLP (health record only)"]["mitosis_auc"] == "NA"
    aligned = rows["Fusion (ResNet-18 + MLP), aligned"]
    assert aligned["leaky"] == "pairing follows the label"
    assert aligned["mitosis_auc"] == "1.0000"


def test_minority_table_begins_with_mitosis_and_ends_with_accuracy(make):
    table = make()["mitosis"]
    columns = [c for c in table.headings if c not in ("model", "leaky", "data")]
    assert columns[:3] == ["mitosis_auprc", "mitosis_recall", "mitosis_f1"]
    assert columns[-4:] == ["mitosis_ece", "macro_ece", "brier", "accuracy"]
    assert "basic bootstrap intervals" in render_markdown(table)
    assert "basic" not in render_markdown(make()["table1_image"])  # no ECE there


def test_chance_level_and_enrichment_are_stated_next_to_every_auprc(make):
    tables = make()
    share = "an AUPRC of 0.200, the share of mitosis (2 of 10 patches, enriched in the simulation)"
    for name in ("mitosis", "table1_image", "table3_all", "fusion_vs_image"):
        assert any(share in note for note in tables[name].notes), name
    assert any(
        "an AUPRC of 0.250, the share of death (2 of 8 admissions)" in note
        for note in tables["table2_tabular"].notes
    )


def test_fusion_table_holds_differences(make):
    rows = {r["model"]: r for r in read(make()["fusion_vs_image"])}
    assert rows["Fusion (ResNet-18 + MLP), label-blind"]["accuracy"] == "0.1000"
    assert rows["Fusion (ResNet-18 + MLP), aligned"]["accuracy"] == "0.3000"


def test_notes_say_what_the_rows_are(make):
    text = render_markdown(make()["table3_all"])
    assert text.startswith("**Table 3. All models, test split. Simulated data: no patients")
    assert "Test: n = 10 patches of 2 cases (mitosis 2, tumour 6, non-tumour 2)" in text
    assert "Test: n = 8 admissions of 8 patients (no death 6, death 2)" in text
    assert "Leaky rows show" in text
    assert "different people" in text


def test_numbers_too_good_ring_the_alarm_unless_declared(make):
    assert "alarm" not in render_markdown(make()["table3_all"])
    honest = make(rules={"label_blind": "label_blind", "aligned": "linked"})
    text = render_markdown(honest["table3_all"])
    assert "alarm, not a success: Fusion (ResNet-18 + MLP), aligned." in text


def test_real_data_are_never_called_simulated(make):
    tables = make(image_source="brecahad", patient_source="mimic-iv-demo").values()
    assert not any("simulated" in render_markdown(t).lower() for t in tables)


def test_undefined_is_empty_in_csv_and_explained_in_markdown(make, models):
    keep = models[0].labels != 0
    for name in ("split", "labels", "probabilities", "predictions", "groups"):
        object.__setattr__(models[0], name, getattr(models[0], name)[keep])
    table = make(slice(0, 1))["table1_image"]
    assert read(table)[0]["f1"] == ""
    text = render_markdown(table)
    assert "| – |" in text
    assert "- –: not defined" in text


def test_tables_without_rows_are_left_out_and_files_come_in_pairs(make, tmp_path):
    tables = make(slice(1, 2))
    assert set(tables) == {"table2_tabular", "table3_all"}
    write_tables(list(tables.values()), tmp_path / "tables")
    names = sorted(f.name for f in (tmp_path / "tables").iterdir())
    assert names == ["table2_tabular.csv", "table2_tabular.md", "table3_all.csv", "table3_all.md"]
    lines = (tmp_path / "tables" / "table2_tabular.md").read_text().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
