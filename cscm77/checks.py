"""What the package refuses, and in which words: "name: expected this, found that".

A check returns what it was given, where the caller can use it in a plainer form.
"""

import math
import numbers
from operator import length_hint

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, IterableDataset


def _refusal(name, expected, found):
    return ValueError(f"{name}: expected {expected}, found {found}")


def shape_of(value):
    """What was found: a tensor's dtype and shape, or else the type."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def check_whole(name, number, least=1, most=None):
    """The int of a whole number, numpy's too, in a range; True is none."""
    whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    if not whole or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise _refusal(name, f"a whole number {bounds}", repr(number))
    return int(number)


def check_positive(name, number):
    """The float of a positive finite number, numpy's too; True is none."""
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not real or not 0 < number < math.inf:
        raise _refusal(name, "a positive number", repr(number))
    return float(number)


def check_square(name, pixels):
    """The side of a square picture of so many pixels."""
    side = math.isqrt(check_whole(name, pixels))
    if side * side != pixels:
        raise _refusal(name, "the pixels of a square image (784 = 28 x 28)", pixels)
    return side


def check_range(name, values, *, learned=False):
    """Refuse values outside [0, 1], nan among them, which in learned ones is an accident."""
    low, high = map(torch.Tensor.item, values.detach().aminmax())  # both nan, where one value is
    if learned and math.isnan(low):
        raise FloatingPointError(f"{name}: expected values in [0, 1], found nan; "
                                 "a smaller learning rate may help")
    if not (low >= 0 and high <= 1):  # so put, nan is refused too
        raise _refusal(name, "values in [0, 1]", f"{low:g} to {high:g}")


def check_images(images):
    """Refuse images that are not floating-point values in [0, 1], and none at all."""
    if not images.is_floating_point() or len(images) == 0:
        raise _refusal("images", "floating-point values in [0, 1] and at least one image",
                       shape_of(images))
    check_range("images", images)


def check_image_size(images, pixels):
    """Refuse an empty batch, and images of another size."""
    if images.ndim < 2 or len(images) == 0 or images[0].numel() != pixels:
        raise _refusal("images", f"(N, ...) with N >= 1 and {pixels} pixels each",
                       tuple(images.shape))


def check_labels(labels, class_size):
    """Refuse labels that are no row of integers; where looking costs nothing, other classes too."""
    if (labels.ndim != 1 or len(labels) == 0 or labels.dtype == torch.bool
            or labels.is_floating_point() or labels.is_complex()):
        raise _refusal("labels", "integers of shape (N,), N >= 1", shape_of(labels))
    if labels.device.type == "cpu":
        low, high = map(torch.Tensor.item, labels.long().aminmax())
        if low < 0 or high >= class_size:
            raise _refusal("labels", f"0 to {class_size - 1}", f"{low} to {high}")


def check_one_hot(rows, number, class_size):
    """Refuse one-hot labels of another shape."""
    if rows.shape != (number, class_size):
        raise _refusal("one-hot labels", f"shape {(number, class_size)}", tuple(rows.shape))


def check_posterior(mu, logvar):
    """Refuse means and log-variances that do not belong together."""
    if mu.shape != logvar.shape:
        raise ValueError("expected mu and logvar of one shape, "
                         f"found {tuple(mu.shape)} and {tuple(logvar.shape)}")


def check_reconstruction(x_hat, x, mu, logvar):
    """Refuse shapes that do not match; where looking costs nothing, pixels outside [0, 1]."""
    if x_hat.shape != x.shape or x.ndim == 0 or len(x) == 0 or len(x) != len(mu):
        raise ValueError(
            "expected x_hat and x of one shape, with as many rows as mu and at least one; "
            f"found x_hat {tuple(x_hat.shape)}, x {tuple(x.shape)}, mu {tuple(mu.shape)}")
    check_posterior(mu, logvar)
    if x.device.type == "cpu":
        check_range("x", x)
        check_range("x_hat", x_hat, learned=True)


def check_scores(**scores):
    """Refuse scores of no images."""
    for name, values in scores.items():
        if values.numel() == 0:
            raise _refusal(name, "at least one score", f"shape {tuple(values.shape)}")


