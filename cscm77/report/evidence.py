"""The tables and figures of a notebook, kept for a report: metrics.json, evidence.md and figures/ in the results.

Each says what it was made from: data, number of images, epochs, seed.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

PRINT_RESOLUTION = 300  # dots an inch
TITLE = "# Evidence\n\nMade by the notebooks, from the numbers in metrics.json; every run writes it anew.\n"


class Evidence:
    """What one notebook found; the other's part of the files is left as it is.

    Args:
        folder: of the results; made if it is missing.
        notebook: name of the part, for example "VAE".
        made_from: data, number of training images and seed.
    """

    def __init__(self, folder, notebook, made_from):
        self.folder, self.notebook, self.made_from = Path(folder), notebook, made_from
        self._tables, self._listings, self._figures = {}, {}, {}
        self._warned = False

    def table(self, name, title, columns, rows):
        """Print a table, and keep its numbers.

        Args:
            name: in metrics.json; the same name again replaces the table.
            title: what it shows, on which images, after how many epochs.
            columns: {title: format specification}.
            rows: {name: values}, numbers, text or None.
        """
        plain = {row: [_plain(value) for value in values] for row, values in rows.items()}
        if any(len(values) != len(columns) for values in plain.values()):
            raise ValueError(f"rows: expected {len(columns)} values in each, found {[len(v) for v in plain.values()]}")
        self._tables[name] = {"title": title, "columns": dict(columns), "rows": plain}
        print(f"{title}; {self.made_from}\n\n{as_text('', columns, _cells(columns, plain))}")
        self._write()

    def listing(self, name, text):
        """Print a table that is text already and says itself what it was made from, and keep it.

        Args:
            name: in metrics.json; the same name again replaces the text.
            text: lines.
        """
        self._listings[name] = text
        print(text)
        self._write()

    def figure(self, name, figure, title):
        """Keep a figure, as PNG at print resolution and as PDF.

        Args:
            name: of the files, without an ending.
            figure: of matplotlib; it stays open.
            title: what it shows, on which images, after how many epochs.
        """
        self._figures[name] = title
        for ending in ("png", "pdf"):
            self._try(lambda path: figure.savefig(path, dpi=PRINT_RESOLUTION), "figures", f"{name}.{ending}")
        self._write()

    def _write(self):
        parts = _read(self.folder / "metrics.json")
        parts[self.notebook] = {"made from": self.made_from, "tables": self._tables,
                                "listings": self._listings, "figures": self._figures}
        parts = dict(sorted(parts.items()))
        text = json.dumps(parts, indent=1, allow_nan=False) + "\n"
        self._try(lambda path: path.write_text(text, encoding="utf-8"), "", "metrics.json")
        self._try(lambda path: path.write_text(report(parts), encoding="utf-8"), "", "evidence.md")

    def _try(self, write, folder, name):
        """Write a file under another name first, so that it is whole at any moment; a failure is said once."""
        target = self.folder / folder / name
        part = target.with_name(f".{os.getpid()}.{name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(part)
            os.replace(part, target)
        except OSError as reason:
            if not self._warned:
                print(f"{name} was not written: {reason.strerror or reason}")
            self._warned = True
            with suppress(OSError):
                part.unlink()


def report(parts):
    """Give everything as one Markdown page.

    Args:
        parts: {notebook: {"made from", "tables", "listings", "figures"}}, as metrics.json holds them.
    """
    page = [TITLE]
    for notebook, part in parts.items():
        made_from = part["made from"]
        page.append(f"## {notebook}\n")
        for table in part["tables"].values():
            cells = _cells(table["columns"], table["rows"])
            page.append(f"**{table['title']}; {made_from}**\n\n{as_markdown('', table['columns'], cells)}\n")
        page += [f"```\n{text}\n```\n" for text in part["listings"].values()]
        page += [f"![{title}](figures/{name}.png)\n\n{title}; {made_from}. ([PDF](figures/{name}.pdf))\n"
                 for name, title in part["figures"].items()]
    return "\n".join(page)


def _read(path):
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
        report(parts)  # whether it is what this module wrote
        return parts
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or not readable: begun anew
        return {}


def _cells(columns, rows):
    return {name: [cell(value, form) for value, form in zip(values, columns.values(), strict=True)]
            for name, values in rows.items()}


def _plain(value):
    """Give a number of torch as Python's; nan and infinity have no place in a report."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"values: expected finite numbers, found {value}")
    return value


# ---------------------------------------------------------------- tables of text


def as_text(corner, titles, rows):
    """Align a table: names to the left, everything else to the right.

    Args:
        corner: what stands above the names.
        titles: of the columns.
        rows: {name: cells of text}.

    Returns:
        Lines joined by line ends.
    """
    lines = [(corner, *titles), *((name, *cells) for name, cells in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
                     for name, *cells in lines)


def as_markdown(corner, titles, rows):
    """Give the same as a Markdown table."""
    lines = [(corner, *titles), ("---", *["---:"] * len(titles)), *((name, *cells) for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value, form):
    """Give a value as text.

    Args:
        value: a number, text, or None.
        form: a format specification; text, and None ("-"), need none.
    """
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, form)
