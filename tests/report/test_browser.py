"""Pages in headless Chromium, where Playwright is installed, too: our HTML, and the explorers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from cscm77.__main__ import NOTEBOOKS
from cscm77.report.page import page_of

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

TOP = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PATIENCE = 90_000  # milliseconds
SIZES = "all => all.map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])"
CHANGED = "before => document.querySelector('.jp-OutputArea-output img').src != before"
CELL = """
import torch
from cscm77.data.loaders import Digits
from cscm77.report.explorer import VAEExplorer
from vae import CVAE

pictures = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
digits = Digits(pictures, torch.arange(20) % 10, 'MNIST', 'cpu')
explorer = VAEExplorer(CVAE(784, hidden_dim=16), digits, torch.rand(15))
explorer.show()
"""


@pytest.fixture
def errors():
    """What went wrong on the page: nothing, in the end."""
    found = []
    yield found
    assert found == []


@pytest.fixture
def page(errors):
    """An empty page."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        yield page
        browser.close()


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_page_without_a_network_shows_its_formulas(page, path, tmp_path):
    asked, file = [], tmp_path / "page.html"
    file.write_text(page_of(nbformat.read(path, as_version=4))[0], encoding="utf-8")
    page.context.set_offline(True)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    formulas = page.locator("math")
    sizes = formulas.evaluate_all(SIZES)
    assert len(sizes) > 20 and min(map(min, sizes)) > 3  # pixels
    tall, wide = page.locator("math mfrac").first, page.locator("math[display=block]").first
    assert tall.bounding_box()["height"] > 15 and wide.bounding_box()["width"] > 200
    assert page.locator("math").first.evaluate("one => getComputedStyle(one).display") == "math"


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that has one small notebook."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = new_notebook(cells=[new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(TOP), **{
        f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0",
               "--ServerApp.ip=127.0.0.1", "--LabApp.news_url=",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            for line in process.stderr:
                found = re.search(r"http://127\.0\.0\.1:\d+/lab\?(token=\w+)", line)
                if found:
                    yield found[0].replace("/lab?", "/lab/tree/explore.ipynb?")
                    break
            else:
                pytest.fail("JupyterLab did not start")
        finally:
            process.terminate()
            process.stderr.read()


def test_a_slider_moved_in_jupyterlab_changes_the_picture(lab):
    errors = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(lab)
        page.get_by_text("| Idle").wait_for(timeout=PATIENCE)  # the kernel is there
        page.locator(".jp-CodeCell .cm-content").first.click(timeout=PATIENCE)
        page.keyboard.press("Shift+Enter")
        image = page.locator(".jp-OutputArea-output img").first
        image.wait_for(timeout=PATIENCE)
        before = image.get_attribute("src")
        page.locator(".noUi-handle").first.press("ArrowRight")
        page.wait_for_function(CHANGED, arg=before, timeout=PATIENCE)
        after = image.get_attribute("src")
        page.get_by_role("button", name="7", exact=True).click()
        page.wait_for_function(CHANGED, arg=after, timeout=PATIENCE)
        assert page.locator(".jp-OutputArea-output img").count() == 1
        browser.close()
    assert errors == []
