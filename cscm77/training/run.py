"""A training that can be stopped, killed and taken up again, to the same last bit.

A `Run` is entered (`under_way`), iterated (`epochs`, `steps`) and told (`note`); the training loop
itself is left with the algorithm.
"""

import signal
import threading
import time
import warnings
import weakref
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from cscm77.files import reason_of, remove_unfinished
from cscm77.training import checkpoints
from cscm77.training.identity import check_same_run, digest_of_weights
from cscm77.utils import progress_bar

SAVE_AFTER = 30  # seconds: what a kill can cost, and more than a hundred times what a save takes
READ_EVERY = 50  # steps: reading a loss waits for the device, so it is not done at every step

_owners = weakref.WeakValueDictionary()  # path -> the run of this process that began last with it


class Run:
    """The state of one training: its parts, its place, its journal, random numbers, and their file.

    The place: finished epochs, and steps taken in the next; the parts: {name: model or optimizer}.
    Another `identity`'s checkpoint is refused; without one nothing is saved, no random number set.
    """

    def __init__(self, checkpoint, parts, journal, identity, loader, device):
        self.path, self.parts = path_of(checkpoint), {**parts, **journal.networks}
        self.journal, self.identity, self.loader, self.device = journal, identity, loader, device
        self.epoch, self.step, self._saved_at = 0, 0, time.monotonic()
        self.broken = self._warned = self._stop_asked = self._in_step = False
        self._random_now = self._random_at_epoch = self._began_from = self._bar = None

    def restore(self, fresh=False):
        """Take up the run of the checkpoint, if there is one; the file is this run's from now on.

        `fresh` starts over and keeps the old one; a damaged or another run's: `CheckpointError`.
        """
        if self.path is None:
            return
        remove_unfinished(self.path)
        if fresh:
            kept = checkpoints.set_aside(self.path)
            kept_as = f"; the old checkpoint is kept as {kept.name}" if kept else ""
            print(f"Starting over{kept_as}.")
        self._began_from = digest_of_weights(self.parts.values())
        state = checkpoints.read_checkpoint(self.path)
        if state is not None:
            check_same_run(self.path, self.identity, state["identity"])
            self._take_up(state)
        _owners[self.path] = self  # not of a run that was refused

    def _take_up(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.journal.load_state_dict(state["journal"])
        self.epoch, self.step = state["epoch"], state["step"]
        self._random_now = state["random"]
        self._random_at_epoch = state["random at the start of the epoch"]
        checkpoints.set_random_states(self._random_now, self.device, self.loader)
        ours, self._began_from = self._began_from, state["began from"]
        if ours not in (self._began_from, digest_of_weights(self.parts.values())):
            print(f"{self.path.name} began from other weights than these, and goes on with its "
                  "own; fresh=True trains anew.")

    def check_unchanged(self, identity):
        """Refuse other losses, noise or data than before, and a file that another training has."""
        check_same_run(self.path, identity, self.identity)
        if _owners.get(self.path) is not self:
            raise checkpoints.CheckpointError(f"{self.path.name}: another training has this file "
                                              "since; give each training a checkpoint of its own")

    def save(self):
        """Write the checkpoint, if there is a path for it; tells whether it was written.

        Where that fails, it says so once; a loss that is not finite is a `FloatingPointError`.
        """
        if self.path is None:
            return False
        self._saved_at = time.monotonic()
        self._random_now = checkpoints.random_states(self.device, self.loader)
        try:
            state = {"identity": self.identity, "began from": self._began_from,
                     "made with": {"torch": str(torch.__version__), "device": self.device.type,
                                   "precision": torch.get_float32_matmul_precision()},
                     "parts": {name: part.state_dict() for name, part in self.parts.items()},
                     "journal": self.journal.state_dict(), "epoch": self.epoch, "step": self.step,
                     "random": self._random_now,
                     "random at the start of the epoch": self._random_at_epoch}
            checkpoints.write_checkpoint(self.path, state)
        except (OSError, RuntimeError) as error:
            if not self._warned:
                warnings.warn(f"{self.path.name} could not be written ({reason_of(error)}); "
                              "the training goes on without it", RuntimeWarning, stacklevel=2)
            self._warned = True
            return False
        return True

    @contextmanager
    def under_way(self, description, total):
        """Show a bar of `total` steps, let Stop wait for the end of a step, say where an error was.

        Raises `KeyboardInterrupt` where Stop was pressed; says how far the run is and how to go on.
        """
        bar = progress_bar(total or None, description, done=len(self.journal.log))
        kind = self.device.type  # autocast keeps copies of weights: it would never see them trained
        fresh_casts = torch.autocast(kind, torch.get_autocast_dtype(kind),
                                     torch.is_autocast_enabled(kind), cache_enabled=False)
        with _stoppable(self), fresh_casts, bar:
            self._bar, self._in_step, self.broken = bar, False, True
            try:
                yield
            except (ValueError, FloatingPointError) as error:
                if not self._in_step:
                    raise
                self.journal.log.read()  # an earlier loss that is not finite is the reason
                kind = ValueError if isinstance(error, ValueError) else FloatingPointError
                place = f"epoch {self.epoch}, step {len(self.journal.log)}"
                raise kind(f"{place}: {error}") from error
            self.broken = False

    def epochs(self, number):
        """Yield the numbers of the epochs that are left, and count each as done."""
        for epoch in range(self.epoch, number):
            yield epoch
            self.finish_epoch()

    def steps(self, batches):
        """Yield what is left of an epoch's batches; saves, and stops, between two steps."""
        if self.step > 0:  # the batches in the same order again, without those that were had
            checkpoints.set_random_states(self._random_at_epoch, self.device, self.loader)
            batches = iter(batches)
            if sum(1 for _ in islice(batches, self.step)) < self.step:
                raise ValueError(f"the loader: expected at least {self.step} batches, found fewer")
            print(f"Going on at epoch {self.epoch}, step {self.step}, from {self.path.name}")
        if self._random_now is not None:  # there is a file: what was drawn since does not count
            checkpoints.set_random_states(self._random_now, self.device, self.loader)
        if self.step == 0:
            self._random_at_epoch = checkpoints.random_states(self.device, self.loader)
        for batch in batches:
            self._in_step = True
            yield batch
            self._in_step = False
            self.step += 1
            self._stop_if_asked()
            if self.path is not None and time.monotonic() - self._saved_at >= SAVE_AFTER:
                self.save()
        self._bar.clear()  # something may be printed of the epoch

    def finish_epoch(self, result=None):
        """Keep an epoch's result, if it has one, count it as done, save, and stop if asked to."""
        if result is not None:
            self.journal.epochs.append(result)
        self.epoch, self.step = self.epoch + 1, 0
        self.save()
        self._stop_if_asked()

    def note(self, *values):
        """Note a step in the journal; now and then the bar shows its losses."""
        self.journal.note(self.epoch, *values)
        if len(self.journal.log) % READ_EVERY == 0:
            losses = self.journal.log.read()[-1]
            self._bar.set_postfix_str(self.journal.SHOWN.format(*losses), refresh=False)
        self._bar.update()

    def _stop_if_asked(self):
        if not self._stop_asked:
            return
        if self.path is None:
            kept = "nothing was saved, since no checkpoint was given"
        elif self.save():
            kept = f"saved in {self.path.name}. Run the cell again to go on"
        else:
            kept = "it could NOT be saved"
        raise KeyboardInterrupt(f"Stopped after {self.epoch} epochs and {self.step} steps of the "
                                f"next; {kept}")


@contextmanager
def _stoppable(run):
    """Let Stop (Ctrl-C, the notebook's square) wait for a step's end; a second one does not."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # Python hands signals to its own main thread alone
        return

    def note(number, frame):
        run._stop_asked = True
        signal.signal(signal.SIGINT, before)

    run._stop_asked = False
    signal.signal(signal.SIGINT, note)
    try:
        yield
        run._stop_if_asked()  # since the last look at it
    finally:
        signal.signal(signal.SIGINT, before)


def path_of(checkpoint):
    """The whole path that a `checkpoint` argument means, None for None; a folder is refused."""
    path = None if checkpoint is None else Path(checkpoint).expanduser().absolute()
    if path is not None and path.is_dir():
        raise ValueError(f"checkpoint: expected the name of a file, found the folder {path.name}")
    return path
