"""cscm77/training/run.py: Stop, disks that fail, damaged files, losses that are no number."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from tiny import failing
from trainings import (
    OTHER_SEED,
    at_step,
    both,
    cut_training,
    digest,
    handled_by,
    leaves,
    plain,
    press,
    small_gan,
    stopped,
    vae,
)

import cscm77_helper as helper
import gan
from cscm77.files import beside
from cscm77.training import checkpoints
from cscm77.training import run as resume
from cscm77.training.checkpoints import (
    CheckpointError,
    describe_checkpoint,
    read_checkpoint,
    write_checkpoint,
)

# ---------------------------------------------------------------- Stop


@both
@pytest.mark.parametrize("step, place", [(1, "0 epochs and 1 steps"), (5, "0 epochs and 5 steps"),
                                         (8, "1 epochs and 3 steps"), (10, "1 epochs and 5 steps")])
def test_stop_lets_the_step_end_saves_and_says_how_to_go_on(path, monkeypatch, train, step, place):
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    said, steps = stopped(train, path, step)
    assert said == (f"Stopped after {place} of the next; saved in run.pt. "
                    "Run the cell again to go on")
    assert steps == step
    assert digest(train, path, OTHER_SEED) == plain(train)


@both
def test_a_second_stop_is_obeyed_at_once(path, train):
    reached = []

    def press_twice():
        press()
        reached.append("after the first")
        press()
        reached.append("after the second")

    said, steps = stopped(train, path, 8, press_twice)
    assert (said, steps) == ("", 8) and reached == ["after the first"]
    assert describe_checkpoint(path, 3).startswith("run.pt: 1 of 3 epochs and 2 steps")
    assert digest(train, path, OTHER_SEED) == plain(train)


def test_a_second_stop_while_the_first_one_saves(path, monkeypatch):
    cut_training(vae, path, 8)
    newest, fsync = path.read_bytes(), os.fsync
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: (press(), fsync(number)))
        stopped(vae, path, 2, seed=OTHER_SEED)
    assert path.read_bytes() == newest
    assert sorted(os.listdir(path.parent)) == ["run.pt", "run.pt.previous"]
    assert digest(vae, path, OTHER_SEED) == plain(vae)


@both
def test_stop_without_a_checkpoint_says_that_nothing_is_saved(tmp_path, train):
    said, steps = stopped(train, None, 8)
    assert said == ("Stopped after 1 epochs and 3 steps of the next; "
                    "nothing was saved, since no checkpoint was given")
    assert steps == 8 and os.listdir(tmp_path) == []


def test_stop_while_evaluating_ends_after_the_epoch(path, monkeypatch):
    def evaluate(*arguments, real=helper.evaluate_vae):
        press()
        return real(*arguments)

    stop = "after 1 epochs and 0 steps of the next; saved in run.pt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=stop):
        patch.setattr(helper, "evaluate_vae", evaluate)
        digest(vae, path, validate=True)
    assert digest(vae, path, OTHER_SEED, validate=True) == plain(vae, validate=True)


@both
def test_stop_while_the_last_epoch_is_saved_loses_nothing(path, monkeypatch, train):
    real, pressed, epochs = checkpoints.write_checkpoint, [], 3 if train is vae else 2

    def write(path, state):
        if state["epoch"] == epochs and not pressed:
            pressed.append(press())
        real(path, state)

    stop = f"after {epochs} epochs and 0 steps"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=stop):
        patch.setattr(checkpoints, "write_checkpoint", write)
        digest(train, path)
    expected = plain(train)
    with at_step(1):
        assert digest(train, path, OTHER_SEED) == expected


@both
def test_stop_between_the_last_save_and_the_end_is_not_lost(path, monkeypatch, train):
    real = resume.Run.finish_epoch
    monkeypatch.setattr(resume.Run, "finish_epoch", lambda run, *told: (real(run, *told), press()))
    with pytest.raises(KeyboardInterrupt, match="after 1 epochs and 0 steps"):
        digest(train, path, epochs=1)


def test_stop_when_it_cannot_be_saved_says_so(path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    monkeypatch.setattr(checkpoints, "write_checkpoint", failing(errno.ENOSPC))
    with pytest.warns(RuntimeWarning, match="could not be written"):
        said, _ = stopped(vae, path, 3)
    assert said.endswith("0 epochs and 3 steps of the next; it could NOT be saved")


def test_the_handler_of_stop_is_the_one_from_before(path):
    for handler in (signal.SIG_DFL, signal.SIG_IGN, lambda *_: None):
        with handled_by(handler):
            digest(vae, path, epochs=1)
            assert signal.getsignal(signal.SIGINT) == handler


def test_a_training_in_a_thread_of_its_own_leaves_stop_alone(path):
    digests, handler = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: digests.append(digest(vae, path)))
    thread.start()
    thread.join()
    assert digests == [plain(vae)] and signal.getsignal(signal.SIGINT) is handler


# ---------------------------------------------------------------- damage, and disks that fail


@both
def test_a_damaged_newest_file_costs_a_step_and_no_more(path, train):
    cut_training(train, path, 9)
    path.write_bytes(path.read_bytes()[:-1])
    going_on = r"run\.pt cannot be read: .*; going on from run\.pt\.previous"
    with pytest.warns(RuntimeWarning, match=going_on) as warned:
        assert digest(train, path, OTHER_SEED) == plain(train)
    assert len(warned) == 1


def test_when_both_are_damaged_the_run_is_refused_and_fresh_starts_over(path):
    cut_training(vae, path, 9)
    for file in (path, beside(path, ".previous")):
        file.write_bytes(b"damaged")
    refusal = (r"run\.pt cannot be read: .*; run\.pt\.previous cannot be read: .*"
               "fresh=True starts over and keeps the old file")
    with at_step(1), pytest.raises(CheckpointError, match=refusal):
        digest(vae, path)
    assert path.read_bytes() == b"damaged"
    assert digest(vae, path, fresh=True) == plain(vae)
    assert path.with_name("run-1.pt").read_bytes() == b"damaged"


@both
@pytest.mark.parametrize("where, act, reason", [
    ("os.fsync", failing(errno.ENOTCONN), os.strerror(errno.ENOTCONN)),
    ("os.replace", failing(errno.EROFS), os.strerror(errno.EROFS)),
    pytest.param("cscm77.files.open", lambda *_: open("/dev/full", "wb"), "No space left on device",
                 marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="none here")),
    ("pathlib.Path.mkdir", failing(errno.ENOTDIR), os.strerror(errno.ENOTDIR))])
def test_a_disk_that_fails_warns_once_in_words(path, monkeypatch, train, where, act, reason):
    cut_training(train, path, 4)
    newest = path.read_bytes()
    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning) as warned:
        patch.setattr(where, act, raising=False)
        assert digest(train, path, OTHER_SEED) == plain(train)
    assert [str(one.message) for one in warned] == [
        f"run.pt could not be written ({reason}); the training goes on without it"]
    assert path.read_bytes() == newest
    assert digest(train, path, OTHER_SEED) == plain(train)


def test_a_disk_that_fails_for_a_while_is_used_again(path, monkeypatch):
    with (monkeypatch.context() as disk, at_step(5, disk.undo),
          pytest.warns(RuntimeWarning) as warned):
        disk.setattr(os, "fsync", failing(errno.ENOSPC))
        digest(vae, path)
    assert len(warned) == 1 and describe_checkpoint(path, 3) == "run.pt: 3 of 3 epochs"


def test_a_folder_that_is_deleted_in_between_is_made_again(tmp_path):
    path = tmp_path / "runs" / "vae.pt"
    with at_step(9, lambda: shutil.rmtree(path.parent, ignore_errors=True)):
        digest(vae, path)
    assert describe_checkpoint(path, 3) == "vae.pt: 3 of 3 epochs"


# ---------------------------------------------------------------- two processes on one path

SAVES = """
import sys, torch
from pathlib import Path
from cscm77.training.checkpoints import write_checkpoint
for _ in range(60):
    write_checkpoint(Path(sys.argv[1]), {"weights": torch.full((20_000,), int(sys.argv[2]))})
