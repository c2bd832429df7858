"""What a training leaves to look back on: losses, probabilities, scores, generators beside G, a strip of samples."""

import math
from typing import NamedTuple

import torch
from torch import nn

from cscm77.training import eval_mode, seeded


class VAEEpoch(NamedTuple):
    """One epoch of a VAE, in nats per image: means over the epoch's training images, then over the validation images.

    The validation loss is that of the weights at the end of the epoch; None without a validation loader.
    """

    epoch: int
    loss: float
    reconstruction: float
    kl: float
    val_loss: float | None


class VAELosses(NamedTuple):
    """The negative ELBO and its two parts, in nats per image."""

    loss: float
    reconstruction: float
    kl: float


class GANHistory(NamedTuple):
    """What a training leaves beside the trained G.

    Step by step: the losses of D and G, and D's mean probabilities for real and for generated images (before the step).
    `G_average` follows an exponential average of G's weights; it is in eval mode. `scores` has one number an epoch,
    where a score was asked for, and `G_best` is then the state of G with the highest, else that of the last step.
    `strip` shows what G made of the same noise every show_every steps: (pictures, samples, 784).
    """

    d_loss: list
    g_loss: list
    G_average: nn.Module | None = None
    G_best: dict | None = None
    d_real: list = []
    d_fake: list = []
    scores: list = []
    strip: torch.Tensor | None = None


def score_of_epoch(score, run):
    """Score G, if that was asked for, and keep its weights where they are the best so far; gives the epoch's record."""
    if score is None:
        return []
    G, device = run.parts["G"], run.device
    with eval_mode(G), torch.no_grad(), seeded(device):
        value = float(score(G))
    if not math.isfinite(value):
        raise FloatingPointError(f"epoch {run.epoch}: expected a finite score, found {value}")
    if all(value > earlier for earlier, in run.epochs):
        run.parts["G_best"].load_state_dict(G.state_dict())
    return [value]


def drawn_by(G, noise):
    """Give what G makes of some noise, in eval mode, on the CPU."""
    with eval_mode(G), torch.no_grad():
        return G(noise).cpu()


def gan_history(run):
    """Give the `GANHistory` of a run."""
    d_loss, g_loss, d_real, d_fake = ([row[i] for row in run.log.read()] for i in range(4))
    best = run.parts.get("G_best", run.parts["G"]).state_dict()
    return GANHistory(d_loss, g_loss, run.parts["G_average"].module,
                      {name: values.clone() for name, values in best.items()}, d_real, d_fake,
                      [value for epoch in run.epochs for value in epoch],
                      torch.stack(run.strip) if run.strip else None)
