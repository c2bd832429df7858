"""cscm77/training/checkpoints.py: what is written is read, or the one before it."""

import errno
import os
import random
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from kills import act_at
from tiny import failing
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from cscm77 import files
from cscm77.training import checkpoints
from cscm77.training.checkpoints import (
    CheckpointError,
    describe_checkpoint,
    random_states,
    read_checkpoint,
    set_aside,
    set_random_states,
    write_checkpoint,
)

CPU = torch.device("cpu")


def state(number):
    return {"identity": {"class": "VAE"}, "epoch": number, "step": number,
            "weights": torch.arange(40.0) + number}


def assert_is(found, number):
    assert found is not None and found["epoch"] == found["step"] == number
    assert torch.equal(found["weights"], state(number)["weights"])


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "vae.pt"


@pytest.fixture
def two(path):
    """A path with a checkpoint, number 2, and the previous one, number 1."""
    write_checkpoint(path, state(1))
    write_checkpoint(path, state(2))
    return path


# ---------------------------------------------------------------- writing and reading


def test_what_is_written_is_read_and_the_one_before_it_is_kept(path):
    assert read_checkpoint(path) is None and set_aside(path) is None
    write_checkpoint(path, state(1))  # the folder is made
    assert_is(read_checkpoint(path), 1)
    assert names(path.parent) == ["vae.pt"]
    for number in (2, 3):
        write_checkpoint(path, state(number))
        assert_is(read_checkpoint(path), number)
        assert_is(read_checkpoint(files.beside(path, ".previous")), number - 1)
        assert names(path.parent) == ["vae.pt", "vae.pt.previous"]


