"""The tables and figures of a notebook, kept for a report, and tables as lines of text.

metrics.json, evidence.md and figures/ in the results say of each table and figure what it was made
from: data, number of images, epochs, seed. print/ has each figure a second time, as a page takes
it: as wide as a column or a page, in type of one size, without a title of its own.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.text import Text

from cscm77.files import reason_of, write_whole
from cscm77.report.pictures import figure_bytes

PRINT_RESOLUTION = 300  # dots an inch
COLUMN, PAGE = 3.3, 7  # inches that a printed figure is wide
WIDE = 6.5  # inches: what is wider on the screen takes a page's width
PRINT_TYPE, LEAST_HEIGHT = 8, 2.0  # points; inches of a chart
TITLE = """# Evidence

Made by the notebooks, from the numbers in metrics.json; every run writes it anew.
"""


class Evidence:
    """What one notebook found; the other's part of the files is left as it is.

    What it was `made_from` are the data, the number of training images, and the seed.
    """

    def __init__(self, folder, notebook, made_from):
        self.folder, self.notebook, self.made_from = Path(folder), notebook, made_from
        self._tables, self._listings, self._figures = {}, {}, {}
        self._warned = False

    def table(self, name, title, columns, rows):
        """Print a table, and keep its numbers; the same name again replaces it.

        Args:
            name: in metrics.json.
            title: what it shows, on which images, after how many epochs.
            columns: {title: format specification}.
            rows: {name: values}: finite numbers, text or None, one for each column.
        """
        rows = {row: [_plain(value) for value in values] for row, values in rows.items()}
        if any(len(values) != len(columns) for values in rows.values()):
            raise ValueError(f"rows: expected {len(columns)} values in each, "
                             f"found {[len(values) for values in rows.values()]}")
        self._tables[name] = {"title": title, "columns": dict(columns), "rows": rows}
        print(f"{title}; {self.made_from}\n\n{as_text('', columns, _formatted(columns, rows))}")
        self._write()

    def listing(self, name, text):
        """Print lines of text that say themselves what they were made from, and keep them."""
        self._listings[name] = text
        print(text)
        self._write()

    def figure(self, name, figure, title):
        """Keep a figure, which stays open as it is, as PNG, as PDF, and as PDF for print.

        Its title says what it shows, on which images, after how many epochs.
        """
        self._figures[name] = title
        for ending in ("png", "pdf"):
            self._keep(f"figures/{name}.{ending}", figure_bytes(figure, ending, PRINT_RESOLUTION))
        with _for_print(figure):
            self._keep(f"print/{name}.pdf", figure_bytes(figure, "pdf", PRINT_RESOLUTION))
        self._write()

    def _write(self):
        parts = _read(self.folder / "metrics.json")
        parts[self.notebook] = {"made from": self.made_from, "tables": self._tables,
                                "listings": self._listings, "figures": self._figures}
        parts = dict(sorted(parts.items()))
        self._keep("metrics.json", json.dumps(parts, indent=1, allow_nan=False) + "\n")
        self._keep("evidence.md", report(parts))

    def _keep(self, name, data):
        """Write a file of the results; why one could not be written is said once."""
        try:
            write_whole(self.folder / name, data)
        except OSError as error:
            if not self._warned:
                print(f"{Path(name).name} was not written: {reason_of(error)}")
            self._warned = True


@contextmanager
def _for_print(figure):
    """A figure as a printed page takes it, with its fonts as TrueType; put back at the end."""
    before = []

    def change(artist, **properties):
        before.append((artist, {name: plt.getp(artist, name) for name in properties}))
        artist.set(**properties)

    try:
        for text in figure.findobj(Text):
            change(text, fontsize=PRINT_TYPE)
        titles = [axes.title for axes in figure.axes] if len(figure.axes) == 1 else []
        for title in [*figure.texts, *titles]:
            change(title, visible=False, in_layout=False)
        size, grid = _print_size(figure)
        if grid:  # fills the figure, when the title is gone
            change(figure.axes[0], position=grid)
        change(figure, size_inches=size)
        with plt.rc_context({"pdf.fonttype": 42}):
            yield
    finally:
        for artist, properties in reversed(before):
            artist.set(**properties)


def _print_size(figure):
    """Width and height in inches; of a grid of digits, as square as they are, its place, too."""
    (width, height), axes = figure.get_size_inches(), figure.axes
    scaled = PAGE if width > WIDE else COLUMN
    if len(axes) == 1 and axes[0].images and not axes[0].axison:
        rows, columns = axes[0].images[0].get_array().shape[:2]
        left = axes[0].get_position().x0 * width  # inches, for what names the rows
        place = (left / scaled, 0, 1 - left / scaled, 1)
        return (scaled, (scaled - left) * rows / columns), place
    return (scaled, max(LEAST_HEIGHT, scaled * height / width)), None


def report(parts):
    """Everything as one Markdown page, of the parts {notebook: ...} that metrics.json has."""
    page = [TITLE]
    for notebook, part in parts.items():
        page.append(f"## {_literal(notebook)}\n")
        for table in part["tables"].values():
            title = _literal(f"{table['title']}; {part['made from']}")
            rows = _formatted(table["columns"], table["rows"])
            page.append(f"**{title}**\n\n{as_markdown('', table['columns'], rows)}\n")
        page += [f"```\n{text}\n```\n" for text in part["listings"].values()]
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


def _plain(value):
    """A number of torch as Python's; nan and infinity have no place in a report."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"values: expected finite numbers, found {value}")
    return value


# ---------------------------------------------------------------- tables of text


def as_text(corner, titles, rows):
    """A table of {name: values as text}: names to the left, everything else to the right."""
    lines = [(corner, *titles), *((name, *values) for name, values in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([name.ljust(widths[0]),
                                *map(str.rjust, values, widths[1:])]).rstrip()
                     for name, *values in lines)


def as_markdown(corner, titles, rows):
    """The same as a Markdown table."""
    lines = [(corner, *titles), ("---", *["---:"] * len(titles)),
             *((name, *values) for name, values in rows.items())]
    return "\n".join(f"| {' | '.join(map(_literal, line))} |" for line in lines)


def _literal(text):
    """Text that Markdown shows as it is: a dollar begins no formula, a bar no column."""
    return text.replace("$", r"\$").replace("|", r"\|")


def formatted(value, form):
    """A number as text, by a format specification; text stays as it is, None becomes "-"."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, form)


def _formatted(columns, rows):
    return {name: list(map(formatted, values, columns.values())) for name, values in rows.items()}
