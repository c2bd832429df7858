"""The four-page report: report.typ, set in type by typst from the results of a run.

The template looks every number up in metrics.json, comparison.json and study.json, and names one
that is missing. The size of type is the largest that leaves four pages.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from cscm77.files import reason_of, write_whole

ROOM = Path(__file__).resolve().parent
RESULTS = ROOM.parent.parent / "results"
STUDIES = ROOM.parent / "studies"
PAGES = 4
TYPE_SIZES = [size / 10 for size in range(101, 79, -1)]  # points
MAKERS = {"metrics.json": "python -m cscm77",
          "comparison.json": "python -m cscm77.studies.comparison",
          "study.json": "python -m cscm77.studies.choices"}


class ReportError(Exception):
    """The report cannot be made; says what was expected, and what was found."""


def make_report(results, studies=STUDIES):
    """The bytes of a PDF, from the folders of results and studies; else a `ReportError`."""
    files = [ROOM / "report.typ", ROOM / "references.bib", Path(results) / "metrics.json",
             Path(studies) / "comparison.json", Path(studies) / "study.json"]
    with TemporaryDirectory() as folder:  # typst reads what lies in one folder
        for path in [*files, *Path(results).glob("print/*.pdf")]:
            copy = Path(folder, "print" if path.suffix == ".pdf" else "", path.name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(_read(path))
        main = Path(folder, "report.typ")
        for size in TYPE_SIZES:
            pages = json.loads(_ask_typst("query", main, size, "<pages>", field="value", one=True))
            if pages == PAGES:
                return _ask_typst("compile", main, size)
    raise ReportError(f"report.typ: expected {PAGES} pages, found {pages} in {size} point type")


def _read(path):
    """What a file of the report holds; JSON is looked at, so that a damaged file has a name."""
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        return data
    except OSError as error:
        raise ReportError(f"{path.name}: expected it in {path.parent}, found: {reason_of(error)}"
                          f"; {MAKERS.get(path.name, 'the package')} makes it") from None
    except ValueError as error:
        raise ReportError(f"{path.name}: expected JSON, found a damaged file ({error})") from None


def _ask_typst(function, main, size, *arguments, **options):
    try:
        import typst

        return getattr(typst, function)(main, *arguments, sys_inputs={"size": str(size)},
                                        ignore_system_fonts=True, **options)
    except ImportError:
        raise ReportError("typst is missing; the report needs it: pip install typst") from None
    except RuntimeError as error:
        reason = str(error).partition("panicked with: ")[2] or f"report.typ: {error}"
        absent = re.search(r"file not found \(searched at .*?(print/[^)]+)\)", reason)
        raise ReportError(f"{absent[1]}: expected a figure of the run, found no such file"
                          if absent else reason) from None


def write_report(results, output=None):
    """Write the report of a folder of results, print where it is or why not; an exit status."""
    path = Path(output or Path(results) / "report.pdf")
    try:
        write_whole(path, make_report(results))
    except (ReportError, OSError) as error:
        print(f"{path.name} was not written: {reason_of(error)}", file=sys.stderr)
        return 1
    print(f"The report is {path}")
    return 0


def parse(arguments=None):
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m cscm77.report", description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS, metavar="DIR",
                        help="the folder of a run's results (results/ beside the notebooks)")
    parser.add_argument("--output", type=Path, metavar="FILE.pdf",
                        help="where the report goes (report.pdf in that folder)")
    return parser.parse_args(arguments)
