import re
import subprocess
import sys
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from histofuse.core.artifacts import write_json, write_text
from histofuse.core.errors import InputError
from histofuse.explain.estimates import write_scores
from histofuse.reporting.blocks import Bullets, Forest, Grid, Mark, Prose
from histofuse.reporting.chapters.evidence import write_explanations_chapter
from histofuse.reporting.chapters.first_page import write_first_page
from histofuse.reporting.chapters.paper import write_paper_chapter
from histofuse.reporting.inputs import ARTIFACTS, find_run
from histofuse.reporting.origin import Origin
from histofuse.reporting.page import SIMULATED_DATA, render_page
from histofuse.reporting.report import write_chapters, write_documents, write_report
from histofuse.reporting.small_cells import HIDDEN, hide_small_counts

ORIGIN = Origin("c0ffee" * 6, dirty=False, lock_digest="d" * 64, packages={"numpy": "2"})
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, ids, links, text; complains of tags that are not closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def render(root):
    run = find_run(root)
    html = render_page(
        write_chapters(run, ORIGIN), caution=SIMULATED_DATA if run.simulated else None, footer="end"
    )
    return html, Page(html)


def test_every_figure_has_alternative_text_and_is_embedded(project):
    _, page = render(project)
    images = page.all("img")
    assert len(images) > 6
    assert all(len(image["alt"]) > 10 for image in images)
    assert all(image["src"].startswith("data:image/") for image in images)


def test_nothing_is_loaded_from_elsewhere(project):
    html, page = render(project)
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "srcset") if key in a]
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert not page.all("link") + page.all("script") + page.all("iframe")
    assert "url(" not in html
    assert "@import" not in html


def test_every_link_leads_somewhere(project, table):
    write_json(make_alarms([]), project / ARTIFACTS["alarms"].path)
    for name in ("assessment", "crossval", "controls"):
        write_json({"verdicts": []}, project / ARTIFACTS[name].path)
    for name in ("calibration", "operating_points", "conformal", "subgroups"):
        write_text(table, project / f"reports/assessment/tables/{name}.md")
    write_json(
        {"models": {}, "minus_image_model": {}, "between_models": {}},
        project / ARTIFACTS["crossval"].path,
    )
    _, page = render(project)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{name}" for name in ids}


def test_simulated_data_are_marked_on_every_section_and_figure(make_project, tmp_path):
    html, page = render(make_project(tmp_path / "a"))
    assert "Simulated data." in page.text
    for tag in ("h2", "figcaption"):
        marked = re.findall(rf"<{tag}[^>]*>[^<]*<span class=\"simulated\">", html)
        assert len(marked) == len(page.all("figure" if tag == "figcaption" else "section")) > 6

    html, _ = render(make_project(tmp_path / "b", "brecahad", "mimic-iv-demo"))
    assert 'class="simulated"' not in html
    assert 'class="banner"' not in html


@pytest.mark.parametrize(
    ("source", "shown"),
    [("simulated", True), ("mimic-iv-demo", True), ("restricted", False), ("new", False)],
)
def test_single_patients_are_shown_of_open_sources_alone(make_project, tmp_path, source, shown):
    _, page = render(make_project(tmp_path, "brecahad", source))
    alts = " ".join(image["alt"] for image in page.all("img"))
    assert ("waterfall" in alts) is shown
    assert ("Case card" in alts) is shown
    assert "Mean absolute SHAP" in alts


@pytest.mark.parametrize(("source", "shown"), [("brecahad", True), ("restricted", False)])
def test_tissue_is_shown_of_open_images_alone(make_project, tmp_path, source, shown):
    _, page = render(make_project(tmp_path, source, "simulated"))
    alts = " ".join(image["alt"] for image in page.all("img"))
    for tissue in ("example patches", "Examples of class mitosis", "Contact sheet", "Case card"):
        assert (tissue in alts) is shown
    assert "ROC" in alts


