"""What the coursework leaves free in the VAE, tried at the coursework's own budget.

The command is python -m cscm77.studies.choices. Every row of `TRIALS` is one training: 10 epochs of
MNIST in batches of 128 by Adam. What came of it is kept in study.json beside this file, after each
training, so that a second start goes on where the first one stopped.

Every loss is in nats per image.
"""

import io
import math
import sys
import time
from contextlib import redirect_stdout
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from torch import nn

import vae
from cscm77.measure.judge import judge_of
from cscm77.measure.latents import IN_USE, kl_of_latents
from cscm77.measure.samples import conditional_accuracy
from cscm77.report.evidence import as_text
from cscm77.studies.results_file import (
    CHECKPOINTS,
    Study,
    made_from,
    provenance_of,
    read_results,
    run_command,
    train_missing,
)
from cscm77.utils import arithmetic, seeded
from cscm77_helper import count_params, evaluate_vae, train_vae


class Trial(NamedTuple):
    """One row of a table, and the settings of its training.

    The defaults are those of vae.py and of the notebook.
    """

    group: str  # the table
    name: str  # the row
    model: str = "VAE"  # or "CVAE"
    hidden_dim: int = 400
    latent_size: int = 15
    learning_rate: float = 1e-3
    init: str = "ours"  # or another that `initialise` knows
    label_gains: tuple | None = None  # of a CVAE's encoder and decoder
    precision: str = "medium"  # of matrix products; "highest" is float32 throughout
    seed: int = 0


TRIALS = (
    Trial("initialisation", "He normal before ReLU (ours)"),
    Trial("initialisation", "the same, seed 1", seed=1),
    Trial("initialisation", "the same, seed 2", seed=2),
    Trial("initialisation", "He uniform", init="he_uniform"),
    Trial("initialisation", "He uniform, seed 1", init="he_uniform", seed=1),
    Trial("initialisation", "He uniform, seed 2", init="he_uniform", seed=2),
    Trial("initialisation", "orthogonal", init="orthogonal"),
    Trial("initialisation", "Glorot normal everywhere", init="glorot"),
    Trial("initialisation", "PyTorch's default", init="pytorch"),
    Trial("initialisation", "He, output layer at zero", init="zero_output"),
    Trial("initialisation", "He, log-variance bias -2", init="narrow_posterior"),
    Trial("hidden size", "128", hidden_dim=128),
    Trial("hidden size", "256", hidden_dim=256),
    Trial("hidden size", "400 (ours)", hidden_dim=400),
    Trial("hidden size", "512", hidden_dim=512),
    Trial("latent size", "2", latent_size=2),
    Trial("latent size", "5", latent_size=5),
    Trial("latent size", "10", latent_size=10),
    Trial("latent size", "15 (the brief's)"),
    Trial("latent size", "30", latent_size=30),
    Trial("learning rate", "0.0003", learning_rate=3e-4),
    Trial("learning rate", "0.001 (the brief's)"),
    Trial("learning rate", "0.003", learning_rate=3e-3),
    *(Trial("precision", f"{precision}, seed {seed}", precision=precision, seed=seed)
      for precision in ("medium", "highest") for seed in (0, 1, 2)),
    Trial("label gain", "1, 1", model="CVAE", label_gains=(1, 1)),
    Trial("label gain", "4, 4", model="CVAE", label_gains=(4, 4)),
    Trial("label gain", "16, 4", model="CVAE", label_gains=(16, 4)),
    Trial("label gain", "16, 8 (ours)", model="CVAE", label_gains=(16, 8)),
    Trial("label gain", "16, 16", model="CVAE", label_gains=(16, 16)),
    Trial("label gain", "32, 16", model="CVAE", label_gains=(32, 16)),
)
# Test images are for final numbers: a choice made on them would flatter itself. The tables that are
# there for choosing hold validation losses; the precision is no choice to be made by loss, it is to
# be shown that it changes none.
TESTED = "precision"
PIXELS = 784
RESULTS = Path(__file__).resolve().with_name("study.json")
STUDY = Study("python -m cscm77.studies.choices", minutes=15, path=RESULTS, epochs=10,
              batch_size=128, measures={"train_loss", "val_losses", "latents_in_use",
                                        "parameters", "minutes"})


def groups():
    """The names of the tables, in their order."""
    return list(dict.fromkeys(trial.group for trial in TRIALS))


def training_name(trial):
    """Name a training by its model and by what differs from the defaults.

    So a new setting leaves the names in old files valid.
    """
    defaults = Trial._field_defaults
    changed = [f"{field}={value}" for field, value in trial._asdict().items()
               if field not in ("group", "name", "model") and value != defaults[field]]
    return " ".join([trial.model, *changed])


