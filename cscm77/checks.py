"""What the package refuses, and in which words: what was expected, and what was found."""

import math
from numbers import Integral
from operator import length_hint

import torch
from torch.utils.data import Dataset, IterableDataset


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


# ---------------------------------------------------------------- loaders and batches


def shape_of(value):
    """Name what was found: a tensor's dtype and shape, or else the type."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def check_between(name, number, low, high, explanation=""):
    """Refuse what is not a whole number from `low` to `high`; numpy's are, True is none."""
    whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not whole or not low <= number <= high:
        raise ValueError(f"{name}: expected a whole number from {low} to {high}{explanation}, "
                         f"found {number!r}")


def check_loader(name, loader):
    """Refuse what gives no batches, or gives them only once; no random number is drawn for it."""
    found = None
    if hasattr(loader, "_fields"):
        fields = ", ".join(loader._fields)
        found = f"all of {type(loader).__name__}({fields}): pass one of them, such as .train"
    elif isinstance(loader, (list, tuple)) and any(isinstance(x, torch.Tensor) for x in loader):
        found = "tensors: pass DataLoader(TensorDataset(images, labels), batch_size)"
    elif isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        found = f"the data set {type(loader).__name__}: pass DataLoader(it, batch_size)"
    elif hasattr(loader, "__next__"):
        found = f"a {type(loader).__name__}, which can be gone through only once"
    elif isinstance(loader, torch.Tensor) or not hasattr(loader, "__iter__"):
        found = shape_of(loader)
    elif length_hint(loader, 1) == 0:
        raise ValueError(f"{name}: expected at least one batch, found none")
    if found:
        raise ValueError(f"{name}: expected a loader of batches (images, labels), found {found}")


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
