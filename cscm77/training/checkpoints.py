"""One file for the state of a training, never half-written, never believed if damaged.

A checkpoint is a dictionary of plain types and tensors, written by `torch.save` and read with
`weights_only=True`, which runs no code; a checksum follows. `vae.pt.previous` is the one before it.
"""

import io
import pickle
import random
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from cscm77.files import beside, free_name, reason_of, write_whole

CHECKSUM_BYTES = 4  # at the end of a file
FORMAT = 4  # count up when what a checkpoint holds changes
END_OF_ARCHIVE = b"PK\5\6"  # begins the last 22 bytes of what plain torch.save writes
PREVIOUS = ".previous"
START_OVER = "fresh=True starts over and keeps the old file under another name"
NOT_READ = RuntimeError, EOFError, pickle.UnpicklingError  # what torch's reader raises


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


def write_checkpoint(path, state):
    """Put a state in the place of the last one, which is kept beside it as the previous one.

    Raises `OSError` where it cannot be written; the last one is then as it was.
    """
    file = io.BytesIO()
    torch.save(_plain({"format": FORMAT, **state}), file)
    file.write(_checksum(file.getbuffer()))
    write_whole(path, file.getbuffer(), previous=beside(path, PREVIOUS))


def _plain(value):
    """Python's numbers for numpy's, an optimizer's rate perhaps, which no reader would take."""
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.number) else value


def read_checkpoint(path):
    """The newest state that can be read, its tensors on the CPU; None where there is no file.

    Raises `CheckpointError` where none can be read, or one is not of this package or format.
    """
    reasons = []
    for file in (path, beside(path, PREVIOUS)):
        try:
            state = _read(file)
        except (FileNotFoundError, NotADirectoryError):  # or another process is renaming it
            continue
        except (OSError, *NOT_READ) as error:
            reasons.append(f"{file.name} cannot be read: {reason_of(error)}")
            continue
        if reasons:
            warnings.warn(f"{reasons[0]}; going on from {file.name}", RuntimeWarning, stacklevel=2)
            with suppress(OSError):  # or the next save would put it in the good one's place
                path.replace(beside(path, ".damaged"))
        return state
    if reasons:
        raise CheckpointError(f"{'; '.join(reasons)}. {START_OVER}")
    return None


def _read(path):
    content = path.read_bytes()
    if _checksum(content[:-CHECKSUM_BYTES]) != content[-CHECKSUM_BYTES:]:
        # torch's own reader does not look at the checksums of its archive
        if content[-22:].startswith(END_OF_ARCHIVE) and not _is_ours(content):
            raise CheckpointError(f"{path.name} is not one of ours: plain torch.save wrote it. "
                                  f"{START_OVER}")
        raise OSError("its checksum is wrong")
    state = _loaded(content)
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path.name}: expected a checkpoint of format {FORMAT}, "
                              f"found format {state['format']}. {START_OVER}")
    return state


def _is_ours(content):
    """Whether a checkpoint has lost no more than its checksum."""
    try:
        return "format" in _loaded(content)
    except (TypeError, *NOT_READ):
        return False


def _loaded(content):
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _checksum(content):
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big")


def set_aside(path):
    """Rename a checkpoint and its previous one, to vae-1.pt or the like; None if there is none."""
    if not exists(path):
        return None
    kept = free_name(path, exists)
    for ending in ("", PREVIOUS):
        with suppress(FileNotFoundError):
            beside(path, ending).replace(beside(kept, ending))
    return kept


def exists(path):
    """Whether there is a checkpoint, or the one before it."""
    return path.exists() or beside(path, PREVIOUS).exists()


def describe_checkpoint(path, num_epochs):
    """A sentence that says how far the run of a checkpoint has come; it is to have num_epochs."""
    path = Path(path).expanduser()
    state = read_checkpoint(path)
    if state is None:
        return f"{path.name}: no checkpoint yet; run the training cell"
    epochs, step = state["epoch"], state["step"]
    steps = f" and {step} steps of the next" if step else ""
    go_on = ". NOT COMPLETE: run the training cell again, it goes on there" * (epochs < num_epochs)
    return f"{path.name}: {epochs} of {num_epochs} epochs{steps}{go_on}"


def random_states(device, loader):
    """The states of Python's, numpy's and torch's random numbers, and of the loader's own."""
    version, of_python, gauss = random.getstate()
    name, of_numpy, *rest = np.random.get_state()
    states = {"python": [version, list(of_python), gauss], "cpu": torch.get_rng_state(),
              "loader": [generator.get_state() for generator in _generators(loader)],
              "numpy": [str(name), of_numpy.tolist(), *rest]}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states, device, loader):
    """Set the random numbers to `random_states`; those of a device that is not here are left."""
    version, of_python, gauss = states["python"]
    random.setstate((version, tuple(of_python), gauss))
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["cpu"])
    for generator, state in zip(_generators(loader), states["loader"], strict=False):
        generator.set_state(state)
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _generators(loader):
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = (loader, getattr(loader, "sampler", None), batch_sampler,
              getattr(batch_sampler, "sampler", None))
    own = dict.fromkeys(getattr(place, "generator", None) for place in places)
    return list(filter(None, own))
