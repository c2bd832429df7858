"""The tables and figures of a notebook, shown and kept: what a report is written from.

metrics.json and evidence.md say what each was made from: data, images, epochs, seed. print/ has the
figures as a page takes them: as wide as a column or a page, in one size of type, without a title.
"""

import inspect
import json
import math
from html import escape
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.text import Text

from cscm77.files import reason_of, write_whole
from cscm77.report.pictures import figure_bytes, show_and_close

UNITS = {title: unit for unit, titles in {  # an arrow says which numbers are better
    "nats ↓": "-ELBO; K = 10; K = 100; 100 samples; last weights; averaged",
    "nats": "reconstruction; KL; training",
    "↓": "Frechet distance; Frechet; Frechet, last weights; kernel distance; kernel; off uniform",
    "↑": "score; coverage; as asked; as asked for; averaged, as asked; rarest digit",
}.items() for title in titles.split("; ")}  # under the head of a column
YARDSTICKS = {"training images", "mean training image", "perfect reconstruction"}  # win nothing
CELL, WORDS = "padding: 1px 8px", "; text-align: left"  # of a table's HTML
PRINT_RESOLUTION = 300  # dots an inch
COLUMN, PAGE = 3.3, 7  # inches that a printed figure is wide
WIDE = 6.5  # inches: what is wider on the screen takes a page's width
PRINT_TYPE, LEAST_HEIGHT = 8, 2.0  # points; inches of a chart


class Evidence:
    """What one notebook found, and from what; the other's part of the files stays as it is."""

    def __init__(self, folder, notebook, made_from):
        self.folder, self.notebook, self.made_from = Path(folder), notebook, made_from
        self._kept = {"tables": {}, "listings": {}, "prose": {}, "figures": {}}
        self._warned = False

    def table(self, name, title, columns, rows, shown=True, folded=False):
        """Show a table, and keep its numbers; the same name again replaces it.

        Its columns are {title: format specification}, its rows {name: values}: finite numbers, text
        or None, one for each column. Folded, a page shows its title, which opens the rest.
        """
        rows = {row: [value.item() if hasattr(value, "item") else value for value in values]
                for row, values in rows.items()}
        for row, values in rows.items():
            if len(values) != len(columns):
                raise ValueError(f"{row}: expected {len(columns)} values, found {len(values)}")
            if not all(math.isfinite(value) for value in values if isinstance(value, float)):
                raise ValueError(f"{row}: expected finite numbers, found {values}")
        if shown:
            display(Page(title, self.made_from, ("", columns, _formatted(columns, rows)),
                         folded=folded))
        self._write("tables", name, {"title": title, "columns": dict(columns), "rows": rows})

    def listing(self, name, text, folded=False):
        """Show lines of text or a `Page`, which say what they were made from, and keep them."""
        display(Page(*text.parts, folded=folded)) if isinstance(text, Page) else print(text)
        self._write("listings", name, text)

    def say(self, name, text):
        """Show sentences in Markdown, with the numbers of this run in them, and keep them."""
        display(Prose(text))
        self._write("prose", name, text)

    def figure(self, name, figure, title, shown=True):
        """Keep a figure as PNG and PDF, show it over its title, and free it, changed for print."""
        for ending in ("png", "pdf"):
            self._keep(f"figures/{name}.{ending}", figure_bytes(figure, ending, PRINT_RESOLUTION))
        show_and_close(figure, shown)
        if shown:
            display(Page("", f"{title}; {self.made_from}"))
        _set_for_print(figure)
        with plt.rc_context({"pdf.fonttype": 42}):  # TrueType
            self._keep(f"print/{name}.pdf", figure_bytes(figure, "pdf", PRINT_RESOLUTION))
        self._write("figures", name, title)

    def _write(self, kind, name, found):
        self._kept[kind][name] = found
        mine = {self.notebook: {"made from": self.made_from, **self._kept}}
        parts = dict(sorted((_read(self.folder / "metrics.json") | mine).items()))
        self._keep("metrics.json", json.dumps(parts, indent=1, allow_nan=False) + "\n")
        self._keep("evidence.md", report(parts))

    def _keep(self, name, data):
        try:
            write_whole(self.folder / name, data)
        except OSError as error:
            if not self._warned:  # once is enough
                print(f"{Path(name).name} was not written: {reason_of(error)}")
            self._warned = True


def _set_for_print(figure):
    """Make a figure what a page takes; a grid of digits is as square as they are, and fills it."""
    for text in figure.findobj(Text):
        text.set_fontsize(PRINT_TYPE)
    (width, height), axes = figure.get_size_inches(), figure.axes
    for title in [*figure.texts, *(ax.title for ax in axes if len(axes) == 1)]:
        title.set(visible=False, in_layout=False)
    scaled = PAGE if width > WIDE else COLUMN
    size = scaled, max(LEAST_HEIGHT, scaled * height / width)
    if len(axes) == 1 and axes[0].images and not axes[0].axison:
        rows, columns = axes[0].images[0].get_array().shape[:2]
        left = axes[0].get_position().x0 * width  # inches, for what names the rows
        axes[0].set_position((left / scaled, 0, 1 - left / scaled, 1))
        size = scaled, (scaled - left) * rows / columns
    figure.set_size_inches(size, forward=False)  # no window is left to follow


