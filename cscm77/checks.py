"""What the package refuses, and in which words: what was expected, and what was found."""

import math


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
