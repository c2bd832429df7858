"""What a training leaves to look back on: losses, probabilities, scores, averages, samples."""

import math
import weakref
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cscm77.utils import copy_of, device_of, eval_mode, seeded

VAE_DECAY, GAN_DECAY = 0.995, 0.999  # of the averaged weights, a step
AVERAGE_EVERY = 8  # steps: reading all weights at each step would cost more than it brings
SHOWN_SAMPLES = 16  # of the last step, for the picture


class LossLog:
    """The losses of all steps, left on the device until they are read: reading waits for it."""

    def __init__(self):
        self._steps, self._waiting, self._rows = [], [], []

    def __len__(self):
        return len(self._steps)

    def add(self, epoch, batch_size, *losses):
        """Note the losses of a step on batch_size images, scalar tensors."""
        self._steps.append((epoch, batch_size))
        self._waiting.append(torch.stack([loss.detach() for loss in losses]))

    def read(self):
        """A row of floats for each step; one that is not finite is an error with its place."""
        if self._waiting:
            rows = torch.stack(self._waiting).tolist()
            for step, row in enumerate(rows, len(self._rows)):
                if not all(map(math.isfinite, row)):
                    raise FloatingPointError(
                        f"epoch {self._steps[step][0]}, step {step}: expected a finite loss, "
                        f"found {row}; a smaller learning rate may help")
            self._rows += rows
            self._waiting.clear()
        return self._rows

    def means(self):
        """Each loss, averaged over the images seen, of which there must be some."""
        if not self._steps:
            raise ValueError("the loader: expected at least one batch, found none")
        sizes = torch.tensor([size for _, size in self._steps], dtype=torch.float64)
        return (sizes @ torch.tensor(self.read(), dtype=torch.float64) / sizes.sum()).tolist()

    def state_dict(self):
        """The steps and their losses as two tensors."""
        return {"steps": torch.tensor(self._steps),
                "losses": torch.tensor(self.read(), dtype=torch.float64)}

    def load_state_dict(self, state):
        """Take the steps and losses of another log in the place of one's own."""
        self._waiting.clear()
        self._steps = [tuple(step) for step in state["steps"].tolist()]
        self._rows = state["losses"].tolist()


class VAEEpoch(NamedTuple):
    """One epoch of a VAE, in nats per image: means over its training images."""

    epoch: int
    loss: float
    reconstruction: float
    kl: float
    val_loss: float | None = None  # of the weights at its end; None without a validation loader
    reconstructed: torch.Tensor | None = None  # by them, the first validation images: (10, 784)


class VAELosses(NamedTuple):
    """The negative ELBO and its two parts, in nats per image."""

    loss: float
    reconstruction: float
    kl: float