def report(parts):
    """Everything as one Markdown page, of the parts {notebook: ...} that metrics.json has."""
    page = ["# Evidence\n\nMade by the notebooks, from the numbers in metrics.json; "
            "every run writes it anew.\n"]
    for notebook, part in parts.items():
        page.append(f"## {_literal(notebook)}\n")
        for table in part["tables"].values():
            title = _literal(f"{table['title']}; {part['made from']}")
            rows = _formatted(table["columns"], table["rows"])
            page.append(f"**{title}**\n\n{as_markdown('', table['columns'], rows)}\n")
        page += [f"```\n{text}\n```\n" for text in part["listings"].values()]
        page += [f"{text.strip()}\n" for text in part.get("prose", {}).values()]
        for name, title in part["figures"].items():
            title, made_from = _literal(title), _literal(part["made from"])
            page.append(f"![{title}](figures/{name}.png)\n\n"
                        f"{title}; {made_from}. ([PDF](figures/{name}.pdf))\n")
    return "\n".join(page)


def _read(path):
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        report(parts)  # whether it is what this module wrote
        return parts
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # begun anew
        return {}


class Page(str):
    """A title, then lines and tables, as `as_text` takes them: text, and HTML in a notebook."""

    def __new__(cls, *parts, folded=False):
        """Put the text together."""
        page = super().__new__(cls, "\n".join(part if isinstance(part, str) else as_text(*part)
                                              for part in parts))
        page.parts, page.folded = parts, folded
        return page

    __repr__ = str.__str__

    def _repr_html_(self):
        title, *others = self.parts
        html = "".join(f"<div><small>{escape(part)}</small></div>" if isinstance(part, str)
                       else as_html(*part) for part in others)
        if self.folded:
            corner = next((part[0] for part in others if not isinstance(part, str)), "")
            title = f"{corner}: {title}" if corner else title
            return f"<details><summary>{escape(title)}</summary>{html}</details>"
        return f"<b>{escape(title)}</b>" * bool(title) + html


class Prose(str):
    """Text that a notebook's page shows as Markdown."""

    __repr__ = _repr_markdown_ = str.__str__


def show_source(*functions):
    """Print functions as they are written, without their docstrings."""
    for function in functions:
        head, _, body = inspect.getsource(function).split('"""')
        print(head.rstrip() + body)


def as_text(corner, titles, rows):
    """A table of {name: values as text}: names to the left, everything else to the right."""
    lines = [(corner, *titles), *((name, *values) for name, values in rows.items())]
    width, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join("  ".join([name.ljust(width), *map(str.rjust, values, others)]).rstrip()
                     for name, *values in lines)


def as_html(corner, titles, rows):
    """The same as an HTML table: units in its head, the best number of a column in bold."""
    ranked = [values for name, values in rows.items() if name not in YARDSTICKS]
    best = [_best(title, [values[i] for values in ranked]) for i, title in enumerate(titles)]
    lines = [_html_row("th", [f"{escape(title)}<br><small>{UNITS.get(title, '')}</small>"
                              for title in (corner, *titles)])]
    for name, values in rows.items():
        lines.append(_html_row("td", [escape(name), *(
            f"<b>{escape(value)}</b>" if value == top and name not in YARDSTICKS else escape(value)
            for value, top in zip(values, best, strict=True))]))
    return f"<table>{''.join(lines)}</table>"


def _best(title, values):
    """The text of a column that has its best number; None where none is better than another."""
    better = {"↓": min, "↑": max}.get(UNITS.get(title, " ")[-1:])
    numbers = {value: float(value.split()[0].strip("%").replace(",", ""))
               for value in values if better and value != "-"}
    return better(numbers, key=numbers.get) if numbers else None


def _html_row(tag, cells):
    """A row; its name and words are set to the left, numbers stay where the page has them."""
    return "<tr>" + "".join(
        f'<{tag} style="{CELL}{WORDS * (not place or cell[:1].isalpha() and tag == "td")}">'
        f"{cell}</{tag}>" for place, cell in enumerate(cells)) + "</tr>"


def as_markdown(corner, titles, rows):
    """The same as a Markdown table."""
    lines = [(corner, *titles), ("---", *["---:"] * len(titles)),
             *((name, *values) for name, values in rows.items())]
    return "\n".join(f"| {' | '.join(map(_literal, line))} |" for line in lines)


def _literal(text):
    """Text that Markdown shows as it is: a dollar begins no formula, a bar no column."""
    return text.replace("$", r"\$").replace("|", r"\|")


def mean_and_sd(numbers, form=".1f"):
    """The mean of numbers as text, with the standard deviation where they differ; "-" of none."""
    sd = f" ± {stdev(numbers):{form}}" if len(set(numbers)) > 1 else ""
    return f"{mean(numbers):{form}}{sd}" if numbers else "-"


def contrast(first, second, form=".1f", paired=False):
    """Two rows of numbers over the same seeds in words: their means and sds, and what they show.

    Paired are numbers of one training each; others are apart where their ranges are.
    """
    means = " against ".join(mean_and_sd(row, form) for row in (first, second))
    side = (apart([a - b for a, b in zip(first, second, strict=True)], [0.0]) if paired else
            apart(first, second))
    return means + (": within the spread over seeds, so nothing was shown",
                    ": higher with every seed", ": lower with every seed")[side]


def apart(seeds, ours):
    """-1 where every seed is below all of ours, 1 where above, else 0: nothing was shown.

    One alone has to be further off than ours are from one another.
    """
    margin = (max(ours) - min(ours)) * (len(seeds) == 1)
    return (min(seeds) > max(ours) + margin) - (max(seeds) < min(ours) - margin)


def gap(first, second, form=".1f"):
    """How far one number is from another, and on which side: "0.4 below"."""
    return f"{abs(first - second):{form}} {'below' if first < second else 'above'}"


def _formatted(columns, rows):
    """The rows of a table as text: numbers in the format of their column, None as "-"."""
    def text(value, form):
        return "-" if value is None else value if isinstance(value, str) else format(value, form)

    return {name: list(map(text, values, columns.values())) for name, values in rows.items()}