def test_few_patients_are_hidden_where_data_are_restricted(make_project, tmp_path):
    _, page = render(make_project(tmp_path, "brecahad", "restricted"))
    assert "Sex: M" not in page.text
    assert "Sex: F< 10" in page.text.replace("\n", "")
    # The step that removes 3 of 100 is one with the next: 97 would give it away.
    assert "97" not in page.text.partition("Attrition")[2].partition("Target:")[0]
    assert "adults; with the diagnosis" in page.text


def plant(root, name, column):
    """Replace a column of a table."""
    path = root / name
    table = pq.read_table(path)
    at = table.column_names.index(column[0])
    pq.write_table(table.set_column(at, column[0], [column[1]]), path)


@pytest.mark.parametrize(("source", "shown"), [("mimic-iv-demo", True), ("restricted", False)])
def test_a_value_or_a_lack_of_one_patient_is_shown_of_open_sources_alone(
    make_project, change, tmp_path, source, shown
):
    root = make_project(tmp_path, "brecahad", source)
    plant(root, "data/cohort/cohort.parquet", ("insurance", ["zebracare"] + ["Other"] * 59))
    plant(root, "data/ehr/features.parquet", ("albumin", [None, *[1.0] * 59]))
    change(root, "data/cohort/meta.json", positives=4)
    _, page = render(root)
    text = page.text.replace("\n", "")
    sheet = write_documents(root)["data_sheet_patients.md"]
    assert ("zebracare" in text) is shown
    assert ("laboratory1.7 %" in text) is shown
    assert ("4 of 60 index admissions" in text) is shown
    assert ("4 with the target" in sheet.replace("< 10", "few")) is shown
    assert ("3 implausible" in sheet) is shown


def test_what_is_hidden_cannot_be_calculated_from_the_rest():
    assert hide_small_counts([40, 12, 3], 55, shown=True) == ["40 (73 %)", "12 (22 %)", "3 (5 %)"]
    assert hide_small_counts([40, 12, 3], 55, shown=False) == ["40 (73 %)", HIDDEN, HIDDEN]
    assert hide_small_counts([40, 12, 3], 75, shown=False) == ["40 (53 %)", "12 (16 %)", HIDDEN]
    assert hide_small_counts([40, 6, 5, 0], 51, shown=False) == [
        "40 (78 %)",
        HIDDEN,
        HIDDEN,
        "0 (0 %)",
    ]
    assert hide_small_counts([40, 20], 60, shown=False) == ["40 (67 %)", "20 (33 %)"]


def test_hostile_text_stays_text(project, change, table):
    hostile = '<script>alert("x")</script>'
    change(project, "data/cohort/meta.json", description=hostile)
    text = table.replace("ResNet-18", f'"><img src=x onerror=y>{hostile}')
    write_text(text, project / "reports/tables/table1_image.md")
    html, page = render(project)
    assert not page.all("script")
    assert all("onerror" not in image for image in page.all("img"))
    assert "&lt;script&gt;" in html


def test_first_page_stands_open_and_all_other_chapters_are_folded(project):
    html, _ = render(project)
    first, *others = html.split("<section")[1:]
    assert "<details" not in first
    assert all('<details class="chapter">' in chapter for chapter in others)
    assert all(
        name in first for name in ('class="forest"', "Examples of class", "not be concluded")
    )
    assert len(others) == len(write_chapters(find_run(project), ORIGIN)) - 1


def test_cells_name_their_column_and_intervals_stand_on_a_line_of_their_own(project, table):
    write_text(table, project / "reports/tables/table3_all.md")
    html, _ = render(project)
    assert '0.400 <span class="interval">[0.300, 0.500]</span>' in html
    assert 'data-label="Mitosis AUPRC" class="number"' in html


def list_sentences(project):
    blocks = write_first_page(find_run(project)).blocks
    return list(next(b for b in blocks if isinstance(b, Bullets)).items)


def test_verdict_is_three_sentences_that_follow_from_intervals(project, change):
    image, record, gain = list_sentences(project)
    assert image.startswith("ResNet-18 tells mitosis from other nuclei better than chance")
    assert "AUPRC 0.400 [0.300, 0.450]; chance has 0.1)" in image
    assert record.startswith("MLP predicts death within a year better than chance")
    assert gain.startswith("The health record brings no gain that counts")

    params = project / "params.yaml"
    write_text(params.read_text().replace("fewest_groups: 10", "fewest_groups: 13"), params)
    assert all("not shown" in s and "decides nothing" in s for s in list_sentences(project))


