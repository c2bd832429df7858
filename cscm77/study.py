"""What the coursework leaves free in the VAE, tried at the coursework's own budget: python -m cscm77.study.

Every row of `trials.TRIALS` is one training: 10 epochs of MNIST, batches of 128, Adam (1e-3), Z = 15. What came of it
is kept in study.json beside this file, after each training, so that a second start goes on where the first one stopped.

Every loss is in nats per image.
"""

import argparse
import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from statistics import mean

import torch

from cscm77.download import MNISTUnavailable
from cscm77.trials import MEASURES, TESTED, TRIALS, key_of, train_trial
from cscm77.utils import processor_name, progress_bar
from cscm77_helper import mnist_loaders

RESULTS = Path(__file__).resolve().with_name("study.json")
EPOCHS, BATCH_SIZE = 10, 128
HEADLINE = {"data", "training images", "epochs"}  # what a table needs of the provenance


class StudyError(Exception):
    """The results cannot be read, added to or written; says what was expected and what was found."""


def run_study(path, loaders, epochs=EPOCHS, *, fresh=False):
    """Train the trials that a file of results lacks, and write the file after each.

    Args:
        path: of the file; made if it is missing.
        loaders: of `mnist_loaders`.
        epochs: of every trial.
        fresh: whether to begin anew; the old file is kept under its name with ".old".

    Raises:
        StudyError: the file is damaged, or made under other conditions, or cannot be written.
    """
    provenance = provenance_of(loaders, epochs)
    results = _begin(path, provenance, fresh)
    runs, tested = {}, {key_of(trial) for trial in TRIALS if trial.group == TESTED}
    for trial in TRIALS:
        runs.setdefault(key_of(trial), trial)  # the same settings in two tables are one training
    _save(path, provenance, results)  # at once, so that nothing is trained for a place that cannot be written
    missing = [key for key in runs if key not in results]
    done = len(runs) - len(missing)
    with progress_bar(len(runs), "trials", unit="trial", done=done) as bar:
        for number, key in enumerate(missing, done + 1):
            trial = runs[key]
            bar.set_postfix_str(f"{trial.group}: {trial.name}")
            row = results[key] = train_trial(trial, loaders, epochs, tested=key in tested)
            _save(path, provenance, {k: results[k] for k in (*runs, *results) if k in results})
            bar.clear()
            outcome = _note(row) or f"validation loss {row['val_losses'][-1]:.2f}, {row['minutes']:.1f} min"
            print(f"{number}/{len(runs)} {trial.group}: {trial.name}: {outcome}", flush=True)
            bar.update()


# ---------------------------------------------------------------- the file of results


def provenance_of(loaders, epochs):
    """Say what results are made from: whatever of this changes, their digits change."""
    digits = loaders.train.dataset
    return {"data": digits.name, "training images": len(digits), "validation images": len(loaders.val.dataset),
            "test images": len(loaders.test.dataset), "epochs": epochs, "batch": BATCH_SIZE,
            "torch": torch.__version__, "processor": processor_name(digits.images.device),
            "threads": torch.get_num_threads()}


def read_study(path=RESULTS):
    """Read a file of results: {"provenance": {field: value}, "results": {key of a trial: row}}.

    Raises:
        FileNotFoundError: there is none; says which command makes it.
        StudyError: it is damaged, or something else.
    """
    path = Path(path)
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        rows = study["results"].values()
        if study["provenance"].keys() >= HEADLINE and all({"error"} <= r.keys() or MEASURES <= r.keys() for r in rows):
            return study
        why = "entries are missing"
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected the study's results, found no file; "
                                "python -m cscm77.study makes it in some 20 minutes") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON, or another structure
        why = f"{type(error).__name__}: {error}"
    raise StudyError(f"{path}: expected results of python -m cscm77.study, found another or a damaged file ({why}); "
                     "the option --fresh begins anew")


