"""What the coursework leaves free in the VAE, as a list of trainings to try, and one such training.

`python -m cscm77.study` trains them all. Axes: N images, H hidden units, Z latents; losses are in nats per image.
"""

import io
import random
import time
from contextlib import contextmanager, redirect_stdout
from typing import NamedTuple

import torch
from torch import nn

import vae
from cscm77.bounds import IN_USE, kl_of_latents
from cscm77.evaluation import conditional_accuracy
from cscm77.utils import reset_seed
from cscm77_helper import count_params, evaluate_vae, train_vae

PIXELS = 784
MEASURES = {"train_loss", "val_losses", "latents_in_use", "parameters", "minutes"}  # of every finished training


class Trial(NamedTuple):
    """One row of a table, and the settings of its training; the defaults are those of vae.py and the notebook."""

    group: str  # the table
    name: str  # the row
    model: str = "VAE"  # or "CVAE"
    hidden_dim: int = 400
    latent_size: int = 15
    learning_rate: float = 1e-3
    init: str = "ours"  # or another that `initialise` knows
    label_gains: tuple | None = None  # of a CVAE's encoder and decoder
    precision: str = "medium"  # of torch.set_float32_matmul_precision; "highest" is float32 throughout
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
    *(Trial("label gain", f"{encoder}, {decoder}{' (ours)' * ((encoder, decoder) == (16, 8))}", model="CVAE",
            label_gains=(encoder, decoder))
      for encoder, decoder in ((1, 1), (4, 4), (16, 4), (16, 8), (16, 16), (32, 16))),
)
# Test images are for final numbers: a choice made on them would flatter itself. The tables that are there for choosing
# hold validation losses; the precision is no choice to be made by loss, it is to be shown that it changes none.
TESTED = "precision"


def key_of(trial):
    """Name a training by its model and what differs from the defaults, so that a new setting leaves old keys valid."""
    changed = {name: value for name, value in trial._asdict().items() if value != Trial._field_defaults.get(name)}
    return " ".join([trial.model, *(f"{k}={v}" for k, v in changed.items() if k not in ("group", "name", "model"))])


# ---------------------------------------------------------------- the model of a trial


def build(trial):
    """Make a trial's model from its seed, on the CPU.

    Whatever `initialise` draws, the global generator is left where vae.py leaves it: trials of one size then see the
    same batches and the same noise, and "ours" is the notebook's own run.
    """
    reset_seed(trial.seed)
    model = getattr(vae, trial.model)(PIXELS, hidden_dim=trial.hidden_dim, latent_size=trial.latent_size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        initialise(model, trial.init)
        if trial.label_gains is not None:
            encoder, decoder = trial.label_gains
            model.encoder[1].weight[:, model.input_size:] *= encoder / vae.ENCODER_LABEL_GAIN
            model.decoder[0].weight[:, model.latent_size:] *= decoder / vae.DECODER_LABEL_GAIN
    return model


def initialise(model, init):
    """Begin a VAE with other weights than vae.py's: "ours" changes nothing, the others what they are called after.

    Glorot's and PyTorch's own are for every layer, the log-variance's too. The orthogonal one (Saxe et al., 2014) has
    the gain sqrt(2) before a ReLU, and log-variances at zero as in ours.
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
        raise ValueError("init: expected ours, he_uniform, orthogonal, glorot, pytorch, zero_output or "
                         f"narrow_posterior, found {init!r}")


def _before_relu(network):
    return [layer for layer, after in zip(network, network[1:], strict=False) if isinstance(after, nn.ReLU)]


# ---------------------------------------------------------------- training


def train_trial(trial, loaders, epochs, *, tested=False, judge=None):
    """Train one trial; the precision and the random numbers of the process are put back.

    Args:
        trial: the `Trial`.
        loaders: of `mnist_loaders`.
        epochs: at least 1.
        tested: whether the test loss is measured too.
        judge: function that gives a `Judge`, called for a CVAE alone; of 10,000 digits that were asked for, it says how
            many it recognises.

    Returns:
        A row of results: a dict of `MEASURES` (and "test", "accuracy"); only of "error" where a loss was not a finite
        number.
    """
    device = loaders.train.dataset.pixels.device
    with _own_state(trial.precision, device):
        model = build(trial).to(device)
        try:
            return _train_and_measure(model, trial, loaders, epochs, tested, judge)
        except FloatingPointError as error:
            return {"error": str(error)}


def _train_and_measure(model, trial, loaders, epochs, tested, judge):
    began, history, cond = time.perf_counter(), [], trial.model == "CVAE"
    for epoch in range(epochs):
        with redirect_stdout(io.StringIO()):  # a line a trial is enough
            history.append(train_vae(epoch, model, loaders.train, cond=cond, val_loader=loaders.val,
                                     learning_rate=trial.learning_rate))
    in_use = int((kl_of_latents(model, loaders.val, cond) > IN_USE).sum())
    row = {"train_loss": round(history[-1].loss, 6), "val_losses": [round(entry.val_loss, 3) for entry in history],
           "latents_in_use": in_use, "parameters": count_params(model),
           "minutes": round((time.perf_counter() - began) / 60, 2)}
    if cond and judge is not None:
        judge = judge()
        row["accuracy"] = round(conditional_accuracy(judge, model), 4)
        row["judge's accuracy"] = round(judge.accuracy, 4)
    if tested:
        losses = evaluate_vae(model, loaders.test, cond)
        row["test"] = {name: round(value, 6) for name, value in losses._asdict().items()}
    return row


@contextmanager
def _own_state(precision, device):
    kept_precision, kept_state = torch.get_float32_matmul_precision(), random.getstate()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.set_float32_matmul_precision(precision)
            yield
    finally:
        torch.set_float32_matmul_precision(kept_precision)
        random.setstate(kept_state)