"""


def test_two_processes_on_one_path_never_break_a_file(path, pytestconfig):
    two = [subprocess.Popen([sys.executable, "-W", "error", "-c", SAVES, str(path), number],
                            cwd=pytestconfig.rootpath) for number in "12"]
    seen = set()
    while any(one.poll() is None for one in two):
        state = read_checkpoint(path)  # a warning, of a file that is not whole, is an error here
        if state is not None:
            (number,) = state["weights"].unique().tolist()
            seen.add(number)
    assert [one.returncode for one in two] == [0, 0] and seen and seen <= {1, 2}
    assert sorted(os.listdir(path.parent)) == ["run.pt", "run.pt.previous"]


# ---------------------------------------------------------------- no number


@pytest.mark.parametrize("save_after", [0, 1000])
@pytest.mark.parametrize("step", [7, 10])  # within the second epoch, its last step
@pytest.mark.parametrize("train, module, loss", [(vae, helper, "loss_function"),
                                                 (small_gan, gan, "generator_loss")])
def test_a_loss_that_is_nan_never_gets_into_a_checkpoint(path, monkeypatch, train, module, loss,
                                                         step, save_after):
    monkeypatch.setattr(resume, "SAVE_AFTER", save_after)
    factor, real = [1], getattr(module, loss)
    with monkeypatch.context() as patch, at_step(step, lambda: factor.append(torch.nan)):
        patch.setattr(module, loss, lambda *arguments: real(*arguments) * factor[-1])
        with pytest.raises(FloatingPointError, match="epoch 1, step .: expected a finite loss"):
            digest(train, path)
    assert all(leaf.isfinite().all() for leaf in leaves(read_checkpoint(path)["parts"])
               if isinstance(leaf, torch.Tensor))
    assert digest(train, path, OTHER_SEED) == plain(train)


def test_a_loader_that_has_become_shorter_is_named(path):
    cut_training(vae, path, 5)
    state = read_checkpoint(path)
    write_checkpoint(path, {**state, "step": 6})  # as if there had been more
    shorter = "the loader: expected at least 6 batches, found fewer"
    with pytest.raises(ValueError, match=shorter):
        vae(path)