def _begin(path, provenance, fresh):
    """Give the results to go on from; none where the study begins."""
    if fresh and path.exists():
        os.replace(path, path.with_name(f"{path.name}.old"))
    if not path.exists():
        return {}
    kept = read_study(path)
    unlike = [f"{field}: expected {kept['provenance'].get(field)!r} as there, found {value!r}"
              for field, value in provenance.items() if kept["provenance"].get(field) != value]
    if unlike and kept["results"]:
        raise StudyError(f"{path}: made under other conditions, so nothing is added to it ({'; '.join(unlike)}); "
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
        raise StudyError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            part.unlink()


# ---------------------------------------------------------------- tables


def study_table(group, path=RESULTS):
    """Give one group of trials as a table of text; its first line says what it was made from.

    Args:
        group: "initialisation", "hidden size", "precision" or "label gain".
        path: of the file of results.

    Raises:
        ValueError: there is no such group.
        FileNotFoundError, StudyError: as `read_study` says.
    """
    study = read_study(path)
    rows = [(trial, study["results"].get(key_of(trial))) for trial in TRIALS if trial.group == group]
    if not rows:
        raise ValueError(f"group: expected one of {', '.join(_groups())}, found {group!r}")
    seeds = sorted({trial.seed for trial, _ in rows})
    split, lines = ("test", _test_lines(rows)) if group == TESTED else ("validation", _validation_lines(rows))
    made_from = "{data}, {training images:,} training images, {epochs} epochs".format(**study["provenance"])
    seeds = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    notes = [f"{trial.name}: {_note(row)}" for trial, row in rows if _note(row)]
    return "\n".join([f"{made_from}, {seeds}; {split} -ELBO in nats per image", *_aligned(group, lines), *notes])


def _groups():
    return list(dict.fromkeys(trial.group for trial in TRIALS))


def _note(row):
    """Say why a trial has no numbers; None where it has."""
    return "not trained yet" if row is None else row.get("error")


def _validation_lines(rows):
    lines = [("", "validation", "training", "latents in use", "parameters", "minutes")]
    for trial, row in rows:
        lines.append((trial.name, *("-" * 5)) if _note(row) else (
            trial.name, f"{row['val_losses'][-1]:.2f}", f"{row['train_loss']:.2f}", str(row["latents_in_use"]),
            f"{row['parameters']:,}", f"{row['minutes']:.1f}"))
    return lines


def _test_lines(rows):
    """Set the two precisions side by side: a line a seed, then the means; the difference is first minus second."""
    columns = {}
    for trial, row in rows:
        loss = math.nan if _note(row) else row.get("test", {}).get("loss", math.nan)
        columns.setdefault(trial.precision, {})[f"seed {trial.seed}"] = loss
    for losses in columns.values():
        losses["mean"] = mean(losses.values())
    first, second = columns.values()
    lines = [(name, first[name], second[name], first[name] - second[name]) for name in first]
    return [("", *columns, "difference"),
            *((name, *map(_two_places, losses), _two_places(difference, "+"))
              for name, *losses, difference in lines)]


def _two_places(number, sign=""):
    return "-" if math.isnan(number) else f"{number:{sign}.2f}"


def _aligned(corner, lines):
    lines = [(corner, *lines[0][1:]), *lines[1:]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in lines]


# ---------------------------------------------------------------- the command


def main(arguments=None):
    """Run the command line; gives the exit status."""
    options = parse(arguments)
    try:
        run_study(options.output, _loaders(options), options.epochs, fresh=options.fresh)
    except KeyboardInterrupt:
        print(f"\nStopped; what is finished is kept in {options.output}, and the same command goes on from there.",
              file=sys.stderr)
        return 130
    except (StudyError, MNISTUnavailable, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for group in _groups():
        print(f"\n{study_table(group, options.output)}")
    return 0


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m cscm77.study", description=__doc__.split(":")[0] + ".",
                                     epilog="All of it takes some 20 minutes without a GPU. Started again, it trains "
                                            "only what the file lacks.")
    parser.add_argument("--mnist", metavar="DIR", help="folder of MNIST's files; otherwise as for the notebooks")
    parser.add_argument("--images", type=int, metavar="N", help="use only the first N images of each split")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of each training ({EPOCHS})")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FILE",
                        help="file of the results (study.json beside this module)")
    parser.add_argument("--fresh", action="store_true", help="begin anew; the old file is kept with .old at its name")
    options = parser.parse_args(arguments)
    for name, least in (("images", BATCH_SIZE), ("epochs", 1)):
        number = getattr(options, name)
        if number is not None and number < least:
            parser.error(f"--{name}: expected a whole number of at least {least}, found {number}")
    return options


def _loaders(options):
    if options.images:
        os.environ["CSCM77_IMAGES"] = str(options.images)  # the loaders' own way to be told
    try:
        return mnist_loaders(BATCH_SIZE, root=options.mnist, source="mnist" if options.mnist else "auto")
    except ValueError as error:  # a setting of the environment
        raise StudyError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