def test_verdict_on_the_gain_is_that_of_the_controls(project):
    verdict = {"question": "Gain?", "answer": "yes", "sentence": "auprc/mitosis +0.2 over both."}
    write_json({"verdicts": [verdict]}, project / ARTIFACTS["controls"].path)
    gain = list_sentences(project)[-1]
    assert gain.startswith("With the health record, a model tells mitosis from other nuclei better")
    assert gain.endswith("mitosis AUPRC +0.2 over both.")


def test_forest_plot_holds_every_honest_model_with_its_interval_and_chance(project):
    blocks = write_first_page(find_run(project)).blocks
    tissue, record, gain = next(b for b in blocks if isinstance(b, Forest)).panels
    assert [line.name for line in tissue.lines] == ["ResNet-18", "Fusion, label-blind"]
    assert [line.name for line in record.lines] == ["MLP", "XGBoost"]
    assert [panel.reference for panel in (tissue, record, gain)] == [0.1, 0.5, 0.0]
    assert [tissue.place(v) for v in (-1.0, 0.25, 2.0)] == ["0.0%", "25.0%", "100.0%"]
    assert gain.lines[0].text == "+0.010 [-0.020, +0.030]"
    assert gain.place(0.0) == "50.0%"


def make_alarms(raised):
    passed = {"name": "scaler", "model": "mlp", "outcome": "passed", "detail": "as it must be"}
    return {
        "checks": [passed, *raised],
        "alarms": [a for a in raised if a["outcome"] == "alarm"],
        "summary": {"checks": 1 + len(raised), "passed": 1, "not_made": 0, "alarms": len(raised)},
    }


def test_alarms_come_first_with_their_remedies(project):
    alarm = {
        "name": "shared[patients]",
        "model": None,
        "outcome": "alarm",
        "severity": "leak",
        "detail": "3 patients in two splits",
    }
    write_json(make_alarms([alarm]), project / "reports/alarms.json")
    _, page = render(project)
    top = page.text.partition("What must not be concluded")[0]
    assert "1 alarm: no promotion" in top
    assert "3 patients in two splits. Fix the data or the split" in top
    assert "No alarm" not in top
    assert "No other alarm" not in top


def test_without_alarms_the_passed_checks_are_listed_and_missing_checks_reported(project):
    _, page = render(project)
    assert "The alarms were not checked" in page.text
    assert "No alarm" not in page.text

    write_json(make_alarms([]), project / "reports/alarms.json")
    _, page = render(project)
    assert "No alarm: 1 of 1 checks passed." in page.text


def test_optional_parts_are_marked_as_not_run(project):
    _, page = render(project)
    assert "Cross-validation by case: not run" in page.text
    assert "make evidence" in page.text


def test_everything_missing_is_listed_at_once(project):
    (project / "reports/metrics.json").unlink()
    (project / "data/cohort/attrition.csv").unlink()
    with pytest.raises(InputError) as raised:
        write_report(project)
    assert "2 faults" in str(raised.value)
    assert "reports/metrics.json" in str(raised.value)
    assert "Run dvc repro cohort" in str(raised.value)


def test_documents_are_reproducible_and_independent_of_git(project):
    documents = write_documents(project)
    assert set(documents) == {"data_sheet_images.md", "data_sheet_patients.md", "tripod_ai.md"}
    (project / "dvc.lock").write_text("another run\n")
    assert write_documents(project) == documents
    assert (
        "60 patients, 60 index admissions, 15 with the target"
        in documents["data_sheet_patients.md"]
    )
    assert "solid_tumour (repeats metastatic_cancer)" in documents["data_sheet_patients.md"]


