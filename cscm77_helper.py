"""What the notebooks call: the loaders, pictures of digits, and the training loops of the VAEs and the GANs.

Axes: N images in a batch, D = 784 pixels, Z latents or noise dimensions, C classes.
"""

from contextlib import contextmanager
from operator import length_hint
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from cscm77.data import Digits, mnist_loaders
from cscm77.pictures import draw_digits, save_picture, show_and_close
from cscm77.utils import device_of, progress_bar
from gan import sample_noise
from vae import kl_divergence, loss_function, reconstruction

__all__ = ["hello_helper", "mnist_loaders", "show_images", "count_params", "initialize_weights", "one_hot",
           "train_vae", "evaluate_vae", "run_a_gan"]

NUM_CLASSES = 10
VAE_LEARNING_RATE = 1e-3
READ_EVERY = 50  # steps: reading a loss waits for the device, so it is not done at every step
SHOWN_SAMPLES = 16


def hello_helper():
    """Print a greeting: the notebook's sign that this file was found."""
    print("Hello from cscm77_helper.py!")


def show_images(images):
    """Draw images as one square grid in a new figure, which stays the current one.

    Args:
        images: (N, ...) tensor of square pictures, any range, any device.

    Raises:
        ValueError: no images, or pictures that are not square.
    """
    draw_digits(images)


def count_params(model):
    """Count a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def initialize_weights(m):
    """Give a layer Glorot and Bengio's (2010) uniform weights; for `model.apply`. Other layers stay as they are."""
    if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_uniform_(m.weight)


def one_hot(labels, class_size):
    """Turn labels into rows with a single 1.

    Args:
        labels: integers from 0 to class_size - 1, (N,).
        class_size: C.

    Returns:
        (N, C) float32 on the labels' device.

    Raises:
        ValueError: labels that are not a row of integers, or (on a CPU, where looking costs nothing) out of range.
    """
    if labels.ndim != 1 or len(labels) == 0 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels: expected integers of shape (N,), N >= 1, found {labels.dtype} {tuple(labels.shape)}")
    if labels.device.type == "cpu" and not (labels.min() >= 0 and labels.max() < class_size):
        raise ValueError(f"labels: expected 0 to {class_size - 1}, found {labels.min()} to {labels.max()}")
    return (labels.unsqueeze(1) == torch.arange(class_size, device=labels.device)).float()


# ---------------------------------------------------------------- variational autoencoders


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


def train_vae(epoch, model, train_loader, cond=False, *, val_loader=None):
    """Train a VAE or CVAE for one epoch, and print the epoch's mean loss.

    Adam (1e-3) is kept with the model from its first epoch to its last; epoch 0 starts it afresh.

    Args:
        epoch: number of this epoch, from 0.
        model: a `VAE`, or a `CVAE` with `cond=True`.
        train_loader: batches of (images (N, 1, 28, 28) in [0, 1], labels (N,)).
        cond: whether the model is given the one-hot label.
        val_loader: batches to measure the loss on after the epoch, if any.

    Returns:
        `VAEEpoch`: what a curve needs.

    Raises:
        ValueError: a negative epoch, a cond that does not fit the model, a loader without batches, images outside
            [0, 1], labels outside 0..9.
        FloatingPointError: the loss is no longer a finite number; says at which epoch and step.
    """
    _check_whole(0, epoch=epoch)
    _check_cond(model, cond)
    if val_loader is not None and length_hint(val_loader, 1) == 0:
        raise ValueError("val_loader: expected at least one batch, found none; with num_val=0 leave it out")
    optimizer = _optimizer_of(model, start=epoch == 0)
    model.train()
    log = _LossLog()
    with progress_bar(length_hint(train_loader) or None, f"Epoch {epoch}") as bar:
        for step, (x, labels) in enumerate(_batches(train_loader)):
            with _at(epoch, step, log):
                loss, parts = negative_elbo(model, x, labels, cond)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            log.add(epoch, step, len(x), loss, *parts)
            if (step + 1) % READ_EVERY == 0:
                bar.set_postfix(loss=f"{log.read()[-1][0]:.1f}", refresh=False)
            bar.update()
    loss, *parts = log.means()
    val_loss = evaluate_vae(model, val_loader, cond).loss if val_loader is not None else None
    print(f"Train Epoch: {epoch} \tLoss: {loss:.6f}")
    return VAEEpoch(epoch, loss, *parts, val_loss)


