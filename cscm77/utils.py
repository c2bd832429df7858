"""Small things that notebooks and trainings need: seeds, settings, one-hot rows, networks."""

import copy
import os
import platform
import random
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize
from tqdm import tqdm

from cscm77.checks import check_labels, check_whole, unwrapped

__all__ = ["reset_seed", "keep_freed_memory", "unwrapped"]  # what is asked for here


def reset_seed(number):
    """Seed Python's and torch's random numbers, on every device, with an integer of 64 bits."""
    number = check_whole("number", number, least=-2**63, most=2**64 - 1)  # torch's own bounds
    random.seed(number)
    torch.manual_seed(number)


def keep_freed_memory():
    """Let freed memory wait for the next tensor: else the system is asked for it at each step."""
    # Linux's C library keeps blocks as large as the largest that it has seen freed, if that is
    # below 32 MiB; elsewhere this does nothing.
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # freed at once


@contextmanager
def arithmetic(precision, *, flush=None):
    """Set how exactly numbers are multiplied, and what becomes of tiny ones; both are put back.

    The precision of float32 products, a GPU's convolutions too, is "highest", "high" or "medium".
    `flush`: whether numbers below 1e-38 become zeros, in this thread and those that torch starts
    from then on; None leaves that as it is.
    """
    kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    flushed = sys.float_info.min / 2 == 0  # torch does not tell
    try:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
        torch.set_flush_denormal(flushed if flush is None else flush)
        yield
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]
        torch.set_flush_denormal(flushed)


@contextmanager
def seeded(device, seed=0):
    """Draw random numbers from a seed for a while; those of the training stay as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def default_device():
    """The device to train on: "cuda" where there is one, else "cpu"."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model):
    """The device that a model's parameters are on."""
    return next(model.parameters()).device


def dtype_of(model):
    """The floating-point type that a model computes with."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def processor_name(device):
    """The name of a `torch.device`'s processor, as well as the system can tell it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # the file is Linux's
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name\s*:(.*)$", about, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def printable_output():
    """Let output that a terminal has no letters for come out as escapes, and stop nothing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's stream shows everything
            stream.reconfigure(errors="backslashreplace")


def in_notebook():
    """Whether this is a kernel with a page in front of it (Jupyter, Colab, VS Code)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def progress_bar(total, description, unit="it", done=0):
    """A `tqdm` bar on standard output, in a terminal or notebook; a log or saved page holds none.

    `total` is None where it is not known, `done` the steps taken before; "B" becomes kB and MB.
    """
    wanted = os.environ.get("TQDM_DISABLE", "0") in ("", "0")  # tqdm's own variable
    return tqdm(total=total, initial=done, desc=description, file=sys.stdout, leave=False,
                dynamic_ncols=True, unit=unit, unit_scale=unit == "B",
                disable=not (wanted and (in_notebook() or sys.stdout.isatty())))


def one_hot(labels, class_size, *, like=None):
    """Rows (N labels, C classes) with a single 1 each: float32 where those are, or as `like` is.

    Labels are integers from 0 to C - 1, (N,), a tensor or a list; others are a ValueError (out of
    range on a CPU alone, where looking is free).
    """
    class_size, labels = check_whole("class_size", class_size), torch.as_tensor(labels)
    check_labels(labels, class_size)
    dtype, device = (torch.float32, labels.device) if like is None else (like.dtype, like.device)
    classes = torch.arange(class_size, device=device)  # int64: a byte holds no class 300
    return (labels.to(device, torch.int64).unsqueeze(1) == classes).to(dtype)


@torch.no_grad()
def initialize_weights(m):
    """Draw a layer's weights anew, uniformly: Glorot and Bengio (2010); for `model.apply`.

    Linear and transposed convolutions alone, as the course has it, with the same draws in every
    memory format. Weights computed from others are set through those, or a ValueError says why not.
    """
    if not isinstance(m, (nn.Linear, nn.ConvTranspose2d)):
        return
    drawn = torch.empty_like(m.weight, memory_format=torch.contiguous_format)
    nn.init.xavier_uniform_(drawn)
    try:
        if parametrize.is_parametrized(m, "weight"):
            m.weight = drawn  # calls each parametrization's right_inverse
        elif hasattr(m, "weight_g"):  # nn.utils.weight_norm: weight = g v / |v|
            m.weight_v.copy_(drawn)
            m.weight_g.copy_(drawn.square().sum_to_size(m.weight_g.shape).sqrt())
        else:  # nn.utils.spectral_norm and pruning compute from a weight_orig
            m.get_parameter("weight_orig" if hasattr(m, "weight_orig") else "weight").copy_(drawn)
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        raise ValueError("initialize_weights: expected a weight that can be assigned to, "
                         f"found a computed one in {type(m).__name__} ({error})") from error


def channels_last(network, optimizer=None):
    """Turn the order of 2-D convolutions' weights in memory into the one read fastest, in place."""
    # And that of what an optimizer keeps: fused Adam walks through both as they lie in memory.
    for p in network.parameters():
        kept = optimizer.state.get(p, {}) if optimizer is not None else {}
        for tensor in (p, p.grad, *kept.values()):
            if torch.is_tensor(tensor) and tensor.shape == p.shape and p.ndim == 4:
                tensor.data = tensor.data.to(memory_format=torch.channels_last)


def copy_of(network):
    """A deep copy, even of what `copy.deepcopy` refuses: a last weight that was computed."""
    # `nn.utils.spectral_norm` and `weight_norm` keep one, with its gradient's history.
    computed = (value for module in network.modules() for value in vars(module).values()
                if torch.is_tensor(value) and not value.is_leaf)
    return copy.deepcopy(network, {id(value): value.detach().clone() for value in computed})


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
