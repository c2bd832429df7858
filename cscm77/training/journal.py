"""What a training leaves to look back on: losses, probabilities, scores, generators beside G, a strip of samples."""

import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cscm77.utils import eval_mode, seeded

DECAY = 0.999  # a step
AVERAGE_EVERY = 8  # steps: reading all weights at each step would cost more than it brings


class LossLog:
    """The losses of the steps so far, kept on the device until they are read: reading waits for the device."""

    def __init__(self):
        self._steps, self._waiting, self._rows = [], [], []

    def __len__(self):
        """Give the number of steps."""
        return len(self._steps)

    def add(self, epoch, step, batch_size, *losses):
        """Note the losses of a step on batch_size images, scalar tensors."""
        self._steps.append((epoch, step, batch_size))
        self._waiting.append(torch.stack([loss.detach() for loss in losses]))

    def read(self):
        """Give a row of floats for each step.

        Raises:
            FloatingPointError: a loss is not a finite number; names the first such step.
        """
        if self._waiting:
            losses = torch.stack(self._waiting).cpu()  # (steps since the last reading, losses)
            self._waiting.clear()
            bad = (~losses.isfinite()).any(dim=1).nonzero()
            if len(bad):
                epoch, step, _ = self._steps[len(self._rows) + bad[0].item()]
                raise FloatingPointError(f"epoch {epoch}, step {step}: expected a finite loss, found "
                                         f"{losses[bad[0].item()].tolist()}; a smaller learning rate may help")
            self._rows += losses.tolist()
        return self._rows

    def means(self):
        """Average each loss over the images seen.

        Raises:
            ValueError: no step was taken.
        """
        if not self._steps:
            raise ValueError("the loader: expected at least one batch, found none")
        sizes = torch.tensor([size for _, _, size in self._steps], dtype=torch.float64)
        return (sizes @ torch.tensor(self.read(), dtype=torch.float64) / sizes.sum()).tolist()

    def state_dict(self):
        """Give the steps and their losses as two tensors."""
        return {"steps": torch.tensor(self._steps), "losses": torch.tensor(self.read(), dtype=torch.float64)}

    def load_state_dict(self, state):
        """Take the steps and losses of another log in the place of one's own."""
        self._waiting.clear()
        self._steps = [tuple(step) for step in state["steps"].tolist()]
        self._rows = state["losses"].tolist()


@contextmanager
def at(epoch, step, log):
    """Say in an error where the training stood."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        log.read()  # an earlier loss that was not finite comes first: it is the reason
        raise type(error)(f"epoch {epoch}, step {step}: {error}") from error


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


# ---------------------------------------------------------------- the averaged generator


def averaged(generator):
    """Make a copy of a generator that follows the average of its weights and of its batch-normalisation statistics.

    Call `update_parameters(generator)` on it every AVERAGE_EVERY steps. Polyak averages for GANs: Yazici et al. (2019).

    Args:
        generator: the network to be trained, on any device.

    Returns:
        A `torch.optim.swa_utils.AveragedModel`; its `module` is the averaged generator.
    """
    average = AveragedModel(generator, multi_avg_fn=_move_towards, use_buffers=True)
    return average.requires_grad_(False).eval()


@torch.no_grad()
def _move_towards(averages, values, updates):
    """Move averages towards values, in place."""
    weight = 1 - decay_after(updates)  # a tensor: a plain number would have to be fetched from the device
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, weight)
        else:
            average.copy_(value)  # a batch normalisation's count of batches


def decay_after(updates):
    """Give the share of the average that stays at an update, AVERAGE_EVERY steps after the last one.

    It begins at 2/11 and grows with the updates until it is DECAY a step: the first weights know nothing, and an
    average that remembered them for thousands of steps would be behind.

    Args:
        updates: how many there were before this one, a scalar tensor.
    """
    return ((1 + updates) / (10 + updates)).clamp(max=DECAY ** AVERAGE_EVERY)