def evaluate_vae(model, loader, cond=False):
    """Measure a VAE's or CVAE's negative ELBO, with the same posterior noise at every call.

    The global random state is left as it was, so that measuring does not change training.

    Args:
        model: a `VAE`, or a `CVAE` with `cond=True`.
        loader: batches of (images (N, 1, 28, 28) in [0, 1], labels (N,)).
        cond: whether the model is given the one-hot label.

    Returns:
        `VAELosses`: means over all images of the loader.

    Raises:
        ValueError: a cond that does not fit the model, a loader without batches, images outside [0, 1], labels
            outside 0..9.
        FloatingPointError: a loss that is not a finite number.
    """
    _check_cond(model, cond)
    device = device_of(model)
    log = _LossLog()
    with _eval_mode(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for step, (x, labels) in enumerate(_batches(loader)):
            loss, parts = negative_elbo(model, x, labels, cond)
            log.add("of the evaluation", step, len(x), loss, *parts)
    return VAELosses(*log.means())


@contextmanager
def _eval_mode(model):
    """Put a model into eval mode, and back into the mode it was in, whatever happens."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def negative_elbo(model, x, labels, cond):
    """Give the loss with its gradient, and its two parts, reconstruction and KL, without."""
    x = x.to(device_of(model))
    if cond:
        c = one_hot(labels, getattr(model, "num_classes", NUM_CLASSES)).to(x.device)
        x_hat, mu, logvar = model(x, c)
    else:
        x_hat, mu, logvar = model(x)
    loss = loss_function(x_hat, x, mu, logvar)
    with torch.no_grad():
        parts = reconstruction(x_hat, x), kl_divergence(mu, logvar)
    return loss, parts


_optimizers = WeakKeyDictionary()  # model -> its Adam, since `train_vae` is called once an epoch


def _optimizer_of(model, start):
    parameters = list(model.parameters())
    kept = _optimizers.get(model)
    same = kept is not None and [id(p) for p in parameters] == [id(p) for p in kept.param_groups[0]["params"]]
    if start or not same:
        # one kernel updates all weights, where the device has it: the same formula, less time
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        _optimizers[model] = torch.optim.Adam(parameters, lr=VAE_LEARNING_RATE, fused=fused)
    return _optimizers[model]


# ---------------------------------------------------------------- generative adversarial networks


class GANHistory(NamedTuple):
    """The losses of D and G, step by step."""

    d_loss: list
    g_loss: list


def discriminator_step(D, G, D_solver, discriminator_loss, real, noise):
    """Take one step of D on real and generated images; G stays as it is.

    Goodfellow et al. (2014), algorithm 1.

    Args:
        D: discriminator, (N, 784) -> (N, 1).
        G: generator, (N, Z) -> (N, 784).
        D_solver: optimizer of D.
        discriminator_loss: of (scores of real images, scores of generated ones).
        real: images in [-1, 1], (N, 784).
        noise: (N, Z).

    Returns:
        The loss before the step, a scalar without gradient.
    """
    with torch.no_grad():  # G is not trained here
        fake = G(noise)
    loss = discriminator_loss(D(real), D(fake))
    D_solver.zero_grad(set_to_none=True)
    loss.backward()
    D_solver.step()
    return loss.detach()


def generator_step(D, G, G_solver, generator_loss, noise):
    """Take one step of G on D's scores of its images; D stays as it is.

    Goodfellow et al. (2014), algorithm 1.

    Args:
        D: discriminator, (N, 784) -> (N, 1).
        G: generator, (N, Z) -> (N, 784).
        G_solver: optimizer of G.
        generator_loss: of the scores of generated images.
        noise: (N, Z).

    Returns:
        The loss before the step, a scalar without gradient, and the images it was taken on, (N, 784).
    """
    with _frozen(D):  # gradients pass through D to G, but none are made for D's weights
        fake = G(noise)
        loss = generator_loss(D(fake))
        G_solver.zero_grad(set_to_none=True)
        loss.backward()
    G_solver.step()
    return loss.detach(), fake.detach()


def run_a_gan(D, G, D_solver, G_solver, discriminator_loss, generator_loss, save_filename, show_every=250,
              batch_size=128, noise_size=96, num_epochs=10, *, loader_train=None):
    """Train a GAN: one step of D, one step of G, batch by batch.

    Args:
        D: discriminator, (N, 784) in [-1, 1] -> (N, 1).
        G: generator, (N, noise_size) in [-1, 1] -> (N, 784) in [-1, 1].
        D_solver: optimizer of D.
        G_solver: optimizer of G.
        discriminator_loss: of (scores of real images, scores of generated ones).
        generator_loss: of the scores of generated images.
        save_filename: where the last picture is saved; its folder is made.
        show_every: steps between two lines of losses with 16 samples.
        batch_size: N; batches of another size are passed over.
        noise_size: Z.
        num_epochs: passes over the training images.
        loader_train: batches of (images in [0, 1], labels); the default MNIST ones when not given.

    Returns:
        `GANHistory`.

    Raises:
        ValueError: a negative number of epochs, an optimizer of another network, images outside [0, 1], or not one
            batch of batch_size images.
        FloatingPointError: a loss is no longer a finite number; says at which epoch and step.
    """
    _check_whole(0, num_epochs=num_epochs)
    _check_whole(1, show_every=show_every, batch_size=batch_size, noise_size=noise_size)
    _check_solvers(D_solver=(D_solver, D), G_solver=(G_solver, G))
    path = Path(save_filename)
    device = device_of(G)
    loader = loader_train if loader_train is not None else mnist_loaders(batch_size, device=device).train
    D.train()
    G.train()
    log = _LossLog()
    with progress_bar(num_epochs * length_hint(loader) or None, f"{num_epochs} epochs") as bar:
        for epoch in range(num_epochs):
            for x, _ in _full_batches(loader, batch_size):
                real = 2 * x.to(device).flatten(1) - 1  # (N, 784), [0, 1] -> [-1, 1]
                noise = sample_noise(batch_size, noise_size, dtype=real.dtype, device=device)
                d_loss = discriminator_step(D, G, D_solver, discriminator_loss, real, noise)
                noise = sample_noise(batch_size, noise_size, dtype=real.dtype, device=device)
                g_loss, fake = generator_step(D, G, G_solver, generator_loss, noise)

                iteration = len(log)
                log.add(epoch, iteration, batch_size, d_loss, g_loss)
                if iteration % READ_EVERY == 0:
                    bar.set_postfix(epoch=epoch, **_named(log.read()[-1]), refresh=False)
                if iteration % show_every == 0:
                    bar.clear()
                    _show_progress(iteration, log, fake)
                bar.update()
    if num_epochs > 0:
        save_picture(draw_digits(fake[:SHOWN_SAMPLES], title=_data_name(loader)), path)
    return GANHistory(*([row[i] for row in log.read()] for i in range(2)))


def _named(losses):
    return {name: f"{loss:.3f}" for name, loss in zip("DG", losses, strict=True)}


def _show_progress(iteration, log, fake):
    d_loss, g_loss = log.read()[-1]
    print(f"Iter: {iteration}, D: {d_loss:.4}, G:{g_loss:.4}")
    show_and_close(draw_digits(fake[:SHOWN_SAMPLES]))
    print()


def _data_name(loader):
    """Give the name of what was learned, where the data set says it: stand-in digits must never pass for MNIST."""
    name = getattr(getattr(loader, "dataset", None), "name", None)
    return f"learned from {name}" if name else None


@contextmanager
def _frozen(network):
    """Make no gradients for a network's weights; they still pass through it."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


# ---------------------------------------------------------------- what both loops share


class _LossLog:
    """The losses of the steps so far, kept on the device until they are read."""

    def __init__(self):
        self._steps, self._waiting, self._rows = [], [], []

    def __len__(self):
        return len(self._steps)

    def add(self, epoch, step, batch_size, *losses):
        self._steps.append((epoch, step, batch_size))
        self._waiting.append(torch.stack([loss.detach() for loss in losses]))

    def read(self):
        """Give a row of floats for each step; the first that is not finite ends the training."""
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
        """Average each loss over the images seen."""
        if not self._steps:
            raise ValueError("the loader: expected at least one batch, found none")
        sizes = torch.tensor([size for _, _, size in self._steps], dtype=torch.float64)
        return (sizes @ torch.tensor(self.read(), dtype=torch.float64) / sizes.sum()).tolist()


@contextmanager
def _at(epoch, step, log):
    """Say in an error where the training stood."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        log.read()  # an earlier loss that was not finite comes first: it is the reason
        raise type(error)(f"epoch {epoch}, step {step}: {error}") from error


def _batches(loader):
    """Yield (images, labels); those of other data sets than ours are looked at first."""
    known = isinstance(getattr(loader, "dataset", None), Digits)
    for images, labels in loader:
        if not known:
            _check_images(images)
        yield images, labels


def _full_batches(loader, batch_size):
    """Yield the batches of batch_size images, of which there must be one."""
    largest = 0
    for images, labels in _batches(loader):
        largest = max(largest, len(images))
        if len(images) == batch_size:
            yield images, labels
    if largest < batch_size:
        raise ValueError(f"batch_size: expected batches of {batch_size} images, "
                         f"found none, the largest batch of the loader has {largest}")


def _check_images(images):
    if not images.is_floating_point() or len(images) == 0:
        raise ValueError("images: expected floating-point values in [0, 1] and at least one image, "
                         f"found {images.dtype} {tuple(images.shape)}")
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= 0 and high <= 1):  # so put, nan is refused too
        raise ValueError(f"images: expected values in [0, 1], found {low:g} to {high:g}")


def _check_whole(least, **numbers):
    for name, number in numbers.items():
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, found {number!r}")


def _check_cond(model, cond):
    num_classes = getattr(model, "num_classes", None)  # a model of the user's own need not say
    if num_classes is not None and bool(cond) != (num_classes > 0):
        raise ValueError(f"cond: expected True for a CVAE and False for a VAE, found {cond} for {type(model).__name__}")


def _check_solvers(**solvers):
    for name, (solver, network) in solvers.items():
        steered = {id(p) for group in solver.param_groups for p in group["params"]}
        if not steered & {id(p) for p in network.parameters()}:
            raise ValueError(f"{name}: expected an optimizer of {name[0]}'s parameters, found one of other tensors")
