"""Tables of text: aligned for a notebook or a terminal, or in Markdown for a report."""


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
