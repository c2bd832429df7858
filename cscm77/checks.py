"""What the package refuses, and in which words: "name: expected this, found that".

A check returns what it was given, where the caller can use it in a plainer form.
Axes: N rows, Z latents, C classes.
"""

import math
import numbers
from operator import length_hint

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, IterableDataset

# ---------------------------------------------------------------- numbers


def check_whole(name, number, least=1, most=None):
    """The int of a whole number, numpy's too, in a range; True is none."""
    whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    if not whole or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: expected a whole number {bounds}, found {number!r}")
    return int(number)


def check_positive(name, number):
    """The float of a positive finite number, numpy's too; True is none."""
    real = isinstance(number, numbers.Real) and not isinstance(number, bool)
    if not real or not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, found {number!r}")
    return float(number)


def check_square(name, pixels):
    """The side of a square picture of so many pixels."""
    side = math.isqrt(check_whole(name, pixels))
    if side * side != pixels:
        raise ValueError(f"{name}: expected the pixels of a square image (784 = 28 x 28), "
                         f"found {pixels}")
    return side


# ---------------------------------------------------------------- images, labels, latents


def check_range(name, values):
    """Refuse values outside [0, 1], nan among them."""
    _check_bounds(name, *_bounds(values))


def _bounds(values):
    return [bound.item() for bound in values.detach().aminmax()]  # nan, where one value is


def _check_bounds(name, low, high):
    if not (low >= 0 and high <= 1):  # so put, nan is refused too
        raise ValueError(f"{name}: expected values in [0, 1], found {low:g} to {high:g}")


def check_images(images):
    """Refuse images that are not floating-point values in [0, 1], and none at all."""
    if not images.is_floating_point() or len(images) == 0:
        raise ValueError("images: expected floating-point values in [0, 1] and at least one image, "
                         f"found {images.dtype} {tuple(images.shape)}")
    check_range("images", images)


def check_image_size(images, pixels):
    """Refuse an empty batch, and images of another size."""
    if images.ndim < 2 or len(images) == 0 or images[0].numel() != pixels:
        raise ValueError(f"images: expected (N, ...) with N >= 1 and {pixels} pixels each, "
                         f"found {tuple(images.shape)}")


def check_labels(labels, class_size):
    """Refuse labels that are no row of integers; where looking costs nothing, other classes too."""
    if (labels.ndim != 1 or len(labels) == 0 or labels.dtype == torch.bool
            or labels.is_floating_point() or labels.is_complex()):
        raise ValueError("labels: expected integers of shape (N,), N >= 1, "
                         f"found {labels.dtype} {tuple(labels.shape)}")
    if labels.device.type == "cpu":
        low, high = _bounds(labels.long())
        if low < 0 or high >= class_size:
            raise ValueError(f"labels: expected 0 to {class_size - 1}, found {low} to {high}")


def check_one_hot(rows, number, class_size):
    """Refuse one-hot labels of another shape."""
    if rows.shape != (number, class_size):
        raise ValueError(f"one-hot labels: expected shape {(number, class_size)}, "
                         f"found {tuple(rows.shape)}")


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
        low, high = _bounds(x_hat)
        if math.isnan(low):
            raise FloatingPointError("x_hat: expected values in [0, 1], found nan; "
                                     "a smaller learning rate may help")
        _check_bounds("x_hat", low, high)


def check_scores(**scores):
    """Refuse scores of no images."""
    for name, values in scores.items():
        if values.numel() == 0:
            raise ValueError(f"{name}: expected at least one score, "
                             f"found shape {tuple(values.shape)}")


# ---------------------------------------------------------------- networks


class CheckedSequential(nn.Sequential):
    """Layers that name the width they expected, before a matrix product fails inside torch.

    Printed, sliced, copied, saved and scripted like an `nn.Sequential`; a slice expects nothing.

    Args:
        layers: the layers.
        expects: what goes in and its width, such as ("noise", 96), if any.
    """

    def __init__(self, *layers, expects=None):
        super().__init__(*layers)
        self.expects = expects

    def __call__(self, x):
        """Refuse another width, then go through the layers; a script has the layers alone."""
        if self.expects is not None:
            name, width = self.expects
            if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
                raise ValueError(f"{name}: expected shape (N, {width}) with N >= 1, "
                                 f"found {tuple(x.shape)}")
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
        raise ValueError("cond: expected True for a CVAE and False for a VAE, "
                         f"found {cond} for {type(model).__name__}")


