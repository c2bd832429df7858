"""What makes one run another: networks, optimizers in force, data, and what the losses give.

An identity is {field: plain value}; a value of None means that it could not be known.
"""

import copy
import hashlib
import math
import numbers
from operator import length_hint

import torch
from torch import nn

from cscm77.checks import unwrapped
from cscm77.training import checkpoints
from cscm77.utils import device_of, seeded

HOW_NOT_WHAT = ("params", "fused", "foreach", "capturable", "differentiable")
SAMPLED = 24  # items of a data set that stand for all
CPU = torch.device("cpu")


def check_same_run(path, expected, found):
    """Refuse the checkpoint of another run, by the first field that differs and both values."""
    for field in [*expected, *(set(found) - set(expected))]:
        absent = None if ", " in field else "nothing"  # other torch, other settings of an optimizer
        ours, theirs = expected.get(field, absent), found.get(field, absent)
        if ours != theirs and ours is not None and theirs is not None:
            raise checkpoints.CheckpointError(
                f"{path.name} is the checkpoint of another run. {field}: "
                f"{_difference(ours, theirs)}. {checkpoints.START_OVER}")


def _difference(expected, found):
    if isinstance(expected, str) and isinstance(found, str):  # of networks, the first other layer
        for ours, theirs in zip(expected.splitlines(), found.splitlines(), strict=False):
            if ours != theirs:
                return f"expected {ours.strip()}, found {theirs.strip()}"
    return f"expected {expected}, found {found}"


def of_vae(model, cond, optimizer, functions, loader):
    """The identity of a VAE's training; its functions are `loss_function` and `reparametrize`."""
    data, inner, (loss, reparametrize) = of_data(loader), unwrapped(model), functions
    number, side = data["batch size"] or 2, math.isqrt(getattr(inner, "input_size", 784))
    x_hat, x = (torch.full((number, 1, side, side), v) for v in (0.25, 0.75))
    mu, logvar = (torch.full((number, getattr(inner, "latent_size", 15)), v) for v in (0.5, -0.5))
    return {"class": type(inner).__name__, "network": str(model), "cond": bool(cond),
            **of_optimizer("optimizer", optimizer), **data,
            "loss of made-up images": value_of(loss, x_hat, x, mu, logvar),
            "noise of made-up latents": value_of(
                lambda *posterior: reparametrize(*posterior).sum(), mu, logvar)}


def of_gan(parts, losses, batch_size, noise_size, scored, loader):
    """The identity of a GAN's training: D, G and their solvers by name; the losses of both."""
    (d_loss, g_loss), device = losses, device_of(parts["G"])
    scores = torch.linspace(-2, 2, batch_size, device=device).unsqueeze(1)  # (N, 1)
    return {"D": str(parts["D"]), "G": str(parts["G"]),
            **of_optimizer("D_solver", parts["D_solver"]),
            **of_optimizer("G_solver", parts["G_solver"]),
            "noise_size": int(noise_size), "scored": scored,
            **of_data(loader), "batch size": int(batch_size),
            "loss of D for made-up scores": value_of(d_loss, scores + 1, scores),
            "loss of G for made-up scores": value_of(g_loss, scores)}


def of_optimizer(name, optimizer):
    """An optimizer's class and the numbers in force in its groups; a scheduler may set them."""
    groups, fields = optimizer.param_groups, {name: type(optimizer).__name__}
    for setting in groups[0]:
        values = [_plain(group.get(setting)) for group in groups]
        if setting not in HOW_NOT_WHAT and isinstance(values[0], (int, float, list)):
            fields[f"{name}, {setting}"] = values if len(groups) > 1 else values[0]
    fields[f"{name}, parameters"] = [sum(p.numel() for p in group["params"]) for group in groups]
    return fields


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    real = isinstance(value, numbers.Real) and not isinstance(value, int)
    return float(f"{value:.6g}") if real else value  # a tensor's 0.001 is not quite Python's


def of_data(loader):
    """What makes one run's data another's: name, number, batches, order, a digest of some items."""
    dataset = getattr(loader, "dataset", None)
    source = loader if dataset is None else dataset
    of_list = isinstance(loader, (list, tuple)) and len(loader) > 0
    return {"data": str(getattr(source, "name", type(source).__name__)),
            "images": length_hint(dataset) if dataset is not None else None,
            "batch size": len(loader[0][0]) if of_list else getattr(loader, "batch_size", None),
            "batches": length_hint(loader),
            "order": type(getattr(loader, "sampler", None)).__name__,
            "digest of some images": digest_of_items(source, loader)}


def digest_of_items(items, loader):
    """A digest of some spread items of a data set or list, or None; it moves no random number."""
    states = checkpoints.random_states(CPU, loader)
    try:
        places = torch.linspace(0, len(items) - 1, min(SAMPLED, len(items))).long().tolist()
        once, again = (_digest([items[place] for place in places]) for _ in range(2))
        return once if once == again else None  # some change by themselves
    except Exception:  # no items by number, or whatever a data set of the user's own may raise
        return None
    finally:
        checkpoints.set_random_states(states, CPU, loader)


def digest_of_weights(parts):
    """A digest of the networks that an optimizer among the parts trains."""
    trained = {id(p) for part in parts if isinstance(part, torch.optim.Optimizer)
               for group in part.param_groups for p in group["params"]}
    return _digest([part.state_dict() for part in parts if isinstance(part, nn.Module)
                    and any(id(p) in trained for p in part.parameters())])


def _digest(value):
    sha = hashlib.sha1(usedforsecurity=False)
    _feed(sha, value)
    return sha.hexdigest()[:12]


def _feed(sha, value):
    """Feed what has a value of its own; the text of anything else may hold an address."""
    if isinstance(value, torch.Tensor):
        sha.update(f"{value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.detach().cpu().contiguous().numpy())
    elif isinstance(value, dict):
        _feed(sha, list(value.items()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(sha, item)
    elif hasattr(value, "tobytes"):  # of numpy, of PIL
        sha.update(value.tobytes())
    elif isinstance(value, (str, bytes, numbers.Number)):
        sha.update(repr(value).encode())
    else:
        raise TypeError(f"value: expected tensors, arrays, images or numbers, found {type(value)}")


def value_of(function, *arguments):
    """What a loss gives for made-up arguments, in 5 digits; None where it cannot be asked so."""
    # So an edited comment makes no other run, and an edited formula does.
    try:
        with torch.no_grad(), seeded(arguments[0].device):  # it may draw random numbers
            return f"{float(copy.deepcopy(function)(*arguments)):.5g}"  # a copy counts the call
    except Exception:  # whatever a loss of the user's own may raise
        return None
