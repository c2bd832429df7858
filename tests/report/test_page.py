"""cscm77/report/page.py: what is on a page; test_browser.py looks at one without a network."""

import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cscm77.__main__ import NOTEBOOKS
from cscm77.report.page import page_of


def read(text, *outputs):
    """The page of one cell of text and some outputs, taken apart, and what it says of formulas."""
    shown = [new_output("display_data", data={"text/plain": "-", **data}) for data in outputs]
    html, said = page_of(new_notebook(cells=[new_markdown_cell(text),
                                             new_code_cell("", outputs=shown)]))
    return BeautifulSoup(html, "html.parser").main, said


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_notebook_becomes_a_page_that_fetches_nothing_and_has_every_formula(path):
    notebook = nbformat.read(path, as_version=4)
    html, said = page_of(notebook)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    formulas = re.findall(r"(\$\$?)[^$]+\1", re.sub(r"`.*?`", "", text))
    page = BeautifulSoup(html, "html.parser")
    assert said is None and len(page.find_all("math")) == len(formulas) > 20
    assert len(page.find_all("math", display="block")) == formulas.count("$$") > 1
    assert page.find_all(["script", "link", "iframe"]) == [] and "\\" not in "".join(
        formula.get_text() for formula in page.find_all("math"))
    assert all(tag["src"].startswith("data:") for tag in page.find_all(src=True))
    assert not re.search(r"@import|url\(\W?http", "".join(map(str, page.find_all("style"))))


def test_code_and_amounts_are_no_formulas():
    text = "It costs $5 or $6, US$7-$8 and \\$9; `$x$`, and `a $b$ c`."
    page, said = read(f"{text} But $x_1$ is.\n\n```\n$y$\n$$z$$\n```")
    (formula,) = page.find_all("math")
    assert formula.get_text() == "x1" and said is None
    assert text.replace("\\", "").replace("`", "") in page.get_text()
    assert [code.get_text() for code in page("code")] == ["$x$", "a $b$ c", "$y$\n$$z$$\n"]


def test_formulas_stand_in_headings_tables_environments_and_outputs():
    page, said = read("# On $a$\n\n| $b$ |\n|--|\n| 1 |\n\n\\begin{align*} c &= d \\end{align*}",
                      {"text/latex": r"$\displaystyle e$"}, {"text/markdown": "$$f$$"})
    found = [formula.get_text() for formula in page.find_all("math")]
    assert found == ["a", "b", "c=d", "e", "f"] and said is None
    assert page.h1.math and page.th.math


def test_code_that_jupyterlab_folds_is_folded_and_shows_what_it_printed():
    hidden = new_code_cell("x = 1", metadata={"jupyter": {"source_hidden": True}},
                           outputs=[new_output("stream", text="one")])
    html, _ = page_of(new_notebook(cells=[hidden, new_code_cell("y = 2")]))
    page = BeautifulSoup(html, "html.parser").main
    (folded,) = page("details")
    assert folded.extract().get_text().split() == ["code", "x", "=", "1"]
    assert [shown.get_text().strip() for shown in page("pre")] == ["one", "y = 2"]


def test_functions_and_signs_have_the_spaces_of_a_printed_formula():
    page, _ = read(r"$x = -\log x - \log(x)$")
    log, minus = page.find("mo", string="log"), page.find("mo", form="prefix")
    assert (log["rspace"], minus.get_text()) == (".17em", "\u2212")
    assert page.find("mi", string="log") and page.find("mo", form=None, string="\u2212")


@pytest.mark.parametrize("tex", [r"\nonsense x", r"\frac{"])
def test_a_formula_that_cannot_be_read_stays_tex(tex):
    page, said = read(f"Look: ${tex}$, $x$, ${tex}$\n\n$$ {tex} $$")
    assert f"Look: ${tex}$, x, ${tex}$" in page.get_text() and f"$$ {tex} $$" in page.get_text()
    assert said == ("Formulas stay TeX in the HTML: "
                    f"latex2mathml cannot read ${tex}$, latex2mathml cannot read $ {tex} $")


def test_pictures_pasted_into_a_cell_are_shown():
    cell = new_markdown_cell("![x](attachment:x.png)", attachments={"x.png": {"image/png": "AA=="}})
    assert 'src="data:image/png;base64,AA=="' in page_of(new_notebook(cells=[cell]))[0]
