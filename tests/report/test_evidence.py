"""cscm77/report/evidence.py: what a report finds in the results, shared by two notebooks."""

import json
import math
import re

import matplotlib.pyplot as plt
import pytest
import torch

from cscm77.report import evidence as module
from cscm77.report.evidence import (
    Evidence,
    Page,
    apart,
    as_html,
    as_markdown,
    as_text,
    contrast,
    gap,
    mean_and_sd,
)
from cscm77.report.pictures import draw_digits, plot_confusion, plot_gan_training
from cscm77.training.journal import GANHistory

COLUMNS = {"-ELBO": ".2f", "images": ",", "right": ".0%", "note": ".1f"}


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
                   {"VAE": (torch.tensor(102.834), 10000, 0.5, "as is"),
                    "yardstick": (None, 5, None, "")})
    assert capsys.readouterr().out.splitlines() == [
        "on 10,000 test images", "MNIST, 55,000 training images, seed 0",
        "            -ELBO  images  right   note", "VAE        102.83  10,000    50%  as is",
        "yardstick       -       5      -"]
    numbers, page = kept(tmp_path / "results")
    assert numbers["VAE"]["made from"] == "MNIST, 55,000 training images, seed 0"
    assert numbers["VAE"]["tables"]["elbo"]["rows"] == {
        "VAE": [pytest.approx(102.834), 10000, 0.5, "as is"], "yardstick": [None, 5, None, ""]}
    assert "| VAE | 102.83 | 10,000 | 50% | as is |" in page
    assert "**on 10,000 test images; MNIST, 55,000 training images, seed 0**" in page


def test_a_figure_is_shown_over_its_title_freed_and_kept(tmp_path, evidence, capsys):
    evidence.figure("curves", plt.figure(figsize=(2, 1)), "losses by step")
    assert capsys.readouterr().out == "\nlosses by step; MNIST\n" and plt.get_fignums() == []
    height, width, _ = plt.imread(tmp_path / "figures" / "curves.png").shape
    assert (height, width) == (module.PRINT_RESOLUTION, 2 * module.PRINT_RESOLUTION)
    assert (tmp_path / "figures" / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "![losses by step](figures/curves.png)" in kept(tmp_path)[1]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"curves.pdf", "curves.png"}


def test_what_is_not_to_be_shown_is_kept_alone(tmp_path, evidence, capsys):
    evidence.table("t", "title", {"n": ""}, {"a": [1]}, shown=False)
    evidence.figure("f", plt.figure(), "a figure", shown=False)
    assert capsys.readouterr().out == "" and plt.get_fignums() == []
    assert set(kept(tmp_path)[0]["VAE"]["tables"]) == {"t"}


