"""Seconds, rates and memory, measured: a CPU's by the clock of the system, a GPU's by events of the device itself."""

import sys
import time
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from cscm77.utils import default_device, matmul_precision

WARM_UP = 3  # calls that are not timed


def now():
    """Note a moment, for `seconds_between`; on a GPU the moment when it has done all that it was told so far."""
    if default_device().type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start, end):
    """Give the seconds from one `now()` to a later one."""
    if isinstance(start, torch.cuda.Event):
        end.synchronize()
        return start.elapsed_time(end) / 1000
    return end - start


class TimedBatches:
    """The first batches of a loader; notes when each is asked for, and when one more is.

    Args:
        loader: a `DataLoader`.
        steps: the most batches to give; all of the loader's when not given.
    """

    def __init__(self, loader, steps=None):
        self.loader, self.dataset = loader, loader.dataset
        self.steps = len(loader) if steps is None else min(steps, len(loader))
        self.asked = []

    def __len__(self):
        """Give the number of batches."""
        return self.steps

    def __iter__(self):
        """Give the batches."""
        batches = iter(self.loader)
        for _ in range(self.steps):
            self.asked.append(now())
            yield next(batches)
        self.asked.append(now())

    def intervals(self):
        """Give the seconds from each batch's request to the next: a batch, and the step on it."""
        return [seconds_between(before, after) for before, after in pairwise(self.asked)]


@contextmanager
def arithmetic(precision, *, flush):
    """Set the precision of products and whether numbers below 1e-38 become zeros; both are put back.

    The second reaches this thread and those that torch starts from then on.

    Args:
        precision: "highest", "high" or "medium".
        flush: whether denormal numbers become zeros.
    """
    flushed = sys.float_info.min / 2 == 0  # torch does not tell
    try:
        torch.set_flush_denormal(flush)
        with matmul_precision(precision):
            yield
    finally:
        torch.set_flush_denormal(flushed)


def matmul_rate(size=1024, repeats=20):
    """Give the floating-point operations a second of a float32 product of square matrices, at the set precision."""
    a, b = torch.rand(2, size, size, device=default_device())
    seconds = []
    for _ in range(repeats + WARM_UP):
        start = now()
        a @ b
        seconds.append(seconds_between(start, now()))
    return 2 * size**3 / median(seconds[WARM_UP:])


def peak_memory():
    """Give the most memory that this process held so far, in GiB; None where the system does not tell.

    On a GPU that is the device's memory in tensors.
    """
    if default_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    with suppress(OSError):  # the file is Linux's; what getrusage tells there can be the parent's
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20  # from KiB
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