class CheckedSequential(nn.Sequential):
    """An `nn.Sequential` that refuses another width, before a matrix product fails inside torch.

    `expects` is what goes in and its width, such as ("noise", 96); a slice expects nothing.
    """

    def __init__(self, *layers, expects=None):
        super().__init__(*layers)
        self.expects = expects

    def __call__(self, x):
        """Look at the width, then go through the layers; a script has the layers alone."""
        if self.expects is not None:
            name, width = self.expects
            if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
                raise _refusal(name, f"shape (N, {width}) with N >= 1", tuple(x.shape))
        return super().__call__(x)

    def _get_name(self):
        return "Sequential"


def unwrapped(model):
    """The model inside DataParallel, DistributedDataParallel or an average, else itself."""
    while isinstance(model, (DataParallel, DistributedDataParallel, AveragedModel)):
        model = model.module
    return model


def check_cond(model, cond):
    """Refuse a `cond` that does not fit; a model of the user's own need not say its num_classes."""
    model = unwrapped(model)
    num_classes = getattr(model, "num_classes", None)
    if num_classes is not None and bool(cond) != (num_classes > 0):
        raise _refusal("cond", "True for a CVAE and False for a VAE",
                       f"{cond} for {type(model).__name__}")


def check_solver(name, solver, network):
    """Refuse an optimizer that misses what a network has to train, or moves other tensors too."""
    expected = f"an optimizer of {name[0]}'s parameters"
    if not hasattr(solver, "param_groups"):
        raise _refusal(name, expected, shape_of(solver))
    moves = {id(p) for group in solver.param_groups for p in group["params"]}
    own = {key: id(p) for key, p in network.named_parameters() if p.requires_grad or id(p) in moves}
    if missing := [key for key in own if own[key] not in moves]:
        raise _refusal(name, expected, f"one that misses {len(missing)} of {len(own)} "
                                       f"({missing[0]} first): they would never learn")
    if others := len(moves - set(own.values())):
        raise _refusal(name, expected, f"one of {others} other tensors beside: "
                                       "it would move them too")


def check_scalar_loss(name, loss):
    """The loss as a scalar tensor; refuses what cannot be differentiated, where that is wanted."""
    scalar = isinstance(loss, torch.Tensor) and loss.numel() == 1
    if scalar and loss.requires_grad >= torch.is_grad_enabled():
        return loss.reshape(()) if loss.ndim else loss
    raise _refusal(name, "a scalar tensor with a gradient",
                   "a tensor without a gradient" if scalar else shape_of(loss))


def check_batch_norm(batch_size, network):
    """Refuse batches of one image where a batch is normalised by its own spread."""
    if batch_size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in network.modules()):
        raise _refusal("batch_size", "at least 2, since the network normalises each batch "
                       "(BatchNorm1d) and one image has no spread", 1)


def check_loader(name, loader):
    """Refuse what gives no batches, or gives them only once; no random number is drawn for it."""
    kind, found = type(loader).__name__, None
    if hasattr(loader, "_fields"):
        found = f"all of {kind}({', '.join(loader._fields)}): pass one of them, such as .train"
    elif isinstance(loader, (list, tuple)) and loader and isinstance(loader[0], torch.Tensor):
        found = "tensors: pass DataLoader(TensorDataset(images, labels), batch_size)"
    elif isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        found = f"the data set {kind}: pass DataLoader(it, batch_size)"
    elif hasattr(loader, "__next__"):
        found = f"a {kind}, which can be gone through only once"
    elif isinstance(loader, torch.Tensor) or not hasattr(loader, "__iter__"):
        found = shape_of(loader)
    if found:
        raise _refusal(name, "a loader of batches (images, labels)", found)
    if length_hint(loader, 1) == 0:
        raise _refusal(name, "at least one batch", "none")


def check_batch(batch):
    """Refuse what is no pair of images (N, ...) and N labels; it looks at no value."""
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        raise _refusal("the loader", "batches of (images, labels)",
                       f"a {shape_of(batch)} of {length_hint(batch)}")
    images, labels = batch
    if not isinstance(images, torch.Tensor) or images.ndim == 0:
        raise _refusal("images", "a tensor (N, ...)", shape_of(images))
    countable = hasattr(labels, "__len__") and getattr(labels, "shape", True)  # not one number
    number = len(labels) if countable else None
    if number != len(images):
        expected = f"{len(images)}, one for each image"
        raise _refusal("labels", expected, f"{number} ({shape_of(labels)})")


def check_batch_size(size, found):
    """Refuse a loader's batch of another size than the training was told."""
    if found != size:
        raise _refusal("batch_size", f"batches of {size} images from the loader", f"one of {found}")
