"""README.md and docs/*.md: every command, file and link that they name exists and works."""

import re
import shlex
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
from tiny import load

from cscm77 import __main__ as command
from cscm77.report import paper
from cscm77.studies import benchmark, choices, comparison, results_file, stand_ins
from cscm77_helper import train_vae
from vae import VAE

TOP = Path(__file__).resolve().parent.parent
README, *DOCS = PAGES = [TOP / "README.md", *sorted(TOP.glob("docs/*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
EVERYTHING = "\n".join(TEXTS.values())
MAKEFILE = (TOP / "Makefile").read_text()
READERS = {"": command.parse, ".report": paper.parse,
           ".studies.benchmark": benchmark.parse,
           ".studies.choices": partial(results_file.parse, choices.STUDY),
           ".studies.comparison": partial(results_file.parse, comparison.STUDY),
           ".studies.stand_ins": stand_ins.parse}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_two_commands_come_first_and_the_page_is_short():
    text = TEXTS[README]
    assert text.index("make run") < text.index("make test") < text.index("In Colab")
    lines = text.splitlines()
    assert len(lines) <= 100
    assert not [line for line in lines if len(line) > 110 and line[0] != "|"]


def test_the_numbers_of_the_five_models_are_those_of_the_comparison():
    table = TEXTS[README].partition("| model | Frechet distance |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert {name for name, *_ in rows[:-1]} == {
        model + ending for model in (*comparison.VAES, *comparison.GANS)
        for ending in ("", ", averaged")}
    forms = {"frechet": ".0f", "coverage": ".2f", "precision": ".2f", "-ELBO": ".1f"}
    for name, *cells in rows[:-1]:
        for (measure, form), cell in zip(forms.items(), cells, strict=True):
            if measure != "-ELBO" or "VAE" in name:
                values = comparison.comparison_values(name, measure)
                assert cell == f"{mean(values):{form}} ± {stdev(values):{form}}", (name, measure)


def test_every_make_target_exists():
    targets = set(re.findall(r"\bmake ([\w-]+)(?=\s*(?:#|`|\n))", EVERYTHING))
    assert {"run", "test", "test-colab"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


def test_every_command_line_is_understood():
    lines = re.findall(r"python -m cscm77((?:\.\w+)*)((?: [^`\n]*)?)", EVERYTHING)
    assert len(lines) >= 10 and {module for module, _ in lines} == {*READERS}
    for module, words in lines:
        READERS[module](shlex.split(words.partition("#")[0]))


@each_page
def test_every_link_and_picture_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


@each_page
def test_every_file_of_ours_that_is_named_exists(page):
    for name in re.findall(r"`((?:cscm77|tests|docs)/[\w./*]*|\w+\.(?:py|ipynb))`", TEXTS[page]):
        assert any(TOP.glob(name)), name


@each_page
def test_every_function_and_setting_that_is_named_exists(page):
    sources = "".join(path.read_text(encoding="utf-8") for pattern in ("*.py", "cscm77/**/*.py",
                      "*.ipynb") for path in TOP.glob(pattern))
    for name in re.findall(r"`(\w+)(?:\([^`]*\)|=\w+)?`", TEXTS[page]):
        known = re.search(rf"\b{name}\b", sources) or hasattr(torch.utils.data, name)
        assert "_" not in name or known, name


def test_every_option_that_is_passed_by_name_exists():
    sources = "".join((TOP / name).read_text() for name in ("cscm77_helper.py", "vae.py", "gan.py",
                                                            "cscm77/data/loaders.py"))
    for call in re.findall(r"`(?:train_vae|run_a_gan|mnist_loaders|C?VAE)\(([^`]*)\)`", EVERYTHING):
        for option in re.findall(r"(\w+)=", call):
            assert re.search(rf"\b{option}\b", sources), option


def test_the_map_of_files_names_every_module_and_no_other():
    rows = [line.split("|")[1] for line in TEXTS[TOP / "docs" / "files.md"].splitlines()
            if line.startswith("| `")]
    named = {path for row in rows for path in re.findall(r"`([^`]+)`", row)}
    there = {path.relative_to(TOP).as_posix()
             for pattern in ("*.py", "*.ipynb", "cscm77/**/*.py") for path in TOP.glob(pattern)}
    rooms = {path for path in there if re.fullmatch(r"cscm77/\w+/__init__\.py", path)}
    assert there - rooms <= named
    assert {name for name in named if name.endswith((".py", ".ipynb"))} == there - rooms
    assert all((TOP / name).exists() for name in named)


def test_the_line_that_takes_weights_out_of_a_checkpoint(tmp_path, monkeypatch, tiny_mnist):
    [line] = re.findall(r"^    (model\.load_state_dict.*)$", TEXTS[TOP / "docs" / "resuming.md"],
                        flags=re.MULTILINE)
    monkeypatch.setenv("CSCM77_IMAGES", "32")
    trained, model = (VAE(784, hidden_dim=4) for _ in range(2))
    train_vae(0, trained, load(root=tiny_mnist).train, checkpoint=tmp_path / "vae.pt")
    monkeypatch.chdir(tmp_path)
    exec(line, {"model": model, "torch": torch})
    for name, weight in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_nothing_is_pinned():
    needs = [line for line in (TOP / "requirements.txt").read_text().splitlines()
             if line and not line.startswith("#")]
    assert {re.split(r"[><=~!]", need)[0] for need in needs} >= {
        "torch", "torchvision", "matplotlib", "numpy", "jupyter", "pytest", "tqdm", "torchmetrics"}
    assert not [need for need in needs if "==" in need]
