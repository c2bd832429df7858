"""A training that can be stopped, killed and taken up again, to the same last bit."""

import signal
import threading
import time
import warnings
from contextlib import contextmanager
from itertools import islice
from operator import length_hint
from pathlib import Path

import torch

from cscm77.training.checkpoints import (
    check_same_run,
    random_states,
    read_checkpoint,
    set_aside,
    set_random_states,
    write_checkpoint,
)
from cscm77.training.journal import LossLog

SAVE_AFTER = 30  # seconds: what a kill can cost, and more than a hundred times what a save takes
HOW_NOT_WHAT = ("fused", "foreach", "capturable", "differentiable")  # an optimizer's settings that leave its formula


class Run:
    """The state of one training: its parts, its place, its losses and random numbers, and the file that they go to.

    The place is the number of finished epochs and of the steps taken in the next one. Without a path nothing is
    saved, and the random numbers are left to the caller.

    Args:
        path: of the checkpoint, or None.
        parts: {name: model or optimizer}, each with `state_dict` and `load_state_dict`.
        about: what the run is, {field: plain value}: a checkpoint that says otherwise is refused.
        loader: of the batches.
        device: of the models.
    """

    def __init__(self, path, parts, about, loader, device):
        self.path = path_of(path)
        self.parts, self.about, self.loader, self.device = parts, about, loader, device
        self.epochs, self.step, self.log = [], 0, LossLog()
        self.samples, self.strip = torch.empty(0), []  # of the last step, for the picture; of some steps, for the strip
        self._now, self._epoch_start = None, None  # random states
        self._saved_at, self._warned, self._stop_asked = time.monotonic(), False, False

    @property
    def epoch(self):
        """Give the number of finished epochs, which is the number of the next one."""
        return len(self.epochs)

    def begin(self, epoch, loader):
        """Make ready for an epoch, for what is left of it, or for being asked about one that is done.

        Args:
            epoch: its number; without a path, any number is taken.
            loader: of its batches.

        Raises:
            ValueError: epochs before this one are missing.
        """
        self.loader = loader
        if self.path is None:
            self.epochs, self.step = [[]] * epoch, 0
        if epoch > self.epoch:
            raise ValueError(f"epoch: expected at most {self.epoch}, the next one of {self.path.name}, found {epoch}")
        if self.step == 0:
            self.log = LossLog()

    def restore(self, fresh=False):
        """Take up the run of the checkpoint, if there is one.

        Args:
            fresh: start over instead, and keep the checkpoint under another name.

        Returns:
            Whether there was a run to take up.

        Raises:
            CheckpointError: the checkpoint is damaged, or of another run.
        """
        if self.path is None:
            return False
        if fresh:
            kept = set_aside(self.path)
            print(f"Starting over; the old checkpoint is kept as {kept.name}." if kept else "Starting over.")
        state = read_checkpoint(self.path)
        if state is None:
            return False
        check_same_run(self.path, self.about, state["about"])
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.epochs, self.step = state["epochs"], state["step"]
        self.samples, self.strip = state["samples"], state["strip"]
        self.log.load_state_dict(state["log"])
        self._now, self._epoch_start = state["random"], state["random at the start of the epoch"]
        set_random_states(self._now, self.device, self.loader)
        self._say_what_differs(state["made with"])
        return True

    def _say_what_differs(self, made_with):
        changes = [f"{name} {made_with[name]}, now {value}" for name, value in _made_with(self.device).items()
                   if made_with[name] != value]
        if changes:
            print(f"{self.path.name} was made with {'; '.join(changes)}: the last digits of what follows may differ.")

    def batches(self, batches):
        """Yield (step, batch) from the run's place to the end of its epoch; saves, and stops, between two steps.

        Args:
            batches: of the run's loader, from the start of an epoch.

        Raises:
            KeyboardInterrupt: Stop was pressed; says where the run stands, and how to go on.
            ValueError: there are fewer batches than this epoch already had.
        """
        if self.step == 0:
            self._random_from(self._now)
            self._epoch_start = random_states(self.device, self.loader)
        else:  # the same order again, without the batches that were had
            self._random_from(self._epoch_start)
        batches = iter(batches)
        had = sum(1 for _ in islice(batches, self.step))
        if had < self.step:
            raise ValueError(f"the loader: expected at least {self.step} batches, as in {self.path.name}, found {had}")
        if self.step > 0:
            print(f"Going on at epoch {self.epoch}, step {self.step}, from {self.path.name}")
            self._random_from(self._now)
        for batch in batches:
            yield self.step, batch
            self.step += 1
            self._between_steps()

    def _random_from(self, states):
        if self.path is not None and states is not None:
            set_random_states(states, self.device, self.loader)

    def _between_steps(self):
        if self._stop_asked:
            self._stop()
        if self.path is not None and time.monotonic() - self._saved_at >= SAVE_AFTER:
            self.save()

    def finish_epoch(self, record=()):
        """Count an epoch as done, and save.

        Args:
            record: plain values to be kept with the epoch.
        """
        self.epochs.append(list(record))
        self.step = 0
        self.save()
        if self._stop_asked:
            self._stop()

    def save(self):
        """Write the checkpoint, if there is a path for it; gives whether it was written.

        Where that fails, it says so once, and the training goes on.

        Raises:
            FloatingPointError: a loss is not a finite number; the last checkpoint stays.
        """
        if self.path is None:
            return False
        self._saved_at = time.monotonic()
        try:
            write_checkpoint(self.path, self._state())
        except (OSError, RuntimeError) as reason:
            if not self._warned:
                warnings.warn(f"{self.path.name} could not be written ({reason}); the training goes on without it",
                              RuntimeWarning, stacklevel=2)
            self._warned = True
            return False
        return True

    def _state(self):
        self._now = random_states(self.device, self.loader)
        return {"about": self.about, "made with": _made_with(self.device),
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "epochs": self.epochs, "step": self.step, "log": self.log.state_dict(),
                "samples": self.samples.cpu().clone(),  # of a view, the whole batch would be saved
                "strip": self.strip,
                "random": self._now, "random at the start of the epoch": self._epoch_start}

    @contextmanager
    def stoppable(self):
        """Let Stop (Ctrl-C, the notebook's square) wait for the end of the step; a second one is obeyed at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = signal.getsignal(signal.SIGINT)
        if before is None:  # not from Python
            before = signal.default_int_handler

        def note(number, frame):
            self._stop_asked = True
            signal.signal(signal.SIGINT, before)

        self._stop_asked = False
        signal.signal(signal.SIGINT, note)
        try:
            yield
            if self._stop_asked:  # since the last look at it
                self._stop()
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop(self):
        self._stop_asked = False
        place = f"Stopped after {self.epoch} epochs and {self.step} steps of the next"
        if self.path is None:
            raise KeyboardInterrupt(f"{place}; nothing was saved, since no checkpoint was given")
        kept = f"saved in {self.path.name}. Run the cell again to go on" if self.save() else "it could NOT be saved"
        raise KeyboardInterrupt(f"{place}; {kept}")


def path_of(checkpoint):
    """Give the path that a `checkpoint` argument means, None for None.

    Raises:
        ValueError: it is a folder.
    """
    if checkpoint is None:
        return None
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        raise ValueError(f"checkpoint: expected the name of a file, found the folder {path.name}")
    return path


def _made_with(device):
    return {"torch": str(torch.__version__), "device": device.type,
            "precision": torch.get_float32_matmul_precision()}


def about_data(loader):
    """Say of a loader what makes one run's data another's.

    Args:
        loader: a `DataLoader`, or any iterable of batches.
    """
    dataset = getattr(loader, "dataset", None)
    return {"data": str(getattr(dataset, "name", type(loader if dataset is None else dataset).__name__)),
            "images": length_hint(dataset) if dataset is not None else None,
            "batch size": _batch_size(loader), "batches": length_hint(loader)}


def _batch_size(loader):
    if isinstance(loader, (list, tuple)) and loader:
        return len(loader[0][0])
    return getattr(loader, "batch_size", None)


def about_optimizer(optimizer):
    """Say of an optimizer what it was made with: its class and its numbers."""
    numbers = {name: value for name, value in optimizer.defaults.items()
               if isinstance(value, (int, float, tuple)) and name not in HOW_NOT_WHAT}
    return f"{type(optimizer).__name__} {numbers}"
