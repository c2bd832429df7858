"""A file of results that a long command adds to, one training at a time: stopped, it goes on where it stood.

It is JSON: {"provenance": {field: value}, "results": {key of a training: row}}. A row has the measures that the command
promises, or an "error" alone.
"""

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from cscm77.data.loaders import mnist_loaders
from cscm77.data.mnist import MNISTUnavailable
from cscm77.utils import processor_name, progress_bar

CHECKPOINTS = Path(__file__).resolve().parents[2] / "results" / "checkpoints"  # where the commands keep the judge
HEADLINE = {"data", "training images", "epochs"}  # what a table needs of the provenance


class ResultsError(Exception):
    """The results cannot be read, added to or written; says what was expected and what was found."""


class ResultsFile(NamedTuple):
    """What a command's file of results is called, and what every row of it has."""

    command: str  # as it is typed
    minutes: int  # that it takes, about
    measures: set


def provenance_of(loaders, epochs, batch_size):
    """Say what results are made from: whatever of this changes, their digits change."""
    digits = loaders.train.dataset
    return {"data": digits.name, "training images": len(digits), "validation images": len(loaders.val.dataset),
            "test images": len(loaders.test.dataset), "epochs": epochs, "batch": batch_size,
            "torch": torch.__version__, "processor": processor_name(digits.pixels.device),
            "threads": torch.get_num_threads()}


def run_missing(kind, path, provenance, runs, outcome, *, fresh=False):
    """Do the trainings that a file of results lacks, and write the file after each.

    Args:
        kind: the `ResultsFile`.
        path: of the file; made if it is missing.
        provenance: what the results are made from; a file that says otherwise is refused.
        runs: {key: (name, function that trains and gives the row)}.
        outcome: function of a row: what is printed of it.
        fresh: whether to begin anew; the old file is kept under its name with ".old".

    Raises:
        ResultsError: the file is damaged, or made under other conditions, or cannot be written.
    """
    results = _begin(kind, path, provenance, fresh)
    _save(path, provenance, results)  # at once, so that nothing is trained for a place that cannot be written
    missing = [key for key in runs if key not in results]
    done = len(runs) - len(missing)
    with progress_bar(len(runs), "trainings", unit="training", done=done) as bar:
        for number, key in enumerate(missing, done + 1):
            name, train = runs[key]
            bar.set_postfix_str(name)
            row = results[key] = train()
            _save(path, provenance, {k: results[k] for k in (*runs, *results) if k in results})
            bar.clear()
            print(f"{number}/{len(runs)} {name}: {outcome(row)}", flush=True)
            bar.update()


def read_results(kind, path):
    """Read a file of results.

    Args:
        kind: the `ResultsFile`.
        path: of the file.

    Raises:
        FileNotFoundError: there is none; says which command makes it.
        ResultsError: it is damaged, or something else.
    """
    path = Path(path)
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        rows = made["results"].values()
        if made["provenance"].keys() >= HEADLINE and all({"error"} <= r.keys() or kind.measures <= r.keys()
                                                         for r in rows):
            return made
        why = "entries are missing"
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected results, found no file; "
                                f"{kind.command} makes it in some {kind.minutes} minutes") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON, or another structure
        why = f"{type(error).__name__}: {error}"
    raise ResultsError(f"{path}: expected results of {kind.command}, found another or a damaged file ({why}); "
                       "the option --fresh begins anew")


def headline(made, seeds):
    """Say in a table's first line what it was made from.

    Args:
        made: of `read_results`.
        seeds: of the rows of the table.
    """
    seeds = sorted(set(seeds))
    made_from = "{data}, {training images:,} training images, {epochs} epochs".format(**made["provenance"])
    return f"{made_from}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _begin(kind, path, provenance, fresh):
    """Give the results to go on from; none where the command begins."""
    if fresh and path.exists():
        os.replace(path, path.with_name(f"{path.name}.old"))
    if not path.exists():
        return {}
    kept = read_results(kind, path)
    unlike = [f"{field}: expected {kept['provenance'].get(field)!r} as there, found {value!r}"
              for field, value in provenance.items() if kept["provenance"].get(field) != value]
    if unlike and kept["results"]:
        raise ResultsError(f"{path}: made under other conditions, so nothing is added to it ({'; '.join(unlike)}); "
                           "--fresh begins anew, --output FILE writes elsewhere")
    return kept["results"]


def _save(path, provenance, results):
    """Write under another name first, so that the file is whole at any moment."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        text = json.dumps({"provenance": provenance, "results": results}, indent=1, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            part.unlink()


# ---------------------------------------------------------------- the command


def command(kind, description, arguments, path, epochs, batch_size, run, tables):
    """Run the command line of a study; gives the exit status.

    Args:
        kind: the `ResultsFile`.
        description: a sentence.
        arguments: of the command line; those of the process when None.
        path: of the results, where the command line names none.
        epochs: of every training, where the command line names none.
        batch_size: of the training batches.
        run: function of (path, loaders, epochs, fresh=).
        tables: function of the path that gives the tables to print in the end.
    """
    options = parse(kind, description, arguments, path, epochs, batch_size)
    try:
        run(options.output, _loaders(options, batch_size), options.epochs, fresh=options.fresh)
    except KeyboardInterrupt:
        print(f"\nStopped; what is finished is kept in {options.output}, and the same command goes on from there.",
              file=sys.stderr)
        return 130
    except (ResultsError, MNISTUnavailable, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for table in tables(options.output):
        print(f"\n{table}")
    return 0


def parse(kind, description, arguments, path, epochs, batch_size):
    """Read the command line; the arguments are those of `command`."""
    duration = f"All of it takes some {kind.minutes} minutes without a GPU; started again, it trains what is missing."
    parser = argparse.ArgumentParser(prog=kind.command, description=description, epilog=duration)
    parser.add_argument("--mnist", metavar="DIR", help="folder of MNIST's files; otherwise as for the notebooks")
    parser.add_argument("--images", type=int, metavar="N", help="use only the first N images of each split")
    parser.add_argument("--epochs", type=int, default=epochs, metavar="N", help=f"of each training ({epochs})")
    parser.add_argument("--output", type=Path, default=path, metavar="FILE",
                        help=f"file of the results ({path.name} beside this module)")
    parser.add_argument("--fresh", action="store_true", help="begin anew; the old file is kept with .old at its name")
    options = parser.parse_args(arguments)
    for name, least in (("images", batch_size), ("epochs", 1)):
        number = getattr(options, name)
        if number is not None and number < least:
            parser.error(f"--{name}: expected a whole number of at least {least}, found {number}")
    return options


def _loaders(options, batch_size):
    if options.images:
        os.environ["CSCM77_IMAGES"] = str(options.images)  # the loaders' own way to be told
    try:
        return mnist_loaders(batch_size, root=options.mnist, source="mnist" if options.mnist else "auto")
    except ValueError as error:  # a setting of the environment
        raise ResultsError(str(error)) from None
