"""The explorer on a real page: JupyterLab in headless Chromium, where both are installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

TOP = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PATIENCE = 90_000  # milliseconds
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
