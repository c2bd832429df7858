"""What both training loops share: the losses of the steps, the batches, modes, and what is refused.

Axes: N images in a batch.
"""

import math
from contextlib import contextmanager

import torch

from cscm77.data import Digits


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


@contextmanager
def eval_mode(model):
    """Put a model into eval mode, and back into the mode it was in, whatever happens."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def seeded(device, seed=0):
    """Draw random numbers from a seed for a while; those of the training are left as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def frozen(network):
    """Make no gradients for a network's weights; they still pass through it."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


# ---------------------------------------------------------------- batches


def checked_batches(loader):
    """Yield (images, labels); those of other data sets than ours are looked at first.

    Args:
        loader: batches of (images in [0, 1], labels).

    Raises:
        ValueError: images that are not floating-point, or outside [0, 1], or none.
    """
    known = isinstance(getattr(loader, "dataset", None), Digits)
    for images, labels in loader:
        if not known:
            check_images(images)
        yield images, labels


def full_batches(loader, batch_size):
    """Yield the batches of batch_size images, of which there must be one.

    Args:
        loader: batches of (images in [0, 1], labels).
        batch_size: N; batches of another size are passed over.

    Raises:
        ValueError: no batch of that size, or images as in `checked_batches`.
    """
    largest = 0
    for images, labels in checked_batches(loader):
        largest = max(largest, len(images))
        if len(images) == batch_size:
            yield images, labels
    if largest < batch_size:
        raise ValueError(f"batch_size: expected batches of {batch_size} images, "
                         f"found none, the largest batch of the loader has {largest}")


# ---------------------------------------------------------------- what is refused, and in which words


def check_images(images):
    """Refuse images that are not floating-point values in [0, 1], and none at all."""
    if not images.is_floating_point() or len(images) == 0:
        raise ValueError("images: expected floating-point values in [0, 1] and at least one image, "
                         f"found {images.dtype} {tuple(images.shape)}")
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= 0 and high <= 1):  # so put, nan is refused too
        raise ValueError(f"images: expected values in [0, 1], found {low:g} to {high:g}")


def check_whole(name, number, least):
    """Refuse what is not a whole number of at least `least`."""
    if not isinstance(number, int) or number < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, found {number!r}")


def check_positive(name, number):
    """Refuse what is not a positive finite number."""
    if not isinstance(number, (int, float)) or not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, found {number!r}")


def check_cond(model, cond):
    """Refuse a `cond` that does not fit the model; a model of the user's own need not say how many classes it has."""
    num_classes = getattr(model, "num_classes", None)
    if num_classes is not None and bool(cond) != (num_classes > 0):
        raise ValueError(f"cond: expected True for a CVAE and False for a VAE, found {cond} for {type(model).__name__}")


def check_solver(name, solver, network):
    """Refuse an optimizer that moves none of a network's parameters."""
    steered = {id(p) for group in solver.param_groups for p in group["params"]}
    if not steered & {id(p) for p in network.parameters()}:
        raise ValueError(f"{name}: expected an optimizer of {name[0]}'s parameters, found one of other tensors")