def test_sentences_and_text_are_shown_and_kept(tmp_path, evidence, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(module, "display", shown.append)
    evidence.say("answers", "**Why?** 0.5")
    assert shown[0]._repr_markdown_() == repr(shown[0]) == "**Why?** 0.5"
    evidence.listing("study", "MNIST, 10 epochs\na  1\nb  2")
    assert capsys.readouterr().out == "MNIST, 10 epochs\na  1\nb  2\n"
    numbers, page = kept(tmp_path)
    assert numbers["VAE"]["listings"]["study"].endswith("b  2")
    assert "```\nMNIST, 10 epochs\na  1\nb  2\n```" in page and "**Why?** 0.5\n" in page


def test_a_page_shows_its_lines_and_tables_as_html_and_is_their_text():
    page = Page("a < b", "made", ("", ["n"], {"r": ["1"]}), "note")
    assert page == repr(page) == "a < b\nmade\n   n\nr  1\nnote"
    html = page._repr_html_()
    assert html.startswith("<b>a &lt; b</b><div><small>made</small></div><table>")
    assert "<summary>a &lt; b</summary>" in Page("a < b", "more", folded=True)._repr_html_()
    table = ("size", ["n"], {"r": ["1"]})
    assert "<summary>size: made</summary>" in Page("made", table, folded=True)._repr_html_()
    assert html.count("<tr>") == 2 and html.endswith("<div><small>note</small></div>")


def test_the_best_number_of_a_column_is_bold_and_its_head_has_the_unit():
    html = as_html("", ["-ELBO", "coverage", "parameters"], {
        "VAE": ["102.8 ± 0.1", "55%", "1,000"], "CVAE": ["99.0 ± 0.3", "7%", "20"],
        "training images": ["1.0", "99%", "-"], "none": ["-", "-", "-"]})
    assert set(re.findall("<b>(.*?)</b>", html)) == {"99.0 ± 0.3", "55%"}
    assert "-ELBO<br><small>nats \u2193</small>" in html
    assert "<b>" not in as_html("", ["-ELBO"], {"training images": ["1.0"]})


@pytest.mark.parametrize("first, second, words", [
    ([1.0, 2.0], [3.0, 4.0], "1.5 ± 0.7 against 3.5 ± 0.7: lower with every seed"),
    ([5.0, 6.0], [3.0, 4.0], "5.5 ± 0.7 against 3.5 ± 0.7: higher with every seed"),
    ([1.0, 3.5], [3.0, 4.0],
     "2.2 ± 1.8 against 3.5 ± 0.7: within the spread over seeds, so nothing was shown")])
def test_what_two_rows_show_is_said_only_where_every_seed_says_it(first, second, words):
    assert contrast(first, second) == words
    assert contrast([1.0, 3.5], [2.0, 4.0], paired=True).endswith("lower with every seed")
    assert contrast([1.0, 3.5], [0.0, 3.0], paired=True).endswith("higher with every seed")
    assert gap(first[0], second[0]).endswith("below" if first[0] < second[0] else "above")


@pytest.mark.parametrize("seeds, side", [
    ([3.0, 2.0], 0), ([1.9, 1.8], -1), ([5.1, 9.0], 1), ([1.9], 0), ([-1.1], -1), ([7.9], 0),
    ([8.1], 1)])
def test_one_seed_is_apart_only_where_it_is_further_off_than_ours_are_wide(seeds, side):
    assert apart(seeds, [2.0, 5.0, 3.0]) == side


def test_numbers_of_seeds_are_their_mean_and_their_sd_where_there_is_one():
    assert mean_and_sd([1.0, 3.0]) == "2.0 ± 1.4"
    assert [mean_and_sd(numbers) for numbers in ([2.0], [2.0, 2.0], [])] == ["2.0", "2.0", "-"]
    assert mean_and_sd([1234, 1234], ",") == "1,234"


def test_the_source_of_a_function_is_shown_without_its_docstring(capsys):
    module.show_source(gap, as_text)
    shown = capsys.readouterr().out
    assert shown.startswith("def gap(first, second") and "def as_text(corner, " in shown
    assert "How far" not in shown and "return f" in shown


def printed(folder, name):
    """Width and height in inches, and all the bytes, of a figure for print."""
    pdf = (folder / "print" / f"{name}.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf)
    return float(box[1]) / 72, float(box[2]) / 72, pdf


def test_a_figure_is_saved_a_second_time_as_a_page_takes_it(tmp_path, evidence):
    with plt.rc_context({"pdf.compression": 0}):  # so that what is drawn can be read
        evidence.figure("matrix", plot_confusion(torch.eye(10), title="a title"), "asked, read")
        history = GANHistory(torch.rand(300), torch.rand(300))
        evidence.figure("curves", plot_gan_training(
            {name: history for name in ("FC-GAN", "LS-GAN", "DC-GAN")}, "a title"), "losses")
    width, _, pdf = printed(tmp_path, "matrix")
    assert width == pytest.approx(module.COLUMN, abs=0.01)
    assert b"/Type0" in pdf and b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType
    assert {float(size) for size in re.findall(rb"/F\d+ ([\d.]+) Tf", pdf)} == {module.PRINT_TYPE}
    width, height, pdf = printed(tmp_path, "curves")
    assert width == pytest.approx(module.PAGE, abs=0.01) and 1.5 < height < 3
    assert {float(size) for size in re.findall(rb"/F\d+ ([\d.]+) Tf", pdf)} == {module.PRINT_TYPE}


def test_a_grid_for_print_is_its_digits_alone_in_300_dots_an_inch(tmp_path, evidence):
    figure = draw_digits(torch.rand(20, 784), columns=10, title="a title")
    with plt.rc_context({"pdf.compression": 0}):
        evidence.figure("grid", figure, "noise")
    width, height, pdf = printed(tmp_path, "grid")
    assert (width, height) == pytest.approx((module.COLUMN, module.COLUMN * 62 / 302), abs=0.01)
    pixels = max(int(number) for number in re.findall(rb"/Width (\d+)", pdf))
    assert pixels == pytest.approx(module.COLUMN * module.PRINT_RESOLUTION, abs=2)
    assert b" Tf" not in pdf


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
    with pytest.raises(ValueError, match="a: expected 1 values, found 2"):
        evidence.table("t", "title", {"n": ""}, {"a": [1, 2]})
    for bad in (math.nan, torch.tensor(math.inf)):
        with pytest.raises(ValueError, match="a: expected finite numbers"):
            evidence.table("t", "title", {"n": ".2f"}, {"a": [bad]})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_once_and_the_table_is_shown(
        tmp_path, evidence, capsys, full_disk):
    for _ in range(2):
        evidence.table("t", "title", {"n": ""}, {"a": [1]})
        evidence.figure("f", plt.figure(), "title")
    printed = capsys.readouterr().out
    assert printed.count("metrics.json was not written: No space left on device\n") == 1
    assert printed.count("was not written") == 1 and printed.count("title\nMNIST") == 2
    assert {path.name for path in tmp_path.rglob("*")} == {"figures", "print"}


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
