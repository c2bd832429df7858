"""Small things that both notebooks and the training loops need: seeds, the device, a progress bar."""

import os
import platform
import random
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from tqdm import tqdm

LARGEST_KEPT = 2**25 - 2**16  # bytes: the C library takes nothing from blocks of 32 MiB or more


def reset_seed(number):
    """Seed Python's and torch's random numbers, on every device.

    Args:
        number: an integer.
    """
    random.seed(number)
    torch.manual_seed(number)


def keep_freed_memory():
    """Let freed memory wait for the next tensor, where it would go back to the system and be asked for at each step.

    That is a setting of Linux's C library, which takes it from the largest block it has seen freed; elsewhere this
    does nothing.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)  # freed at once


@contextmanager
def matmul_precision(name):
    """Set the precision of float32 matrix products, and of a GPU's convolutions, for a while.

    Args:
        name: "highest", "high" or "medium", as `torch.set_float32_matmul_precision` has them.
    """
    kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(name)
    torch.backends.cudnn.allow_tf32 = name != "highest"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]


def default_device():
    """Give the device to train on: "cuda" where there is one, else "cpu"."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model):
    """Give the device that a model's parameters are on."""
    return next(model.parameters()).device


def processor_name(device):
    """Name the processor that a device stands for, as well as the system can.

    Args:
        device: a `torch.device`.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # the file is Linux's
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def in_notebook():
    """Tell whether this is a kernel with a page in front of it (Jupyter, Colab, VS Code)."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def progress_bar(total, description, unit="it", done=0):
    """Make a progress bar that erases itself at the end, so that a saved notebook or a log holds none of it.

    It is plain text on standard output, shown in a terminal and in a notebook, and nowhere else; tqdm's own
    variable TQDM_DISABLE=1 turns it off.

    Args:
        total: number of steps, or None where it is not known.
        description: what stands before the bar.
        unit: what is counted; "B" for bytes, which are shown in kB and MB.
        done: number of steps that were taken before.

    Returns:
        A `tqdm` bar, to be used in a `with` block.
    """
    seen = (in_notebook() or sys.stdout.isatty()) and os.environ.get("TQDM_DISABLE", "0") in ("", "0")
    return tqdm(total=total, initial=done, desc=description, file=sys.stdout, leave=False, dynamic_ncols=True,
                unit=unit, unit_scale=unit == "B", disable=not seen)


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