def check_solver(name, solver, network):
    """Refuse an optimizer that misses what a network has to train, or moves other tensors too."""
    expected = f"{name}: expected an optimizer of {name[0]}'s parameters, found"
    if not hasattr(solver, "param_groups"):
        raise ValueError(f"{expected} {_in_words(solver)}")
    steered = {id(p) for group in solver.param_groups for p in group["params"]}
    own = {key: p for key, p in network.named_parameters() if p.requires_grad or id(p) in steered}
    missing = [key for key, p in own.items() if id(p) not in steered]
    others = len(steered - {id(p) for p in own.values()})
    if own and len(missing) == len(own):
        raise ValueError(f"{expected} one of other tensors")
    if missing:
        raise ValueError(f"{expected} one that misses {len(missing)} of {len(own)} "
                         f"({missing[0]} first): they would never learn")
    if others:
        raise ValueError(f"{expected} one of {others} other tensors beside: "
                         "it would move them too")


def check_scalar_loss(name, loss):
    """The loss as a scalar tensor; refuses what cannot be differentiated, where that is wanted."""
    wanted = torch.is_grad_enabled()
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad >= wanted:
        return loss.reshape(()) if loss.ndim else loss
    raise ValueError(f"{name}: expected a scalar tensor with a gradient, found {_in_words(loss)}")


def _in_words(value):
    if not isinstance(value, torch.Tensor):
        return "None" if value is None else f"{type(value).__name__} {value!r:.60}"
    if value.numel() == 1:
        return "a tensor without a gradient"
    return f"a tensor of shape {tuple(value.shape)}"


def check_batch_norm(batch_size, network):
    """Refuse batches of one image where a batch is normalised by its own spread."""
    if batch_size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in network.modules()):
        raise ValueError("batch_size: expected at least 2, since the network normalises each batch "
                         "(BatchNorm1d) and one image has no spread, found 1")


# ---------------------------------------------------------------- loaders and batches


def shape_of(value):
    """Name what was found: a tensor's dtype and shape, or else the type."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def check_loader(name, loader):
    """Refuse what gives no batches, or gives them only once; no random number is drawn for it."""
    found = _in_the_place_of_a_loader(loader)
    if found:
        raise ValueError(f"{name}: expected a loader of batches (images, labels), found {found}")
    if length_hint(loader, 1) == 0:
        raise ValueError(f"{name}: expected at least one batch, found none")


def _in_the_place_of_a_loader(found):
    kind = type(found).__name__
    if hasattr(found, "_fields"):
        return f"all of {kind}({', '.join(found._fields)}): pass one of them, such as .train"
    if isinstance(found, (list, tuple)) and found and isinstance(found[0], torch.Tensor):
        return "tensors: pass DataLoader(TensorDataset(images, labels), batch_size)"
    if isinstance(found, Dataset) and not isinstance(found, IterableDataset):
        return f"the data set {kind}: pass DataLoader(it, batch_size)"
    if hasattr(found, "__next__"):
        return f"a {kind}, which can be gone through only once"
    if isinstance(found, torch.Tensor) or not hasattr(found, "__iter__"):
        return shape_of(found)
    return None


def check_batch(batch):
    """Refuse what is no pair of images (N, ...) and N labels; it looks at no value."""
    if not isinstance(batch, (list, tuple)) or len(batch) != 2:
        found = shape_of(batch)
        if isinstance(batch, (list, tuple)):
            found += f" of {len(batch)}"
        raise ValueError(f"the loader: expected batches of (images, labels), found a {found}")
    images, labels = batch
    if not isinstance(images, torch.Tensor) or images.ndim == 0:
        raise ValueError(f"images: expected a tensor (N, ...), found {shape_of(images)}")
    if number_of(labels) != len(images):
        raise ValueError(f"labels: expected {len(images)}, one for each image, "
                         f"found {number_of(labels)} ({shape_of(labels)})")


def number_of(labels):
    """The length of a tensor, an array or a list; None for what has none, such as one number."""
    return len(labels) if hasattr(labels, "__len__") and getattr(labels, "shape", True) else None


def check_batch_size(batch_size, found):
    """Refuse a loader's batch of another size than the training was told."""
    if found != batch_size:
        raise ValueError(f"batch_size: expected batches of {batch_size} images from the loader, "
                         f"found one of {found}")
