"""The report from a terminal: python -m cscm77.report."""

import sys

from cscm77.report.paper import parse, write_report

if __name__ == "__main__":
    sys.exit(write_report(**vars(parse())))
