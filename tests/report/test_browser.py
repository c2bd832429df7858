"""Pages in headless Chromium, where Playwright is installed, too: our HTML, and the explorers."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
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
PATIENCE = 120_000  # milliseconds
SIZES = "all => all.map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])"
BEGUN = "document.querySelector('.jp-CodeCell .jp-InputPrompt').innerText.trim() != '[ ]:'"
CHANGED = "([image, before]) => image.src != before"
CELL = """
import torch
import gan
from cscm77.data.loaders import Digits
from cscm77.report.explorer import GANExplorer, VAEExplorer
from vae import CVAE

pictures = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
digits = Digits(pictures, torch.arange(20) % 10, 'MNIST', 'cpu')
VAEExplorer(CVAE(784, hidden_dim=16), digits, torch.rand(15)).show()
GANExplorer({'one': gan.generator(), 'other': gan.generator()}, opens_on='other').show()
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


def _go_to(page, address):
    """Open a page of a server that says its address a little before it listens there."""
    for left in reversed(range(30)):
        try:
            page.goto(address)
            return
        except playwright.Error as error:
            if "CONNECTION_REFUSED" not in str(error) or not left:
                raise
            page.wait_for_timeout(1000)


def _run_first_cell(page):
    """Run it as soon as there is a kernel; until then the page takes the keys for nothing."""
    for _ in range(30):
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        with suppress(playwright.TimeoutError):
            page.wait_for_function(BEGUN, timeout=3000)
            return


@pytest.fixture(params=["lab", "notebook"])
def opened(request, page, errors, tmp_path):
    """The page of JupyterLab or Notebook with a notebook of one cell, and a kernel."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = new_notebook(cells=[new_code_cell(CELL)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    environment = {**os.environ, "PYTHONPATH": str(TOP), **{
        f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}}
    command = [sys.executable, "-m", "jupyter", request.param, "--no-browser", "--allow-root",
               "--port=0", "--ServerApp.ip=127.0.0.1", "--LabApp.news_url=",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    folder = {"lab": "lab/tree", "notebook": "notebooks"}[request.param]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            for line in process.stderr:
                found = re.search(r"(http://127\.0\.0\.1:\d+/)\w+\?(token=\w+)", line)
                if found:
                    _go_to(page, f"{found[1]}{folder}/explore.ipynb?{found[2]}")
                    _run_first_cell(page)
                    errors.clear()  # those of its own start
                    yield page
                    page.goto("about:blank")  # it would miss its server
                    break
            else:
                pytest.fail(f"jupyter {request.param} did not start")
        finally:
            process.terminate()
            process.stderr.read()


def test_every_control_of_the_explorers_changes_its_picture(opened):
    def used(act):
        image = shown.locator("img")
        before = image.get_attribute("src")
        act()
        opened.wait_for_function(CHANGED, arg=[image.element_handle(), before])

    def control(kind, name):
        return shown.locator(kind, has=opened.get_by_text(name, exact=True))

    def slide(name):
        handle = control(".widget-slider", name).locator(".noUi-handle")
        used(lambda: handle.press("PageUp"))  # Notebook takes the arrows for itself

    def enter(name, number):
        field = control(".widget-text", name).locator("input")
        used(lambda: (field.fill(str(number)), field.press("Enter")))

    def press(name):
        used(shown.get_by_role("button", name=name, exact=True).click)

    vae, gan = (opened.locator(".jp-OutputArea-output").nth(place) for place in (0, 1))
    gan.locator("img").wait_for()
    shown = vae
    latents = shown.locator(".widget-label", has_text="latent").all_inner_texts()
    assert len(latents) == 5
    for latent in latents:
        slide(latent)
    press("7")
    press("resample")
    enter("from image", 5)
    slide("morph")
    enter("to image", 9)
    shown = gan
    assert shown.locator("select").locator("option:checked").inner_text() == "other"
    slide("walk")
    press("resample")
    used(lambda: shown.locator("select").select_option("one"))
    assert opened.locator(".jp-OutputArea-output img").count() == 2
