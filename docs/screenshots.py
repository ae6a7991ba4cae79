"""Takes the README's screenshots of the MLflow UI, of the runs that are there now.

Run: make screenshots (needs Chromium).
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from histofuse.tracking.store import open_store

DOCS = Path(__file__).parent
SIZE = {"width": 1500, "height": 700}
COLUMNS = (
    "test/auprc/mitosis",
    "test/recall/mitosis",
    "test/f1/macro",
    "test/auroc/macro",
    "histofuse.kind",
    "histofuse.leaky",
)
PLAIN = ("Dataset", "Source")  # shown by default, hidden here to make room


@contextmanager
def serving_ui() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    histofuse = Path(sys.executable).with_name("histofuse")
    server = subprocess.Popen(
        [histofuse, "ui", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def shoot(page: Page, path: Path) -> None:
    page.wait_for_timeout(3000)  # charts are drawn piece by piece
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


def open_runs(page: Page, address: str, **query: str) -> None:
    experiment = open_store().experiment_id
    page.goto(f"{address}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}")
    page.get_by_text("matching runs").wait_for()
    assistant = page.get_by_role("button", name="Close", exact=True)
    if assistant.count():
        assistant.first.click()


def choose_columns(page: Page) -> None:
    page.get_by_test_id("column-selection-dropdown").first.click()
    search = page.get_by_placeholder("Search columns")
    for name in (*PLAIN, *COLUMNS):
        search.fill(name)
        page.wait_for_timeout(500)
        # What does not match is folded away: the box that is left stands for the one match.
        page.locator("[class*='tree-checkbox']").first.click()
    page.keyboard.press("Escape")


def main() -> None:
    with serving_ui() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport=SIZE)
        best_first = {"orderByKey": "metrics.`test/auprc/mitosis`", "orderByAsc": "false"}
        open_runs(page, address, **best_first)
        page.get_by_role("button", name="Toggle sidebar").click()
        choose_columns(page)
        shoot(page, DOCS / "mlflow_runs.png")
        on_patches = "tags.`histofuse.kind` != 'tabular'"
        open_runs(page, address, **best_first, searchFilter=on_patches, compareRunsMode="CHART")
        page.get_by_placeholder("Search metric charts").fill(
            "test/auprc/(mitosis|macro|non_tumour)"
        )
        shoot(page, DOCS / "mlflow_compare.png")
        browser.close()


if __name__ == "__main__":
    main()