def test_report_is_written_without_heavy_libraries(project):
    code = (
        "import sys\nfrom histofuse.reporting.report import write_report\nwrite_report()\n"
        "print([m for m in ('torch', 'mlflow', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert (project / "reports/index.html").stat().st_size < 1_000_000


def test_provenance_lists_seconds_by_stage_longest_first(project):
    write_json({"start_up": 1.0, "work": 2.0}, project / ".histofuse/seconds/patches.json")
    write_json({"start_up": 1.5, "work": 40.0}, project / ".histofuse/seconds/embed.json")
    _, page = render(project)
    stages = page.text[page.text.index("Seconds by stage") :]
    assert re.findall(r"(embed|patches)\s*(\d+\.\d)\s*(\d+\.\d)", stages)[:2] == [
        ("embed", "41.5", "1.5"),
        ("patches", "3.0", "1.0"),
    ]


def test_claims_are_not_judged_by_simulated_data_and_the_protocol_is_not_run(project):
    claims = next(b for b in write_paper_chapter(find_run(project)).blocks if isinstance(b, Grid))
    assert {row[3] for row in claims.rows} == {"not run"}
    assert {row[5].text for row in claims.rows} == {"not measured here"}

    write_json({"models": {}}, project / ARTIFACTS["protocol"].path)
    claims = next(b for b in write_paper_chapter(find_run(project)).blocks if isinstance(b, Grid))
    assert {row[3] for row in claims.rows} == {"–"}


def test_share_of_empty_maps_leads_the_tests_of_maps(project):
    entry = {"value": 0.6, "low": 0.5, "high": 0.7, "note": "", "concern": "", "meaning": "share"}
    tests = {
        name: entry | {"better": "lower", "limit": 0.5, "outcome": outcome}
        for name, outcome in {"cam_mass_inside": "good", "empty_share": "inconclusive"}.items()
    }
    path = project / "reports/explain/gradcam/resnet18/faithfulness.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scores(tests, "ab" * 32, path)
    blocks = write_explanations_chapter(find_run(project)).blocks
    table = next(b for b in blocks if isinstance(b, Grid))
    assert [row[0] for row in table.rows] == ["Empty share", "Cam mass inside"]
    assert {row[2] for row in table.rows} == {"below 0.5"}
    assert [row[3].text for row in table.rows] == ["inconclusive", "good"]


def write_summary(project, **changes):
    scores = {"empty_share": 0.002, "head_randomisation_rank_correlation": 0.05}
    gains = {"deletion_gain_over_random": 0.12, "insertion_gain_over_centre": -0.013}
    choice = {
        "method": {"name": "scorecam", "blur_px": 12.0, "masks": 24},
        "patches": 48,
        "most_empty": 0.01,
        "most_alike": 0.5,
        "compared": {"gradcam": scores | gains, "scorecam": scores | gains},
    }
    summary = {"method": "Score-CAM", "map_px": 8, "layer": "layer2", "choice": choice}
    summary |= {"empty_share": 0.0, "empty_patches": 400, "beats_centre": False, **changes}
    path = project / "reports/explain/gradcam/resnet18/summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(summary, path)


def test_the_method_of_maps_is_named_with_the_scores_that_chose_it(project):
    write_summary(project)
    blocks = write_explanations_chapter(find_run(project)).blocks
    table = next(b for b in blocks if isinstance(b, Grid) and "methods of maps" in b.caption)
    assert table.caption == "ResNet-18: methods of maps on 48 validation patches"
    assert table.rows[1] == [
        "Score-CAM", "0.2%", "0.05", "+0.120", "-0.013", Mark("chosen", "good")
    ]  # fmt: skip
    assert table.rows[0][0] == "Grad-CAM" and table.rows[0][-1] == ""
    assert "highest mean gain of deletion and insertion" in table.notes[0]


@pytest.mark.parametrize("beats_centre", [True, False])
def test_maps_that_do_not_beat_the_centre_are_said_to_tell_nothing_more(project, beats_centre):
    write_summary(project, beats_centre=beats_centre)
    blocks = write_explanations_chapter(find_run(project)).blocks
    text = next(b.text for b in blocks if isinstance(b, Prose) and "Score-CAM" in b.text)
    assert ("tell nothing beyond “the nucleus”" in text) is not beats_centre