def test_all_is_on_disk_before_the_file_gets_its_name(two, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (
        done.append(("fsync", os.fstat(number).st_size)), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda source, target: (
        done.append((Path(source).name, os.path.getsize(source))), replace(source, target)))
    size = two.stat().st_size
    write_checkpoint(two, state(3))
    assert done[:2] == [("fsync", size), ("vae.pt", size)] and done[2][1] == size
    assert done[2][0].startswith(".vae.pt.") and done[2][0].endswith(files.UNFINISHED)


class Cut(BaseException):
    """What ends a write, as a second Stop does."""


def cut():
    raise Cut


def write_with(monkeypatch, operation, call, act, path):
    """Try to write number 3, and let something happen at the n-th call of an operation."""
    with monkeypatch.context() as patch, pytest.raises((Cut, OSError)):
        act_at(operation, call, act, partial(patch.setattr, raising=False))
        write_checkpoint(path, state(3))


@pytest.mark.parametrize("act", [failing(errno.ENOSPC), cut], ids=["full disk", "cut"])
@pytest.mark.parametrize("operation, call", [("write", 1), ("fsync", 1), ("replace", 1),
                                             ("replace", 2)])
def test_a_write_that_fails_leaves_the_last_one_alone(two, monkeypatch, operation, call, act):
    write_with(monkeypatch, operation, call, act, two)
    assert set(names(two.parent)) <= {"vae.pt", "vae.pt.previous"}
    assert_is(read_checkpoint(two), 2)
    write_checkpoint(two, state(4))
    assert_is(read_checkpoint(two), 4)


class Nosy:
    """An object that opens a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_reading_runs_no_code(path, tmp_path):
    write_checkpoint(path, {"identity": Nosy(tmp_path / "touched")})
    with pytest.raises(CheckpointError, match="vae.pt cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "touched").exists()


def test_tensors_of_another_device_come_to_the_cpu(path, monkeypatch):
    seen, load = {}, torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **options: (seen.update(options),
                                                              load(*a, **options))[1])
    write_checkpoint(path, state(1))
    read_checkpoint(path)
    assert seen == {"map_location": "cpu", "weights_only": True}


# ---------------------------------------------------------------- damage


def damaged_read(path):
    """The number of the state that is read, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_checkpoint(path)
    assert_is(found, found["step"])
    return found["step"], [str(one.message) for one in caught]


def assert_falls_back(path):
    number, (message,) = damaged_read(path)
    assert number == 1 and message.startswith("vae.pt cannot be read: ")
    assert message.endswith("going on from vae.pt.previous")


def test_every_bit_of_damage_and_every_missing_piece_is_noticed(two):
    good = two.read_bytes()
    length = len(good)
    for place in (*range(0, length, 3), *range(-30, 0)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        two.write_bytes(bad)
        assert_falls_back(two)
    lengths = 0, length // 100, length // 2, length - 4, length - 1
    for bad in (*(good[:kept] for kept in lengths), bytes(length), bytes(4)):
        two.write_bytes(bad)
        assert_falls_back(two)


def test_a_newest_one_that_is_missing_is_no_damage(two):
    two.unlink()  # a kill between the two renames
    assert damaged_read(two) == (1, [])
    kept = set_aside(two)
    assert_is(read_checkpoint(kept), 1)
    assert names(two.parent) == ["vae-1.pt.previous"]


@pytest.mark.parametrize("name, error, found", [
    ("vae.pt", errno.ENOENT, (1, [])), ("vae.pt.previous", errno.ENOENT, (2, [])),  # being renamed
    ("vae.pt", errno.EACCES, (1, ["vae.pt cannot be read: Permission denied; "
                                  "going on from vae.pt.previous"]))])
def test_a_file_that_cannot_be_had_is_passed_over(two, monkeypatch, name, error, found):
    real, fail = Path.read_bytes, failing(error)
    monkeypatch.setattr(Path, "read_bytes",
                        lambda path: fail() if path.name == name else real(path))
    assert damaged_read(two) == found


@pytest.mark.parametrize("call", [1, 2])
def test_the_good_previous_one_outlives_a_damaged_newest_one(two, monkeypatch, call):
    """The save after a fall-back, cut at each of its renames: one can always be read."""
    two.write_bytes(b"damaged")
    assert damaged_read(two)[0] == 1
    write_with(monkeypatch, "replace", call, cut, two)
    assert damaged_read(two)[0] == 1
    write_checkpoint(two, state(3))
    assert damaged_read(two) == (3, [])


# ---------------------------------------------------------------- what is no checkpoint


def other_files():
    layer = nn.Linear(2, 2)
    plainly = partial(partial, torch.save)
    not_ours = "vae.pt is not one of ours: plain torch.save wrote it"
    return {
        "a text": (lambda path: path.write_text("My notes on MNIST\n"), "vae.pt cannot be read"),
        "a folder": (lambda path: path.mkdir(), "vae.pt cannot be read: Is a directory"),
        "weights": (plainly(layer.state_dict()), not_ours),
        "a tensor": (plainly(torch.zeros(3)), not_ours),
        "a whole model": (plainly(layer), not_ours),
    }


@pytest.mark.parametrize("write, message", other_files().values(), ids=other_files())
def test_other_files_are_refused(path, write, message):
    path.parent.mkdir()
    write(path)
    with pytest.raises(CheckpointError, match=f"{message}.*fresh=True"):
        read_checkpoint(path)
    assert names(path.parent) == ["vae.pt"]


def test_another_format_is_refused_though_the_previous_one_could_be_read(two):
    write_checkpoint(two, {**state(3), "format": 99})
    other = f"expected a checkpoint of format {checkpoints.FORMAT}, found format 99.*fresh=True"
    with pytest.raises(CheckpointError, match=other):
        read_checkpoint(two)


# ---------------------------------------------------------------- in words


def test_how_far_a_run_has_come_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "vae.pt"
    go_on = ". NOT COMPLETE: run the training cell again, it goes on there"
    assert describe_checkpoint(path, 3) == "vae.pt: no checkpoint yet; run the training cell"
    for epochs, step, expected in ((0, 5, f"0 of 3 epochs and 5 steps of the next{go_on}"),
                                   (2, 0, f"2 of 3 epochs{go_on}"), (3, 0, "3 of 3 epochs"),
                                   (4, 0, "4 of 3 epochs")):
        write_checkpoint(path, {**state(epochs), "step": step})
        for name in (path, str(path), "~/vae.pt"):
            assert describe_checkpoint(name, 3) == f"vae.pt: {expected}"


# ---------------------------------------------------------------- random states


def loaders():
    data = TensorDataset(torch.arange(12.0))
    mine = torch.Generator().manual_seed(1)
    sampler = RandomSampler(data, generator=mine)
    return {
        "none of its own": DataLoader(data, 4, shuffle=True),
        "the loader's": DataLoader(data, 4, shuffle=True, generator=mine),
        "the sampler's": DataLoader(data, 4, sampler=sampler),
        "the batch sampler's": DataLoader(data, batch_sampler=BatchSampler(sampler, 4, True)),
        "a list": [torch.zeros(1)],
    }


def draws(loader):
    batches = [torch.stack(tuple(batch)).tolist() for batch in loader]
    return batches, random.random(), random.gauss(0, 1), torch.rand(2).tolist()


@pytest.mark.parametrize("name", loaders())
def test_random_states_come_back_from_a_file(path, name):
    loader = loaders()[name]
    random.seed(1)
    random.gauss(0, 1)  # keeps the second of a pair for the next call
    write_checkpoint(path, {"random": random_states(CPU, loader)})
    first = draws(loader)
    assert draws(loader) != first or name == "a list"
    set_random_states(read_checkpoint(path)["random"], CPU, loader)
    assert draws(loader) == first


@pytest.mark.parametrize("more, device", [({"cuda": torch.zeros(16, dtype=torch.uint8)}, CPU),
                                          ({}, torch.device("cuda"))])
def test_a_random_state_of_a_device_that_is_only_there_or_only_here_is_passed_over(more, device):
    states = {**random_states(CPU, []), **more}
    expected = torch.rand(1)
    set_random_states(states, device, [])
    assert torch.equal(torch.rand(1), expected)
