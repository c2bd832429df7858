"""Checkpoints: one file for the state of a training, never half-written, never believed when it is damaged.

A checkpoint is a dictionary of plain types and tensors, written by `torch.save` and read with `weights_only=True`, so
that reading one runs no code. Beside `vae.pt` lies `vae.pt.previous`, the one before it.
"""

import os
import pickle
import random
import warnings
import zlib
from pathlib import Path

import torch

CHECKSUM_BYTES = 4  # at the end of a file
FORMAT = 2  # count up when what a checkpoint holds changes
START_OVER = "fresh=True starts over and keeps the old file under another name"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


def write_checkpoint(path, state):
    """Put a state in the place of the last one, which is kept beside it as the previous one.

    Whenever this is cut short, the last one stays whole: the new one gets its name when all of it is on disk.

    Args:
        path: of the file; its folder is made.
        state: dictionary of plain types and tensors.

    Raises:
        OSError or RuntimeError: it cannot be written; the last one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _beside(path, ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
        with open(unfinished, "r+b") as file:
            file.write(_checksum(file))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, _beside(path, ".previous"))
        os.replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise


def read_checkpoint(path):
    """Give the newest state that can be read, its tensors on the CPU; None where there is no file.

    Args:
        path: of the file, as given to `write_checkpoint`.

    Raises:
        CheckpointError: there are files, but none can be read, or one is of another format.
    """
    reasons = []
    for candidate in (path, _beside(path, ".previous")):
        if candidate.exists():
            try:
                state = _read(candidate)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, _Damaged) as error:
                reasons.append(f"{candidate.name} cannot be read: {_first_line(error)}")
                continue
            if reasons:
                warnings.warn(f"{reasons[0]}; going on from {candidate.name}", RuntimeWarning, stacklevel=2)
                _rename(path, _beside(path, ".damaged"))  # or the next save would put it in the place of the good one
            return state
    if reasons:
        raise CheckpointError(f"{'; '.join(reasons)}. {START_OVER}")
    return None


def _read(path):
    with open(path, "rb") as file:  # torch's own reader does not look at the checksums of its archive
        expected = _checksum(file, os.path.getsize(path) - CHECKSUM_BYTES)
        if file.read() != expected:
            raise _Damaged("its checksum is wrong")
    state = torch.load(path, map_location="cpu", weights_only=True)
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path.name}: expected a checkpoint of format {FORMAT}, found format {found}. "
                              f"{START_OVER}")
    return state


class _Damaged(Exception):
    """A file that is not as it was written."""


def _rename(source, target):
    try:
        os.replace(source, target)
    except OSError:
        pass


def _checksum(file, length=None):
    """Give the checksum of a file's first bytes; the file is then behind them."""
    left, crc = os.fstat(file.fileno()).st_size if length is None else max(length, 0), 0
    while left and (part := file.read(min(left, 1 << 20))):
        crc, left = zlib.crc32(part, crc), left - len(part)
    return crc.to_bytes(CHECKSUM_BYTES, "big")


def _first_line(error):
    return str(error).partition("\n")[0] or type(error).__name__


def set_aside(path):
    """Give a checkpoint and its previous one another name: vae-1.pt, or the next number that is free.

    Args:
        path: of the file.

    Returns:
        The new path, or None where there was no checkpoint.
    """
    if not _exists(path):
        return None
    number = 1
    while _exists(kept := path.with_name(f"{path.stem}-{number}{path.suffix}")):
        number += 1
    for ending in ("", ".previous"):
        if _beside(path, ending).exists():
            os.replace(_beside(path, ending), _beside(kept, ending))
    return kept


def _exists(path):
    return path.exists() or _beside(path, ".previous").exists()


def describe_checkpoint(path, num_epochs):
    """Say in a sentence how far a run has come.

    Args:
        path: of its checkpoint.
        num_epochs: how many it is to have.
    """
    path = Path(path).expanduser()
    state = read_checkpoint(path)
    if state is None:
        return f"{path.name}: no checkpoint yet; run the training cell"
    epochs, step = len(state["epochs"]), state["step"]
    place = f"{path.name}: {epochs} of {num_epochs} epochs" + (f" and {step} steps of the next" if step else "")
    return place if epochs >= num_epochs else f"{place}. NOT COMPLETE: run the training cell again, it goes on there"


def check_same_run(path, expected, found):
    """Refuse the checkpoint of another run.

    Args:
        path: of the checkpoint.
        expected: what this run is, {field: plain value}.
        found: what the checkpoint says of its run.

    Raises:
        CheckpointError: names the first field that differs, with both values.
    """
    for field in [*expected, *(set(found) - set(expected))]:
        ours, theirs = expected.get(field), found.get(field)
        if ours != theirs:
            raise CheckpointError(f"{path.name} is the checkpoint of another run. {field}: "
                                  f"{_difference(ours, theirs)}. {START_OVER}")


def _difference(expected, found):
    if isinstance(expected, str) and isinstance(found, str):  # of a whole network, the first layer that differs
        for ours, theirs in zip(expected.splitlines(), found.splitlines(), strict=False):
            if ours != theirs:
                return f"expected {ours.strip()}, found {theirs.strip()}"
    return f"expected {expected}, found {found}"


def _beside(path, ending):
    return path.with_name(path.name + ending)


def _remove(path):
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # the reason why it could not be written is the one to hear of


# ---------------------------------------------------------------- random states


def random_states(device, loader):
    """Give the states of all random numbers that a training draws: Python's, torch's on CPU and device, the loader's.

    Args:
        device: of the model.
        loader: of the batches; its own generators count, if it has any.

    Returns:
        {name: plain value or tensor}.
    """
    version, numbers, gauss = random.getstate()
    states = {"python": [version, list(numbers), gauss], "cpu": torch.get_rng_state(),
              "loader": [generator.get_state() for generator in _generators(loader)]}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states, device, loader):
    """Set the random numbers to what `random_states` gave; a state of a device that is not here is passed over."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["cpu"])
    for generator, state in zip(_generators(loader), states["loader"], strict=False):
        generator.set_state(state)
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _generators(loader):
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)
    own = [getattr(place, "generator", None) for place in places]
    return [generator for i, generator in enumerate(own) if generator is not None and generator not in own[:i]]
