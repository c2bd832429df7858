"""Both notebooks: run in fresh kernels on a few hundred images, and the committed ones as they were saved."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from cscm77.__main__ import TerminalClient

REAL_MNIST = os.environ.get("MNIST_DIR")
TOP = Path(__file__).resolve().parent.parent
NAMES = ["variational_autoencoders", "generative_adversarial_networks"]
PICTURES = {"vae_generation.jpg", "conditional_vae_generation.jpg",
            "fc_gan_results.jpg", "ls_gan_results.jpg", "dc_gan_results.jpg"}
EXPECTED = {
    "variational_autoencoders": [
        "Hello from vae.py!", "Hello from cscm77_helper.py!", "vae.py last edited on ", "device c",
        "Mean Error 5.639056398351415e-05", "Std Error 7.1412955526273885e-06",
        "Loss error 2.1297676389877955e-06", "in the order of the brief 8.5079, swapped 8.0731",
        "Train Epoch: 9 \tLoss: "],
    "generative_adversarial_networks": [
        "Hello from gan.py!", "Hello from cscm77_helper.py!", "gan.py last edited on ", "All tests passed!",
        "267009\nCorrect", "1858320\nCorrect", "1102721\nCorrect", "6580801\nCorrect",
        "torch.Size([128, 1])", "torch.Size([128, 784])", "Iter: 0, D: "],
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(notebook):
    return "".join(o.text for cell in code_cells(notebook) for o in cell.outputs if o.output_type == "stream")


def check_saved(notebook, name):
    """What must hold of an executed notebook, wherever it was executed."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [o for cell in cells for o in cell.outputs]
    values = [o.data["text/plain"] for o in outputs if o.output_type == "execute_result"]
    assert all(value.startswith("VAE(") for value in values)  # no stray value at the end of a cell
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert "widgets" not in notebook.metadata
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    text = said(notebook)
    assert "Warning" not in text and "\r" not in text
    for line in EXPECTED[name]:
        assert line in text, line
    errors = [float(e) for e in re.findall(r"Maximum error in \w+: (\S+)", text)]
    assert len(errors) == (4 if name.startswith("gen") else 0) and all(e < 1e-7 for e in errors)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Both notebooks, executed by the command from another working directory, on MNIST or else on stand-in digits.

    The stand-ins are drawn the first time, and kept in the MNIST_data folder of the package as a user's would be.
    """
    folder = tmp_path_factory.mktemp("executed")
    data = {"MNIST_DIR": str(Path(REAL_MNIST).resolve())} if REAL_MNIST else {"CSCM77_SOURCE": "strokes"}
    environment = {**os.environ, **data, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, "-m", "cscm77", "--images", "300", "--output", "out"], cwd=folder,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return folder / "out", done


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_to_its_end_on_a_few_hundred_images(executed, name):
    folder, _ = executed
    check_saved(nbformat.read(folder / f"{name}.ipynb", as_version=4), name)
    assert "data:image/png" in (folder / f"{name}.html").read_text(encoding="utf-8")


def test_the_pictures_have_the_names_of_the_brief(executed):
    folder, done = executed
    assert {path.name for path in folder.glob("*.jpg")} == PICTURES
    assert all((folder / name).stat().st_size > 1000 for name in PICTURES)
    assert "300 training, 300 validation and 300 test images" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_notebook_is_one_clean_run_on_all_of_mnist(name):
    path = TOP / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check_saved(notebook, name)
    assert path.stat().st_size < 2_000_000
    assert "MNIST: 55,000 training, 5,000 validation and 10,000 test images on " in said(notebook)
    assert not re.search(r"/(work|root|home|tmp|Users|usr)/", path.read_text(encoding="utf-8"))


def test_the_committed_vae_and_cvae_end_below_120():
    text = said(nbformat.read(TOP / "variational_autoencoders.ipynb", as_version=4))
    last = [float(loss) for loss in re.findall(r"Train Epoch: 9 \tLoss: (\S+)", text)]
    assert len(last) == 2 and all(loss < 120 for loss in last)


@pytest.mark.parametrize("name", NAMES)
def test_as_html_the_committed_notebook_has_all_of_its_pictures(name):
    notebook = nbformat.read(TOP / f"{name}.ipynb", as_version=4)
    drawn = sum("image/png" in o.get("data", {}) for cell in code_cells(notebook) for o in cell.outputs)
    html, _ = HTMLExporter().from_notebook_node(notebook)
    pictures = re.findall(r"<img[^>]*\ssrc=\"([^\"]{22})", html)
    assert pictures == ["data:image/png;base64,"] * drawn and drawn > 15


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short(name):
    for number, cell in enumerate(code_cells(nbformat.read(TOP / f"{name}.ipynb", as_version=4)), 1):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= 14, f"code cell {number}"


COLAB = '''
import sys, types

def mount(path):
    print("Mounted at", path)

sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = sys.modules["google"].colab = types.ModuleType("google.colab")
sys.modules["google.colab"].drive = types.SimpleNamespace(mount=mount)


class BrokenAutoreload:
    """Importing it fails, as in a Python that has no module imp any more."""

    def find_spec(self, name, path=None, target=None):
        if name == "IPython.extensions.autoreload":
            raise ModuleNotFoundError("No module named 'imp'")


sys.meta_path.insert(0, BrokenAutoreload())
'''


def run_set_up(name, folder, environment):
    """Execute the cells of the set-up alone; gives what they print."""
    notebook = nbformat.read(TOP / f"{name}.ipynb", as_version=4)
    headings = [i for i, cell in enumerate(notebook.cells) if re.match("# (Load the MNIST d|D)ataset", cell.source)]
    notebook.cells = notebook.cells[:headings[0]]
    client = TerminalClient(notebook, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, **environment})
    return said(notebook)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")  # those of the kernel's own libraries
def test_the_set_up_in_colab_without_autoreload_and_from_another_folder(name, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(COLAB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    text = run_set_up(name, elsewhere, {"PYTHONPATH": f"{tmp_path}{os.pathsep}{TOP}"})
    assert "Running in Colab" in text and "Mounted at /content/drive" in text
    assert "autoreload does not work here" in text
    assert "Hello from cscm77_helper.py!" in text and "'vae.py'" in text


WITHOUT_TORCHMETRICS = COLAB + '''
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *others: None if name == "torchmetrics" else find_spec(name, *others)
'''


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")
def test_in_colab_without_torchmetrics_it_is_installed(name, tmp_path):
    """Here it is installed already, so that pip has nothing to fetch, and says only what it always says."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TORCHMETRICS)
    text = run_set_up(name, tmp_path, {"PYTHONPATH": f"{tmp_path}{os.pathsep}{TOP}", "PIP_NO_INDEX": "1"})
    assert "restart the kernel to use updated packages" in text and "Hello from cscm77_helper.py!" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("default")
