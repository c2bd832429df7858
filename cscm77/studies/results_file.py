"""A file of results that a long command adds to, one training at a time, and its command line.

Stopped, the command goes on where it stood. The file is JSON: {"provenance": {field: value},
"results": {name of a training: row}}. A row has all measures of the command, or an "error" alone.
"""

import argparse
import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch

from cscm77 import utils
from cscm77.checks import check_whole
from cscm77.data.loaders import mnist_loaders
from cscm77.data.mnist import MNISTUnavailable
from cscm77.files import beside, reason_of, remove_unfinished, write_whole

EPOCHS, BATCH_SIZE, PIXELS = 10, 128, 784  # the coursework's
CHECKPOINTS = Path(__file__).resolve().parents[2] / "results" / "checkpoints"  # of the judge
MADE_FROM = {"data", "training images", "epochs"}  # what a table needs of the provenance


class ResultsError(Exception):
    """A long command cannot go on; says what was expected, and what was found."""


class Study(NamedTuple):
    """A long command that keeps a file of results."""

    command: str  # as it is typed
    description: str
    minutes: int  # that it takes, about
    path: Path  # of its results, where the command line names no other
    measures: callable  # of a training's name: what its row has
    summary: callable  # of a row: what is printed when it is made


def provenance_of(loaders, epochs):
    """What results are made from: whatever of this changes, their digits change."""
    digits = loaders.train.dataset
    return {"data": digits.name, "training images": len(digits),
            "validation images": len(loaders.val.dataset),
            "test images": len(loaders.test.dataset), "epochs": epochs, "batch": BATCH_SIZE,
            "torch": torch.__version__, "processor": utils.processor_name(digits.pixels.device),
            "threads": torch.get_num_threads()}


def quietly(train):
    """What a function returns that trains and prints: a line a training is enough."""
    with redirect_stdout(io.StringIO()):
        return train()


def read_results(study, path):
    """The content of a file of results.

    FileNotFoundError says which command makes it, `ResultsError` that it is damaged or not ours.
    """
    try:
        made = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = made["results"].items()
        if made["provenance"].keys() >= MADE_FROM and all(
                {"error"} <= row.keys() or study.measures(name) <= row.keys()
                for name, row in rows):
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
    """What a table of `read_results` was made from, as its first line says it."""
    seeds = [str(seed) for seed in sorted(set(seeds))]
    form = "{data}, {training images:,} training images, {epochs} epochs, seed{s} {seeds}"
    return form.format(**made["provenance"], s="s" * (len(seeds) > 1), seeds=", ".join(seeds))


def _train_missing(study, options, provenance, trainings):
    """Do the trainings that the file of results lacks, and write the file after each."""
    path = options.output
    results = {} if options.fresh else _kept_results(study, path, provenance)
    if options.fresh and path.exists():
        write_whole(beside(path, ".old"), path.read_bytes())
    remove_unfinished(path)
    _save(path, provenance, results)  # at once: nothing is trained for an unwritable place
    missing = [name for name in trainings if name not in results]
    done = len(trainings) - len(missing)
    with utils.progress_bar(len(trainings), "trainings", unit="training", done=done) as bar:
        for number, name in enumerate(missing, done + 1):
            title, train = trainings[name]
            bar.set_postfix_str(title)
            try:
                results[name] = train()
            except FloatingPointError as error:  # a loss that is no finite number
                results[name] = {"error": str(error)}
            results = {name: results[name] for name in (*trainings, *results) if name in results}
            _save(path, provenance, results)
            bar.clear()
            summary = results[name].get("error") or study.summary(results[name])
            print(f"{number}/{len(trainings)} {title}: {summary}", flush=True)
            bar.update()


def _kept_results(study, path, provenance):
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


def _save(path, provenance, results):
    try:
        made = {"provenance": provenance, "results": results}
        write_whole(path, json.dumps(made, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ResultsError(f"{path}: cannot be written ({reason_of(error)})") from None


# ---------------------------------------------------------------- the command lines


def run_command(study, prepare, tables, arguments=None):
    """Run a study's command line: train what its file lacks, print its tables; the exit status.

    `prepare`, of (loaders, epochs), returns the provenance (a file that says otherwise is not added
    to) and {name: (title, function that trains and returns a row)}; `tables`, of the path, texts.
    """
    options = parse(study, arguments)
    plt.switch_backend("agg")  # no window waits to be closed

    def run():
        _train_missing(study, options, *prepare(load_images(options), options.epochs))
        for table in tables(options.output):
            print(f"\n{table}")

    without = " without --fresh" * options.fresh  # with it, all would begin anew once more
    with utils.arithmetic("medium", flush=True):  # as in the notebooks
        utils.keep_freed_memory()
        return exit_status(run, f"what is finished is kept in {options.output}, and the same "
                                f"command{without} goes on from there")


def exit_status(run, stopped):
    """Run a command: 0, 1 after an error, 130 after Ctrl-C, with one line about it."""
    utils.printable_output()
    try:
        run()
    except KeyboardInterrupt:
        print(f"\nStopped; {stopped}.", file=sys.stderr)
        return 130
    except (ResultsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(study, arguments):
    """Read the command line of a study."""
    parser = image_parser(study.command, study.description)
    parser.epilog = (f"All of it takes some {study.minutes} minutes without a GPU; started again, "
                     "it trains what is missing.")
    add_number(parser, "--epochs", EPOCHS, 1, f"of each training ({EPOCHS})")
    parser.add_argument("--output", type=Path, default=study.path, metavar="FILE",
                        help=f"file of the results ({study.path.name} beside this module)")
    parser.add_argument("--fresh", action="store_true",
                        help="begin anew; the old file is kept with .old at its name")
    return parser.parse_args(arguments)


def image_parser(command, description):
    """A parser of command lines with the options that `load_images` reads."""
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("--mnist", metavar="DIR",
                        help="folder of MNIST's files; otherwise as for the notebooks")
    add_number(parser, "--images", None, BATCH_SIZE, "use only the first N images of each split")
    return parser


def add_number(parser, option, default, least, meaning):
    """Add an option that is a whole number; another text, or less than `least`, is refused."""
    def read(text):
        try:
            return check_whole(option, int(text) if text.isdecimal() else text, least)
        except ValueError as error:
            parser.error(str(error))

    parser.add_argument(option, type=read, default=default, metavar="N", help=meaning)


def load_images(options, *, num_val=5000, source="auto"):
    """The loaders that the options ask for; `ResultsError` where `mnist_loaders` refuses."""
    if options.images:
        os.environ["CSCM77_IMAGES"] = str(options.images)  # processes started from here read it too
    source = "mnist" if options.mnist else source
    try:
        return mnist_loaders(BATCH_SIZE, num_val, options.mnist, source)
    except (MNISTUnavailable, ValueError) as error:
        raise ResultsError(str(error)) from None
