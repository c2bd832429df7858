"""cscm77/report/evidence.py: what a report finds in the results, shared by two notebooks."""

import json
import math

import matplotlib.pyplot as plt
import pytest
import torch

from cscm77.report.evidence import PRINT_RESOLUTION, Evidence, as_markdown, as_text, formatted

COLUMNS = {"-ELBO": ".2f", "images": ",", "note": ""}


def kept(folder):
    """What is in the two files: numbers, page."""
    return (json.loads((folder / "metrics.json").read_text()),
            (folder / "evidence.md").read_text())


@pytest.fixture
def evidence(tmp_path):
    return Evidence(tmp_path, "VAE", "MNIST")


def test_a_table_is_printed_and_kept(tmp_path, capsys):
    evidence = Evidence(tmp_path / "results", "VAE", "MNIST, 55,000 training images, seed 0")
    evidence.table("elbo", "on 10,000 test images", COLUMNS,
                   {"VAE": (torch.tensor(102.834), 10000, "a note"), "yardstick": (None, 5, None)})
    assert capsys.readouterr().out.splitlines() == [
        "on 10,000 test images; MNIST, 55,000 training images, seed 0", "",
        "            -ELBO  images    note", "VAE        102.83  10,000  a note",
        "yardstick       -       5       -"]
    numbers, page = kept(tmp_path / "results")
    assert numbers["VAE"]["made from"] == "MNIST, 55,000 training images, seed 0"
    assert numbers["VAE"]["tables"]["elbo"]["rows"] == {
        "VAE": [pytest.approx(102.834), 10000, "a note"], "yardstick": [None, 5, None]}
    assert "| VAE | 102.83 | 10,000 | a note |" in page
    assert "**on 10,000 test images; MNIST, 55,000 training images, seed 0**" in page


def test_a_figure_is_kept_for_print(tmp_path, evidence):
    evidence.figure("curves", plt.figure(figsize=(2, 1)), "losses by step")
    height, width, _ = plt.imread(tmp_path / "figures" / "curves.png").shape
    assert (height, width) == (PRINT_RESOLUTION, 2 * PRINT_RESOLUTION)
    assert (tmp_path / "figures" / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "![losses by step](figures/curves.png)" in kept(tmp_path)[1]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"curves.pdf", "curves.png"}


def test_a_table_of_text_is_kept_as_it_is(tmp_path, evidence, capsys):
    evidence.listing("study", "MNIST, 10 epochs\na  1\nb  2")
    assert capsys.readouterr().out == "MNIST, 10 epochs\na  1\nb  2\n"
    numbers, page = kept(tmp_path)
    assert numbers["VAE"]["listings"]["study"].endswith("b  2")
    assert "```\nMNIST, 10 epochs\na  1\nb  2\n```" in page


def test_two_notebooks_share_the_files_and_a_second_run_replaces_its_own_part(tmp_path, evidence):
    for run in (1, 2):
        for notebook in ("VAE", "GAN"):
            Evidence(tmp_path, notebook, "MNIST").table("t", "title", {"n": ""}, {"run": [run]})
    numbers, _ = kept(tmp_path)
    assert list(numbers) == ["GAN", "VAE"]
    assert all(part["tables"]["t"]["rows"] == {"run": [2]} for part in numbers.values())
    (tmp_path / "metrics.json").write_text('{"GAN": ')  # damaged, it is begun anew
    evidence.table("t", "title", {"n": ""}, {"a": [1]})
    assert list(kept(tmp_path)[0]) == ["VAE"]


def test_what_is_no_table_is_refused(tmp_path, evidence):
    with pytest.raises(ValueError, match=r"expected 1 values in each, found \[2\]"):
        evidence.table("t", "title", {"n": ""}, {"a": [1, 2]})
    for bad in (math.nan, torch.tensor(math.inf)):
        with pytest.raises(ValueError, match="expected finite numbers"):
            evidence.table("t", "title", {"n": ".2f"}, {"a": [bad]})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_once_and_the_table_is_shown(
        tmp_path, evidence, capsys, full_disk):
    for _ in range(2):
        evidence.table("t", "title", {"n": ""}, {"a": [1]})
        evidence.figure("f", plt.figure(), "title")
    printed = capsys.readouterr().out
    assert printed.count("metrics.json was not written: No space left on device\n") == 1
    assert printed.count("was not written") == 1 and printed.count("title; MNIST") == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["figures"]


def test_text_is_shown_as_it_is_in_markdown_too(tmp_path):
    evidence = Evidence(tmp_path, "VAE", "$1 and $2")
    evidence.table("t", "p(x|z)", {"$": ""}, {"a|b": [1]})
    _, page = kept(tmp_path)
    assert r"**p(x\|z); \$1 and \$2**" in page and r"| a\|b | 1 |" in page and r"|  | \$ |" in page


def test_text_and_markdown_of_a_table():
    rows = {"a": ["1.00", "x"], "longer": ["10.00", "yy"]}
    assert as_text("name", ["n", "word"], rows).splitlines() == [
        "name        n  word", "a        1.00     x", "longer  10.00    yy"]
    assert as_markdown("", ["n", "word"], rows).splitlines() == [
        "|  | n | word |", "| --- | ---: | ---: |", "| a | 1.00 | x |", "| longer | 10.00 | yy |"]


@pytest.mark.parametrize("value, form, text", [
    (1.234, ".1f", "1.2"), (None, ".1f", "-"), ("as is", ".1f", "as is"), (12345, ",", "12,345"),
    (0.5, ".0%", "50%")])
def test_a_value_as_text(value, form, text):
    assert formatted(value, form) == text