class VAEJournal:
    """The losses of the epoch under way, a `VAEEpoch` of each that is done, the averaged model."""

    SHOWN = "loss={:.1f}"  # what a progress bar shows of the losses

    def __init__(self, model):
        self.log, self.epochs = LossLog(), []
        self.model, self.average = weakref.proxy(model), averaged(model, VAE_DECAY)
        self.networks = {"model_average": self.average}  # in a checkpoint, beside the model

    def note(self, epoch, batch_size, *losses):
        """Note a step: the loss and its two parts."""
        if len(self.log) % AVERAGE_EVERY == 0:
            self.average.update_parameters(self.model)
        self.log.add(epoch, batch_size, *losses)

    def state_dict(self):
        """All of it, as plain types and tensors."""
        return {"log": self.log.state_dict(), "epochs": [list(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state):
        """Take the contents of another journal in the place of one's own."""
        self.log.load_state_dict(state["log"])
        self.epochs = [VAEEpoch(*epoch) for epoch in state["epochs"]]


class GANHistory(NamedTuple):
    """What a training leaves beside the trained G; losses and probabilities are step by step."""

    d_loss: list
    g_loss: list
    G_average: nn.Module | None = None  # of the exponential average of G's weights, in eval mode
    G_best: dict | None = None  # G's state of the highest score, without one that of the last step
    d_real: list = []  # D's mean probability for real images, before the step
    d_fake: list = []  # and for generated ones
    scores: list = []  # one number an epoch, where a score was asked for
    strip: torch.Tensor | None = None  # of one noise, while it trained: (moments, samples, 784)


class GANJournal:
    """The losses and probabilities of all steps, the averaged and the best G, samples and a strip.

    The strip is drawn from `noise`, (samples, Z), every show_every steps, and `show`, a function of
    this journal, called; `probability` and `score` are as in `run_a_gan`.
    """

    SHOWN = "D={:.3f}, G={:.3f}"

    def __init__(self, G, noise, show_every, probability, score, show):
        self.G, self.noise, self.show_every = G, noise, show_every
        self.probability, self.score, self.show = probability, score, show
        self.log, self.samples, self.strip, self.scores = LossLog(), torch.empty(0), [], []
        self.average = averaged(G, GAN_DECAY)
        self.best = G if score is None else copy_of(G)
        self.networks = {"G_average": self.average}
        if score is not None:
            self.networks["G_best"] = self.best

    def note(self, epoch, d_loss, g_loss, scores, fake):
        """Note a step: losses, D's scores of real and generated images, these (N, 784)."""
        step = len(self.log)
        means = (self.probability(s).mean().to(d_loss.dtype) for s in scores)
        self.log.add(epoch, len(fake), d_loss, g_loss.to(d_loss.dtype), *means)
        self.samples = fake[:SHOWN_SAMPLES]
        if step % AVERAGE_EVERY == 0:
            self.average.update_parameters(self.G)
        if step % self.show_every == 0:
            with eval_mode(self.G), torch.no_grad():
                self.strip.append(self.G(self.noise).cpu())
            self.show(self)

    def line(self, step):
        """The losses of a step as the brief prints them."""
        d_loss, g_loss, *_ = self.log.read()[step]
        return f"Iter: {step}, D: {d_loss:.4}, G:{g_loss:.4}"

    def score_epoch(self, epoch):
        """Score G, if that was asked for, and keep its weights where they are the best so far."""
        if self.score is None:
            return
        with eval_mode(self.G), torch.no_grad(), seeded(device_of(self.G)):
            value = float(self.score(self.G))
        if not math.isfinite(value):
            raise FloatingPointError(f"epoch {epoch}: expected a finite score, found {value}")
        if all(value > earlier for earlier in self.scores):
            self.best.load_state_dict(self.G.state_dict())
        self.scores.append(value)

    def history(self):
        """What `run_a_gan` returns."""
        d_loss, g_loss, d_real, d_fake = ([row[i] for row in self.log.read()] for i in range(4))
        best = {name: values.clone() for name, values in self.best.state_dict().items()}
        return GANHistory(d_loss, g_loss, self.average.module, best, d_real, d_fake, self.scores,
                          torch.stack(self.strip) if self.strip else None)

    def state_dict(self):
        """All of it but the networks, as plain types and tensors."""
        return {"log": self.log.state_dict(), "strip": self.strip, "scores": self.scores,
                "samples": self.samples.cpu().clone()}  # of a view, the whole batch would be saved

    def load_state_dict(self, state):
        """Take the contents of another journal in the place of one's own."""
        self.log.load_state_dict(state["log"])
        self.strip, self.scores, self.samples = state["strip"], state["scores"], state["samples"]


@torch.no_grad()  # the copy of a scripted network would hang on the network's own weights
def averaged(network, decay, every=AVERAGE_EVERY):
    """An `AveragedModel` of a network's weights and batch statistics; its `module` is a copy.

    `update_parameters(network)` is due every so many steps; decay is that of one. Polyak and
    Juditsky (1992); for GANs, Yazici et al. (2019).
    """
    follow = partial(_move_towards, decay=decay ** every)
    average = AveragedModel(copy_of(network), multi_avg_fn=follow, use_buffers=True)
    return average.requires_grad_(False).eval()


@torch.no_grad()
def _move_towards(averages, values, updates, decay):
    """Move averages towards values, in place; the share that stays grows from 2/11 to `decay`."""
    # The first weights know nothing: an average that remembered them for long would be behind.
    weight = 1 - ((1 + updates) / (10 + updates)).clamp(max=decay)  # a tensor, never fetched
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, weight.to(average.dtype))
        else:
            average.copy_(value)  # a batch normalisation's count of batches
