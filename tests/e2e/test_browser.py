"""The MLflow UI in a real browser: what a user compares, sees and looks up in it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from histofuse.tracking.names import CONTENT_TAG
from histofuse.tracking.store import Store

pytestmark = pytest.mark.e2e

MITOSIS = "test/auprc/mitosis"
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        message = "Chromium is not installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def address(built, tmp_path_factory):
    """The UI over a copy of the small project's runs, one of whose models is in production."""
    root = tmp_path_factory.mktemp("ui") / "histofuse"
    shutil.copytree(built.root, root, symlinks=True)
    store = Store(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")
    with store.locked():
        store.set_alias("histofuse-fusion", "production", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("histofuse"), "ui", "--port", str(port)]
    log = (root / "ui.log").open("w")
    server = subprocess.Popen(command, cwd=root, stdout=log, stderr=log)
    where = f"http://127.0.0.1:{port}"
    try:
        wait_for(where, server, root / "ui.log")
        yield where
    finally:
        server.terminate()
        server.wait()
        log.close()


def wait_for(address, server, log):
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the UI did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A page that reaches the server and nothing else."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    inside = "127.0.0.1"
    context.route(lambda url: inside not in url.split("/")[2], lambda route: route.abort())
    yield context.new_page()
    context.close()


def find_experiment(built, name="histofuse"):
    store = Store(f"sqlite:///{built.root / 'mlruns' / 'mlflow.db'}", name)
    with store.locked():
        return store.experiment_id


def open_runs(page, address, built, **query):
    text = "&".join(f"{key}={quote(value)}" for key, value in query.items())
    page.goto(f"{address}/#/experiments/{find_experiment(built)}/runs?{text}")
    page.get_by_text("matching runs").wait_for()
    assistant = page.get_by_role("button", name="Close", exact=True)
    if assistant.count():
        assistant.first.click()


def read_count(page):
    page.wait_for_timeout(2000)  # the page asks twice; the last answer counts
    return page.get_by_text("matching run").first.text_content().strip()


def find_run(built, name):
    store = Store(f"sqlite:///{built.root / 'mlruns' / 'mlflow.db'}")
    with store.locked():
        return next(r for r in store.find_runs(CONTENT_TAG) if r.info.run_name == name)


def test_runs_are_sorted_and_filtered_by_the_metric_and_tag_that_matter(page, address, built):
    open_runs(
        page,
        address,
        built,
        orderByKey=f"metrics.`{MITOSIS}`",
        orderByAsc="false",
        searchFilter="tags.`histofuse.kind` = 'fusion' and tags.`histofuse.leaky` = 'false'",
    )
    assert read_count(page) == "2 matching runs"
    page.get_by_role("link", name="fusion_label_blind", exact=True).wait_for()
    page.get_by_role("link", name="fusion_permuted", exact=True).wait_for()
    assert page.get_by_role("link", name="resnet18", exact=True).count() == 0

    page.get_by_test_id("column-selection-dropdown").first.click()
    page.get_by_placeholder("Search columns").fill(MITOSIS)
    page.wait_for_timeout(500)
    page.locator("[class*='tree-checkbox']").first.click()
    page.keyboard.press("Escape")
    page.get_by_role("columnheader", name=MITOSIS).first.wait_for()


def test_three_runs_are_compared_in_charts(page, address, built):
    names = ("simple_cnn", "resnet18", "fusion_label_blind")
    wanted = ", ".join(f"'{find_run(built, name).info.run_id}'" for name in names)
    open_runs(
        page,
        address,
        built,
        searchFilter=f"attributes.run_id IN ({wanted})",
        compareRunsMode="CHART",
    )
    assert read_count(page) == "3 matching runs"
    page.get_by_placeholder("Search metric charts").fill("test/auprc/(mitosis|macro)")
    page.get_by_text(MITOSIS).first.wait_for()
    bars = page.locator(".js-plotly-plot .bars path")
    bars.first.wait_for()
    page.wait_for_timeout(1000)
    assert bars.count() == 6  # three runs in two charts


def test_a_figure_of_a_run_displays(page, address, built):
    run = find_run(built, "fusion_label_blind")
    page.goto(
        f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/figures/confusion.png"
    )
    picture = page.locator("img[src^='blob:'], img[src*='get-artifact'], img[src^='data:']").first
    picture.wait_for()
    page.wait_for_function(
        "element => element.complete && element.naturalWidth > 100", arg=picture.element_handle()
    )


def test_a_run_says_what_it_is_and_leads_to_its_version(page, address, built):
    run = find_run(built, "fusion_label_blind")
    page.goto(f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")
    page.get_by_role("heading", name="fusion_label_blind").wait_for()
    page.get_by_text("a patch and a patient's health record").first.wait_for()  # the model card
    page.get_by_role("link", name="histofuse-fusion").first.click()
    page.get_by_text("production").first.wait_for()


def test_the_registry_shows_the_version_in_production(page, address):
    page.goto(f"{address}/#/models")
    row = page.get_by_role("row").filter(
        has=page.get_by_role("link", name="histofuse-fusion", exact=True)
    )
    row.first.wait_for()
    page.goto(f"{address}/#/models/histofuse-fusion")
    page.get_by_text("@ production").or_(
        page.get_by_text("production", exact=True)
    ).first.wait_for()
    page.get_by_role("link", name="Version 1").first.wait_for()


def test_a_study_s_trials_are_nested_in_it(page, address, built):
    experiment = find_experiment(built, "histofuse-studies")
    page.goto(f"{address}/#/experiments/{experiment}/runs")
    study = page.get_by_role("link", name="study xgboost", exact=True)
    study.wait_for()
    trial = page.get_by_role("link", name="xgboost trial 0", exact=True)
    if not trial.count():
        page.get_by_role("row").filter(has=study).get_by_role("button").first.click()
    trial.wait_for()
