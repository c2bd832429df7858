"""What the coursework leaves free in the VAE, tried at the coursework's own budget: python -m cscm77.study.

Every row of `trials.TRIALS` is one training: 10 epochs of MNIST in batches of 128 by Adam. What came of it
is kept in study.json beside this file, after each training, so that a second start goes on where the first one stopped.

Every loss is in nats per image.
"""

import math
import sys
from functools import cache, partial
from pathlib import Path
from statistics import mean

from cscm77.judge import judge_of
from cscm77.results_file import (
    CHECKPOINTS,
    ResultsFile,
    command,
    headline,
    provenance_of,
    read_results,
    run_missing,
)
from cscm77.tables import as_text
from cscm77.trials import MEASURES, TESTED, TRIALS, key_of, train_trial

RESULTS = Path(__file__).resolve().with_name("study.json")
FILE = ResultsFile("python -m cscm77.study", 15, MEASURES)
EPOCHS, BATCH_SIZE = 10, 128


def run_study(path, loaders, epochs=EPOCHS, *, fresh=False):
    """Train the trials that a file of results lacks, and write the file after each.

    Args:
        path: of the file; made if it is missing.
        loaders: of `mnist_loaders`.
        epochs: of every trial.
        fresh: whether to begin anew; the old file is kept under its name with ".old".

    Raises:
        ResultsError: the file is damaged, or made under other conditions, or cannot be written.
    """
    runs, tested = {}, {key_of(trial) for trial in TRIALS if trial.group == TESTED}
    judge = cache(lambda: judge_of(loaders, CHECKPOINTS))  # trained when the first CVAE asks for it
    for trial in TRIALS:
        key = key_of(trial)  # the same settings in two tables are one training
        runs.setdefault(key, (f"{trial.group}: {trial.name}",
                              partial(train_trial, trial, loaders, epochs, tested=key in tested, judge=judge)))
    run_missing(FILE, path, provenance_of(loaders, epochs, BATCH_SIZE), runs, _outcome, fresh=fresh)


def _outcome(row):
    return _note(row) or f"validation loss {row['val_losses'][-1]:.2f}, {row['minutes']:.1f} min"


def read_study(path=RESULTS):
    """Read the results; errors are those of `results_file.read_results`."""
    return read_results(FILE, path)


# ---------------------------------------------------------------- tables


def study_table(group, path=RESULTS):
    """Give one group of trials as a table of text; its first line says what it was made from.

    Args:
        group: "initialisation", "hidden size", "latent size", "learning rate", "precision" or "label gain".
        path: of the file of results.

    Raises:
        ValueError: there is no such group.
        FileNotFoundError, ResultsError: as `read_study` says.
    """
    study = read_study(path)
    rows = [(trial, study["results"].get(key_of(trial))) for trial in TRIALS if trial.group == group]
    if not rows:
        raise ValueError(f"group: expected one of {', '.join(_groups())}, found {group!r}")
    split, lines = ("test", _test_lines(rows)) if group == TESTED else ("validation", _validation_lines(rows))
    (_, *titles), *lines = lines
    notes = [f"{trial.name}: {_note(row)}" for trial, row in rows if _note(row)]
    notes += [f"digits as asked for: of 10,000, read by a judge that reads {accuracy:.2%} of the test images right"
              for accuracy in sorted({row["judge's accuracy"] for _, row in rows if "judge's accuracy" in (row or {})})]
    return "\n".join([f"{headline(study, [trial.seed for trial, _ in rows])}; {split} -ELBO in nats per image",
                      as_text(group, titles, {name: cells for name, *cells in lines}), *notes])


def study_made_from(path=RESULTS):
    """Say what the study was made from: data, number of training images, epochs."""
    return headline(read_study(path), [0])


def study_curves(group, path=RESULTS):
    """Give the validation loss of one group of trials, epoch by epoch: {name: [nats per image]}.

    Args:
        group: as for `study_table`.
        path: of the file of results.
    """
    results = read_study(path)["results"]
    rows = {trial.name: results.get(key_of(trial), {}) for trial in TRIALS if trial.group == group}
    return {name: row["val_losses"] for name, row in rows.items() if "val_losses" in row}


def _groups():
    return list(dict.fromkeys(trial.group for trial in TRIALS))


def _note(row):
    """Say why a trial has no numbers; None where it has."""
    return "not trained yet" if row is None else row.get("error")


def _validation_lines(rows):
    lines = [("", "validation", "training", "latents in use", "parameters", "minutes", "digits as asked for")]
    for trial, row in rows:
        lines.append((trial.name, *("-" * 6)) if _note(row) else (
            trial.name, f"{row['val_losses'][-1]:.2f}", f"{row['train_loss']:.2f}", str(row["latents_in_use"]),
            f"{row['parameters']:,}", f"{row['minutes']:.1f}", f"{row['accuracy']:.2%}" if "accuracy" in row else "-"))
    judged = any("accuracy" in (row or {}) for _, row in rows)
    return lines if judged else [line[:-1] for line in lines]


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


# ---------------------------------------------------------------- the command


def main(arguments=None):
    """Run the command line; gives the exit status."""
    return command(FILE, __doc__.split(":")[0] + ".", arguments, RESULTS, EPOCHS, BATCH_SIZE, run_study,
                   lambda path: [study_table(group, path) for group in _groups()])


if __name__ == "__main__":
    sys.exit(main())
