"""A file of results that a long command adds to, one training at a time, and its command line.

Stopped, the command goes on where it stood. The file is JSON: {"provenance": {field: value},
"results": {name of a training: row}}. A row has the measures that the command promises, or an
"error" alone.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from cscm77.checks import check_whole
from cscm77.data.loaders import mnist_loaders
from cscm77.data.mnist import MNISTUnavailable
from cscm77.files import beside, reason_of, remove_unfinished, write_whole
from cscm77.utils import printable_output, processor_name, progress_bar

CHECKPOINTS = Path(__file__).resolve().parents[2] / "results" / "checkpoints"  # of the judge
MADE_FROM = {"data", "training images", "epochs"}  # what a table needs of the provenance
SEED = re.compile(r", seed \d+$")  # what ends the names of trainings of one model


class ResultsError(Exception):
    """A long command cannot go on; says what was expected, and what was found."""


class Study(NamedTuple):
    """A long command, and what it trains."""

    command: str  # as it is typed
    minutes: int  # that it takes, about
    measures: set  # what every row of its results has
    path: Path  # of its results, where the command line names no other
    epochs: int  # of a training, where the command line says no other
    batch_size: int


def provenance_of(loaders, epochs, batch_size):
    """What results are made from: whatever of this changes, their digits change."""
    digits = loaders.train.dataset
    return {"data": digits.name, "training images": len(digits),
            "validation images": len(loaders.val.dataset),
            "test images": len(loaders.test.dataset), "epochs": epochs, "batch": batch_size,
            "torch": torch.__version__, "processor": processor_name(digits.pixels.device),
            "threads": torch.get_num_threads()}


def train_missing(study, path, provenance, trainings, summary, *, fresh=False, again=()):
    """Do the trainings that a file of results lacks, and write the file after each.

    Args:
        study: the `Study`.
        path: of the file; made if it is missing.
        provenance: what the results are made from; a file that says otherwise is refused.
        trainings: {name: (title, function that trains and returns the row)}.
        summary: function of a row: what is printed of it.
        fresh: whether to begin anew; the old file is kept under its name with ".old".
        again: names of trainings, with or without their seed, whose rows are dropped and made
            anew; the old file is kept likewise.

    Raises:
        ResultsError: the file is damaged, or made under other conditions, or cannot be written, or
            there is no training of a name in `again`.
    """
    path = Path(path)
    dropped = _trainings_named(again, trainings)
    results = {} if fresh else _kept_results(study, path, provenance)
    if (fresh or dropped) and path.exists():
        write_whole(beside(path, ".old"), path.read_bytes())
    results = {name: row for name, row in results.items() if name not in dropped}
    remove_unfinished(path)
    _save(path, provenance, results)  # at once: nothing is trained for an unwritable place
    missing = [name for name in trainings if name not in results]
    done = len(trainings) - len(missing)
    with progress_bar(len(trainings), "trainings", unit="training", done=done) as bar:
        for number, name in enumerate(missing, done + 1):
            title, train = trainings[name]
            bar.set_postfix_str(title)
            row = results[name] = train()
            in_order = (name for name in (*trainings, *results) if name in results)
            _save(path, provenance, {name: results[name] for name in in_order})
            bar.clear()
            print(f"{number}/{len(trainings)} {title}: {summary(row)}", flush=True)
            bar.update()


def read_results(study, path):
    """Read a file of results.

    Args:
        study: the `Study`.
        path: of the file.

    Raises:
        FileNotFoundError: there is none; says which command makes it.
        ResultsError: it is damaged, or something else.
    """
    path = Path(path)
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        rows = made["results"].values()
        if made["provenance"].keys() >= MADE_FROM and all(
                {"error"} <= row.keys() or study.measures <= row.keys() for row in rows):
            return made
        reason = "entries are missing"
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected results, found no file; {study.command} "
                                f"makes it in some {study.minutes} minutes") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON, or not ours
        reason = f"{type(error).__name__}: {error}"
    raise ResultsError(f"{path}: expected results of {study.command}, found another or a damaged "
                       f"file ({reason}); the option --fresh begins anew")


def made_from(made, seeds):
    """What a table was made from, as its first line says it.

    Args:
        made: of `read_results`.
        seeds: of the rows of the table.
    """
    seeds = sorted(set(seeds))
    data = "{data}, {training images:,} training images, {epochs} epochs"
    return (data.format(**made["provenance"])
            + f", seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")


def _kept_results(study, path, provenance):
    """The results to go on from; none where the command begins."""
    if not path.exists():
        return {}
    made = read_results(study, path)
    there = made["provenance"]
    unlike = [f"{field}: expected {there.get(field)!r} as there, found {value!r}"
              for field, value in provenance.items() if there.get(field) != value]
    if unlike and made["results"]:
        raise ResultsError(f"{path}: made under other conditions, so nothing is added to it "
                           f"({'; '.join(unlike)}); --fresh begins anew, "
                           "--output FILE writes elsewhere")
    return made["results"]


def _trainings_named(names, trainings):
    """Those of the trainings that bear one of the names, with or without their seed."""
    without_seed = {training: SEED.sub("", training) for training in trainings}
    for name in names:
        if name not in (*without_seed, *without_seed.values()):
            known = ", ".join(dict.fromkeys(without_seed.values()))
            raise ResultsError(f"--again: expected one of {known}, found {name!r}")
    return {training for training, model in without_seed.items() if {training, model} & {*names}}


def _save(path, provenance, results):
    try:
        made = {"provenance": provenance, "results": results}
        write_whole(path, json.dumps(made, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written ({reason_of(error)})") from None


# ---------------------------------------------------------------- the command line


def run_command(study, description, arguments, train, tables):
    """Run the command line of a study; returns the exit status.

    Args:
        study: the `Study`.
        description: a sentence.
        arguments: of the command line; those of the process when None.
        train: function of (path, loaders, epochs, fresh=, again=).
        tables: function of the path that returns the tables to print in the end.
    """
    printable_output()
    options = parse(study, description, arguments)
    try:
        loaders = load_images(options, study.batch_size)
        train(options.output, loaders, options.epochs, fresh=options.fresh, again=options.again)
    except KeyboardInterrupt:
        # what was trained anew would be dropped once more
        without = " without --fresh" * options.fresh + " without --again" * bool(options.again)
        print(f"\nStopped; what is finished is kept in {options.output}, and the same command"
              f"{without} goes on from there.", file=sys.stderr)
        return 130
    except (ResultsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for table in tables(options.output):
        print(f"\n{table}")
    return 0


def parse(study, description, arguments):
    """Read the command line; the arguments are those of `run_command`."""
    parser = argparse.ArgumentParser(
        prog=study.command, description=description,
        epilog=f"All of it takes some {study.minutes} minutes without a GPU; started again, "
               "it trains what is missing.")
    add_image_options(parser)
    parser.add_argument("--epochs", type=number_or_text, default=study.epochs, metavar="N",
                        help=f"of each training ({study.epochs})")
    parser.add_argument("--output", type=Path, default=study.path, metavar="FILE",
                        help=f"file of the results ({study.path.name} beside this module)")
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument("--fresh", action="store_true",
                      help="begin anew; the old file is kept with .old at its name")
    anew.add_argument("--again", action="append", default=[], metavar="NAME",
                      help="train NAME again, with all its seeds or with the one that it names; "
                           "may be repeated; the old file is kept likewise")
    options = parser.parse_args(arguments)
    check_numbers(parser, options, {"images": study.batch_size, "epochs": 1})
    return options


def add_image_options(parser):
    """Add the options that `load_images` reads."""
    parser.add_argument("--mnist", metavar="DIR",
                        help="folder of MNIST's files; otherwise as for the notebooks")
    parser.add_argument("--images", type=number_or_text, metavar="N",
                        help="use only the first N images of each split")


def number_or_text(text):
    """Read a whole number; other text stays as it is, for `check_numbers` to refuse."""
    return int(text) if text.isdecimal() else text


def check_numbers(parser, options, least):
    """End the command where an option is no whole number, or below its least: {name: least}."""
    for name, smallest in least.items():
        number = getattr(options, name)
        try:
            if number is not None:
                check_whole(f"--{name}", number, smallest)
        except ValueError as error:
            parser.error(str(error))


def load_images(options, batch_size):
    """Make the loaders that the options ask for.

    Raises:
        ResultsError: MNIST cannot be had, or a setting of the environment makes no sense.
    """
    if options.images:
        os.environ["CSCM77_IMAGES"] = str(options.images)  # processes started from here read it too
    source = "mnist" if options.mnist else "auto"
    try:
        return mnist_loaders(batch_size, root=options.mnist, source=source)
    except (MNISTUnavailable, ValueError) as error:
        raise ResultsError(str(error)) from None