def test_the_set_up_with_a_drive_that_cannot_be_written(name, tmp_path):
    (tmp_path / "drive").write_text("a file, where nothing can be put")
    text = run_set_up(name, tmp_path, {"PYTHONPATH": str(TOP), "CSCM77_RESULTS": str(tmp_path / "drive" / "results")})
    assert "Hello from cscm77_helper.py!" in text and "torchvision" in text


@pytest.mark.filterwarnings("default")
def test_the_set_up_in_jupyter_finds_the_folder_of_the_notebook(tmp_path):
    text = run_set_up(NAMES[0], tmp_path, {"JPY_SESSION_NAME": str(TOP / "variational_autoencoders.ipynb")})
    assert "Running on this machine" in text and "Hello from vae.py!" in text


@pytest.mark.filterwarnings("default")
def test_the_set_up_says_what_to_do_where_the_package_is_not_found(tmp_path):
    with pytest.raises(CellExecutionError, match="GOOGLE_DRIVE_PATH_AFTER_MYDRIVE, now 'CSCM77'"):
        run_set_up(NAMES[0], tmp_path, {})


@pytest.mark.parametrize("name", NAMES)
def test_every_title_names_the_data_and_the_device_is_chosen_once(name):
    source = "\n".join(c.source for c in code_cells(nbformat.read(TOP / f"{name}.ipynb", as_version=4)))
    titles = re.findall(r"(?:title=|plot_vae_training\(vae_epochs, |plot_gan_training\(histories, )(f?'[^']*')", source)
    assert len(titles) >= 4 and all("{data}" in title or "{tried}" in title for title in titles), titles
    assert "mnist_loaders(batch_size, device=device)" in source and source.count("cuda.is_available") == 1


def test_both_notebooks_find_the_package_in_the_same_way():
    notebooks = [nbformat.read(TOP / f"{name}.ipynb", as_version=4) for name in NAMES]
    sources = [{cell.source.replace("gan.py", "vae.py") for cell in code_cells(notebook)} for notebook in notebooks]
    shared = [source for source in sources[0] & sources[1] if "GOOGLE_DRIVE_PATH" in source or "autoreload" in source]
    assert len(shared) == 3
