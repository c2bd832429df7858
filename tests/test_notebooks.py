"""Both notebooks: run in fresh kernels on a few hundred images, and as they were committed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from cscm77.__main__ import WIDGET, TerminalClient

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
        "Hello from gan.py!", "Hello from cscm77_helper.py!", "gan.py last edited on ",
        "All tests passed!", "267009\nCorrect", "1858320\nCorrect", "1102721\nCorrect",
        "6580801\nCorrect", "torch.Size([128, 1])", "torch.Size([128, 784])", "Iter: 0, D: "],
}


every_notebook = pytest.mark.parametrize("name", NAMES)


def committed(name):
    return nbformat.read(TOP / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def said(notebook):
    return "".join(o.text for o in outputs_of(notebook) if o.output_type == "stream")


def check_saved(notebook, name):
    """What must hold of an executed notebook, wherever it was executed."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = outputs_of(notebook)
    assert {o.output_type for o in outputs} <= {"stream", "display_data"}  # no stray value
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert "widgets" not in notebook.metadata
    assert not [o for o in outputs if WIDGET in o.get("data", {})]
    text = said(notebook)
    assert "Warning" not in text and "\r" not in text
    for line in EXPECTED[name]:
        assert line in text, line
    shown = [o.data for o in outputs if o.output_type == "display_data"]
    assert all(data["text/plain"].strip() for data in shown)
    assert sum("<table>" in data.get("text/html", "") for data in shown) >= 6
    assert sum("text/markdown" in data for data in shown) >= 4  # the answers
    errors = [float(e) for e in re.findall(r"Maximum error in \w+: (\S+)", text)]
    assert len(errors) == (4 if name.startswith("gen") else 0) and all(e < 1e-7 for e in errors)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Both, executed by the command from another working directory, on MNIST or on stand-ins.

    The stand-ins are drawn the first time, and kept in the package's MNIST_data as a user's are.
    """
    folder = tmp_path_factory.mktemp("executed")
    data = ({"MNIST_DIR": str(Path(REAL_MNIST).resolve())} if REAL_MNIST
            else {"CSCM77_SOURCE": "strokes"})
    done = subprocess.run(
        [sys.executable, "-m", "cscm77", "--images", "300", "--output", "out"], cwd=folder,
        env={**os.environ, **data, "PYTHONPATH": str(TOP)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return folder / "out", done


@every_notebook
def test_it_runs_to_its_end_on_a_few_hundred_images(executed, name):
    folder, _ = executed
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    check_saved(notebook, name)
    assert (" with 20, " in said(notebook)) == name.startswith("var")  # samples of z, not 100
    assert "data:image/png" in (folder / f"{name}.html").read_text(encoding="utf-8")


def test_the_pictures_have_the_names_of_the_brief(executed):
    folder, done = executed
    assert {path.name for path in folder.glob("*.jpg")} == PICTURES
    assert all((folder / name).stat().st_size > 1000 for name in PICTURES)
    assert "300 training, 300 validation and 300 test images" in done.stdout


@every_notebook
def test_the_committed_notebook_is_one_clean_run_on_all_of_mnist_in_short_cells(name):
    path, notebook = TOP / f"{name}.ipynb", committed(name)
    nbformat.validate(notebook)
    check_saved(notebook, name)
    assert path.stat().st_size < 2_000_000
    assert "MNIST: 55,000 training, 5,000 validation and 10,000 test images on " in said(notebook)
    assert not re.search(r"/(work|root|home|tmp|Users|usr)/", path.read_text(encoding="utf-8"))
    for number, cell in enumerate(code_cells(notebook), 1):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        own = [line for line in lines if not line.startswith(("import ", "from "))]
        assert len(own) <= 14 and max(map(len, lines)) <= 100, f"code cell {number}"


def test_the_committed_vae_and_cvae_end_below_120():
    last = re.findall(r"Train Epoch: 9 \tLoss: (\S+)", said(committed("variational_autoencoders")))
    assert len(last) == 2 and all(float(loss) < 120 for loss in last)


@every_notebook
def test_as_html_the_committed_notebook_has_all_of_its_pictures(name):
    notebook = committed(name)
    drawn = sum("image/png" in o.get("data", {}) for o in outputs_of(notebook))
    html, _ = HTMLExporter().from_notebook_node(notebook)
    pictures = re.findall(r"<img[^>]*\ssrc=\"([^\"]{22})", html)
    assert pictures == ["data:image/png;base64,"] * drawn and drawn >= 14  # a training has one


COLAB = '''
import importlib.util, sys, types

def mount(path):
    print("Mounted at", path)

sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = sys.modules["google"].colab = types.ModuleType("google.colab")
sys.modules["google.colab"].drive = types.SimpleNamespace(mount=mount)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *others: (
    None if name == "torchmetrics" else find_spec(name, *others))  # so pip has nothing to fetch


class BrokenAutoreload:
    def find_spec(self, name, path=None, target=None):
        if name in ("autoreload", "IPython.extensions.autoreload"):  # IPython 7, newer ones
            raise ModuleNotFoundError("No module named 'imp'")  # as in newer Pythons

sys.meta_path.insert(0, BrokenAutoreload())
'''


def run_set_up(name, folder, **environment):
    """Execute the cells of the set-up alone, in a folder; gives what they print."""
    notebook = committed(name)
    headings = [i for i, cell in enumerate(notebook.cells)
                if re.match("## (Load the MNIST d|D)ataset", cell.source)]
    notebook.cells = notebook.cells[:headings[0]]
    client = TerminalClient(notebook, folder)
    client.execute(env={**os.environ, **environment})
    return said(notebook)


@every_notebook
@pytest.mark.filterwarnings("default")  # those of the kernel's own libraries
def test_the_set_up_in_colab_from_another_folder_with_broken_parts(name, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(COLAB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    text = run_set_up(name, elsewhere, PYTHONPATH=f"{tmp_path}{os.pathsep}{TOP}", PIP_NO_INDEX="1")
    for line in ("Running in Colab", "Mounted at /content/drive", "autoreload does not work here",
                 "restart the kernel to use updated packages",  # what pip always says
                 "Hello from cscm77_helper.py!", "'vae.py'"):
        assert line in text


@every_notebook
@pytest.mark.filterwarnings("default")
def test_the_set_up_in_jupyter_finds_its_folder_and_needs_no_drive_to_write_on(name, tmp_path):
    drive = tmp_path / "drive"
    drive.write_text("a file, where nothing can be put")
    text = run_set_up(name, tmp_path, JPY_SESSION_NAME=str(TOP / f"{name}.ipynb"),
                      CSCM77_RESULTS=str(drive / "results"))
    for line in ("Running on this machine", "Hello from cscm77_helper.py!", "torchvision"):
        assert line in text


@pytest.mark.filterwarnings("default")
def test_the_set_up_says_what_to_do_where_the_package_is_not_found(tmp_path):
    with pytest.raises(CellExecutionError, match="GOOGLE_DRIVE_PATH_AFTER_MYDRIVE, now 'CSCM77'"):
        run_set_up(NAMES[0], tmp_path)


@every_notebook
def test_every_saved_picture_names_the_data_and_the_device_is_chosen_once(name):
    source = "\n".join(cell.source for cell in code_cells(committed(name)))
    pictures = source.count("save_picture(")
    assert source.count(": {data}')") == pictures == (2 if name.startswith("var") else 0)
    assert "mnist_loaders(batch_size, device=device)" in source
    assert source.count("cuda.is_available") == 1


@every_notebook
def test_there_is_one_first_heading_and_no_level_is_left_out(name):
    text = "\n".join(cell.source for cell in committed(name).cells if cell.cell_type == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(levels) == 3
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False))


# What is fixed beforehand: by the data, the brief, a setting or a definition. A number that was
# measured belongs into a cell that prints it, or a rerun makes the sentence false.
FIXED = {"60,000", "10,000", "5,000", "28", "128", "784", "15", "96", "120",  # the brief's
         "0.5", "0.01", "0.995", "0.999", "250", "1,000", "50", "100",  # settings
         "32", "16", "38", "30", "8"} | set("0123457") | {"10", "20"}


@every_notebook
def test_sentences_with_measured_numbers_are_printed_and_not_typed(name):
    for cell in committed(name).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|arXiv:\S+|\b(?:19|20)\d\d\b", "",
                          cell.source, flags=re.DOTALL)  # formulas, code, years
            typed = set(re.findall(r"\d[\d,.]*\d|\d", text)) - FIXED
            assert not typed, f"{typed} in {cell.source[:60]!r}"


@every_notebook
def test_the_code_of_the_brief_is_open_and_that_of_answers_is_folded(name):
    brief = re.compile(r"\b(?:rel_error|train_vae|run_a_gan|show_images|show_source"
                       r"|test_\w+)\(")
    answers = re.compile(r"evidence\.(?:say|table|listing)\(")
    for cell in code_cells(committed(name)):
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if folded or answers.search(cell.source):
            assert folded and not brief.search(cell.source)


def test_both_notebooks_find_the_package_in_the_same_way():
    vae, gan = ({cell.source.replace("gan", "vae") for cell in code_cells(committed(name))}
                for name in NAMES)
    shared = [cell for cell in vae & gan if "GOOGLE_DRIVE_PATH" in cell or "autoreload" in cell]
    assert len(shared) == 3