# ---------------------------------------------------------------- the model of a trial


def build(trial):
    """Make a trial's model from its seed, on the CPU.

    Whatever `initialise` draws, the global generator is left where vae.py leaves it: trials of one
    size then see the same batches and the same noise, and "ours" is the notebook's own run.
    """
    torch.manual_seed(trial.seed)
    make = getattr(vae, trial.model)
    model = make(PIXELS, hidden_dim=trial.hidden_dim, latent_size=trial.latent_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        initialise(model, trial.init)
        if trial.label_gains is not None:
            encoder, decoder = trial.label_gains
            model.encoder[1].weight[:, model.input_size:] *= encoder / vae.ENCODER_LABEL_GAIN
            model.decoder[0].weight[:, model.latent_size:] *= decoder / vae.DECODER_LABEL_GAIN
    return model


def initialise(model, init):
    """Begin a VAE with other weights than vae.py's; "ours" changes nothing.

    Glorot's and PyTorch's own are for every layer, the log-variance's too. The orthogonal one (Saxe
    et al., 2014) has the gain sqrt(2) before a ReLU, and log-variances at zero as in ours.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hidden, output = [*_before_relu(model.encoder), *_before_relu(model.decoder)], layers[-1]
    if init == "he_uniform":
        for layer in hidden:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    elif init == "orthogonal":
        for layer in (*hidden, model.mu_layer, output):
            nn.init.orthogonal_(layer.weight, gain=2**0.5 if layer in hidden else 1)
    elif init == "glorot":
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
    elif init == "pytorch":
        for layer in layers:
            layer.reset_parameters()
    elif init == "zero_output":
        nn.init.zeros_(output.weight)  # every pixel begins at 0.5
    elif init == "narrow_posterior":
        nn.init.constant_(model.logvar_layer.bias, -2)
    elif init != "ours":
        raise ValueError("init: expected ours, he_uniform, orthogonal, glorot, pytorch, "
                         f"zero_output or narrow_posterior, found {init!r}")


def _before_relu(network):
    return [layer for layer, after in zip(network, network[1:], strict=False)
            if isinstance(after, nn.ReLU)]


# ---------------------------------------------------------------- training


def train_trial(trial, loaders, epochs, *, tested=False, judge=None):
    """Train one trial; the process's precision and random numbers are put back.

    Args:
        trial: the `Trial`.
        loaders: of `mnist_loaders`.
        epochs: at least 1.
        tested: whether the test loss is measured too.
        judge: function that returns a `Judge`, called for a CVAE alone; of 10,000 digits that were
            asked for, it says how many it recognises.

    Returns:
        A row of results: a dict of the study's measures (and "test", "accuracy"), or only an
        "error" where a loss was not a finite number.
    """
    device = loaders.train.dataset.pixels.device
    with seeded(device), arithmetic(trial.precision):
        model = build(trial).to(device)
        try:
            return _train_and_measure(model, trial, loaders, epochs, tested, judge)
        except FloatingPointError as error:
            return {"error": str(error)}


def _train_and_measure(model, trial, loaders, epochs, tested, judge):
    began, history, cond = time.perf_counter(), [], trial.model == "CVAE"
    for epoch in range(epochs):
        with redirect_stdout(io.StringIO()):  # a line a trial is enough
            history.append(train_vae(epoch, model, loaders.train, cond=cond,
                                     val_loader=loaders.val, learning_rate=trial.learning_rate))
    row = {"train_loss": round(history[-1].loss, 6),
           "val_losses": [round(epoch.val_loss, 3) for epoch in history],
           "latents_in_use": int((kl_of_latents(model, loaders.val, cond) > IN_USE).sum()),
           "parameters": count_params(model),
           "minutes": round((time.perf_counter() - began) / 60, 2)}
    if cond and judge is not None:
        judge = judge()
        row["accuracy"] = round(conditional_accuracy(judge, model), 4)
        row["judge's accuracy"] = round(judge.accuracy, 4)
    if tested:
        losses = evaluate_vae(model, loaders.test, cond)
        row["test"] = {name: round(value, 6) for name, value in losses._asdict().items()}
    return row


def run_study(path, loaders, epochs=STUDY.epochs, *, fresh=False, again=()):
    """Train the trials that a file of results lacks.

    The arguments and errors are those of `results_file.train_missing`.
    """
    trainings = {}
    tested = {training_name(trial) for trial in TRIALS if trial.group == TESTED}
    judge = cache(lambda: judge_of(loaders, CHECKPOINTS))  # trained when the first CVAE asks for it
    for trial in TRIALS:
        name = training_name(trial)  # the same settings in two tables are one training
        train = partial(train_trial, trial, loaders, epochs, tested=name in tested, judge=judge)
        trainings.setdefault(name, (f"{trial.group}: {trial.name}", train))
    provenance = provenance_of(loaders, epochs, STUDY.batch_size)
    train_missing(STUDY, path, provenance, trainings, _summary, fresh=fresh, again=again)


def _summary(row):
    return (_why_without_numbers(row)
            or f"validation loss {row['val_losses'][-1]:.2f}, {row['minutes']:.1f} min")


def read_study(path=RESULTS):
    """Read the results; errors are those of `results_file.read_results`."""
    return read_results(STUDY, path)


# ---------------------------------------------------------------- tables


def study_table(group, path=RESULTS):
    """Set one group of trials in a table of text; its first line says what it was made from.

    Args:
        group: "initialisation", "hidden size", "latent size", "learning rate", "precision" or
            "label gain".
        path: of the file of results.

    Raises:
        ValueError: there is no such group.
        FileNotFoundError, ResultsError: as `read_study` says.
    """
    study = read_study(path)
    trials = _trials_of(group)
    rows = [(trial, study["results"].get(training_name(trial))) for trial in trials]
    split, (titles, lines) = (("test", _test_table(rows)) if group == TESTED else
                              ("validation", _validation_table(rows)))
    made = made_from(study, [trial.seed for trial in trials])
    return "\n".join([f"{made}; {split} -ELBO in nats per image", as_text(group, titles, lines),
                      *_notes(rows)])


def study_made_from(path=RESULTS):
    """What the study was made from: data, number of training images, epochs."""
    return made_from(read_study(path), [0])


def study_curves(group, path=RESULTS):
    """The validation losses of one group of trials, epoch by epoch: {name: [nats per image]}.

    Args:
        group: as for `study_table`.
        path: of the file of results.
    """
    results = read_study(path)["results"]
    rows = {trial.name: results.get(training_name(trial), {}) for trial in _trials_of(group)}
    return {name: row["val_losses"] for name, row in rows.items() if "val_losses" in row}


def _trials_of(group):
    trials = [trial for trial in TRIALS if trial.group == group]
    if not trials:
        raise ValueError(f"group: expected one of {', '.join(groups())}, found {group!r}")
    return trials


def _why_without_numbers(row):
    """Why a trial has no numbers; None where it has."""
    return "not trained yet" if row is None else row.get("error")


def _notes(rows):
    """What is said below a table: why a row is empty, and how well the judge reads."""
    reasons = [(trial.name, _why_without_numbers(row)) for trial, row in rows]
    accuracies = {row["judge's accuracy"] for _, row in rows if "judge's accuracy" in (row or {})}
    return [*(f"{name}: {reason}" for name, reason in reasons if reason),
            *(f"digits as asked for: of 10,000, read by a judge that reads {accuracy:.2%} of the "
              "test images right" for accuracy in sorted(accuracies))]


def _validation_table(rows):
    titles = ["validation", "training", "latents in use", "parameters", "minutes"]
    judged = any("accuracy" in (row or {}) for _, row in rows)
    titles += ["digits as asked for"] * judged
    lines = {}
    for trial, row in rows:
        if _why_without_numbers(row):
            lines[trial.name] = ["-"] * len(titles)
            continue
        accuracy = f"{row['accuracy']:.2%}" if "accuracy" in row else "-"
        lines[trial.name] = [f"{row['val_losses'][-1]:.2f}", f"{row['train_loss']:.2f}",
                             str(row["latents_in_use"]), f"{row['parameters']:,}",
                             f"{row['minutes']:.1f}", *[accuracy] * judged]
    return titles, lines


def _test_table(rows):
    """Set two precisions side by side: a line a seed, then the means; first minus second."""
    columns = {}
    for trial, row in rows:
        test = {} if _why_without_numbers(row) else row.get("test", {})
        losses = columns.setdefault(trial.precision, {})
        losses[f"seed {trial.seed}"] = test.get("loss", math.nan)
    for losses in columns.values():
        losses["mean"] = mean(losses.values())
    first, second = columns.values()
    return [*columns, "difference"], {
        name: (_two_places(first[name]), _two_places(second[name]),
               _two_places(first[name] - second[name], "+")) for name in first}


def _two_places(number, sign=""):
    return "-" if math.isnan(number) else f"{number:{sign}.2f}"


# ---------------------------------------------------------------- the command


def main(arguments=None):
    """Run the command line; returns the exit status."""
    return run_command(STUDY, __doc__.partition("\n")[0], arguments, run_study,
                       lambda path: [study_table(group, path) for group in groups()])


if __name__ == "__main__":
    sys.exit(main())
