"""cscm77/training/run.py: a training that was stopped, killed or cut short ends as one that never was, to the last bit.

The oracle is always the same training without a checkpoint and without a break. cscm77/training/journal.py is tested here too,
since its average is part of what a GAN's checkpoint holds.
"""

import errno
import os
import random
import shutil
import signal
import threading
from collections import OrderedDict
from contextlib import contextmanager

import kills
import pytest
import torch
from kills import HIDDEN, LATENTS, SEED, Children, Series, digest_of, train_gan_to_the_end, train_vae_to_the_end
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cscm77_helper as helper
import gan
from cscm77.training import journal as averaging
from cscm77.training import run as resume
from cscm77.training.checkpoints import CheckpointError, describe_checkpoint, read_checkpoint, write_checkpoint
from vae import CVAE, VAE, loss_function

OTHER_SEED = 99  # of what resumes: all of its state is to come from the file
SMALL = (lambda: nn.Sequential(nn.Linear(784, 8), nn.LeakyReLU(), nn.Linear(8, 1)),
         lambda: nn.Sequential(nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 784), nn.Tanh()))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Save after every step, draw no pictures."""
    monkeypatch.setattr(resume, "SAVE_AFTER", 0)
    for name in ("show_and_close", "save_picture", "draw_digits"):
        monkeypatch.setattr(helper, name, lambda *_, **__: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


def beside(path, ending=".previous"):
    return path.with_name(path.name + ending)


def digest(train, path=None, seed=SEED, **options):
    torch.manual_seed(seed)
    random.seed(seed)
    return digest_of(train(path, **options))


def vae(path, **options):
    return train_vae_to_the_end(path, **options)  # 5 steps an epoch, 3 epochs


def small_gan(path, **options):
    return train_gan_to_the_end(path, SMALL, **options)  # 5 steps an epoch, 2 epochs


class Cut(Exception):
    """What a test ends a training with."""


def cut():
    raise Cut


@contextmanager
def at_step(number, act=cut):
    """Let something happen in the middle of a step, counted over all epochs from 1."""
    vae_loss, gan_step, steps = helper.negative_elbo, helper.generator_step, [0]

    def count():
        steps[0] += 1
        if steps[0] == number:
            act()

    def counted_loss(model, *arguments):
        if model.training:
            count()
        return vae_loss(model, *arguments)

    def counted_step(*arguments):
        count()
        return gan_step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helper, "negative_elbo", counted_loss)
        patch.setattr(helper, "generator_step", counted_step)
        yield steps


def cut_training(train, path, step, **options):
    with at_step(step), pytest.raises(Cut):
        digest(train, path, **options)


# ---------------------------------------------------------------- killed

KILLS = {"VAE": 24, "CVAE": 14, "FC": 9, "DC": 8}
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    with Children(tmp_path_factory.mktemp("kills")) as children:
        yield children


@forks
@pytest.mark.parametrize("training", KILLS)
def test_killed_and_resumed_equals_never_interrupted(children, training):
    series = Series(children, training, random.Random(training))
    series.go_on(KILLS[training])
    assert series.wrong == 0 and series.kills == KILLS[training], str(series)
    assert series.kills_in_a_save >= len(kills.IN_A_SAVE), str(series)


def test_there_are_at_least_50_kills():
    assert sum(KILLS.values()) >= 50 and set(KILLS) == set(kills.TRAININGS)


@forks
@pytest.mark.parametrize("part", [None, "torch's random numbers", "the moments"])
def test_the_kills_would_show_a_part_of_the_state_that_is_not_restored(children, tmp_path, part):
    path = tmp_path / "vae.pt"
    assert children.run("VAE", path, at=("write_checkpoint", 9))[0] is None  # in the second epoch
    assert (children.run("VAE", path, forget=part)[0] == children.run("VAE")[0]) == (part is None)


@pytest.mark.parametrize("part", kills.FORGET)
def test_every_part_of_the_state_is_needed(path, monkeypatch, part):
    cut_training(vae, path, 9)
    monkeypatch.setattr(resume, "read_checkpoint", kills.forgetful(part))
    assert digest(vae, path, OTHER_SEED) != digest(vae)


# ---------------------------------------------------------------- cut short, in this process

TRAININGS = {
    "VAE": vae,
    "with validation": lambda path: vae(path, validate=True),
    "CVAE": lambda path: vae(path, cond=True),
    "own generator": lambda path: vae(path, loader=kills.own_generator),
    "Python's order": lambda path: vae(path, loader=kills.python_shuffled),
    "list of batches": lambda path: vae(path, loader=lambda: list(DataLoader(TensorDataset(*kills.digits(80)), 16))),
    "partial batches": lambda path: vae(path, loader=lambda: kills.own_generator(n=75)),
    "GAN": small_gan,
    "GAN, partial batches": lambda path: small_gan(path, loader=lambda: kills.own_generator(n=88)),
}


@pytest.mark.parametrize("step", [2, 5, 6, 9])  # within an epoch, its last step, its first
@pytest.mark.parametrize("name", TRAININGS)
def test_cut_short_and_resumed_equals_never_interrupted(path, name, step):
    train = TRAININGS[name]
    cut_training(train, path, step)
    assert describe_checkpoint(path, 9).startswith(f"run.pt: {(step - 1) // 5} of 9 epochs")
    assert digest(train, path, OTHER_SEED) == digest(train)


def test_a_training_that_is_cut_short_twice_in_an_epoch(path):
    cut_training(vae, path, 7)
    cut_training(vae, path, 2, seed=OTHER_SEED)  # the eighth
    assert digest(vae, path, OTHER_SEED) == digest(vae)


@pytest.mark.parametrize("save_after", [0, 30])
def test_the_same_model_goes_on_in_the_same_process(path, monkeypatch, save_after):
    """A cell that calls one epoch at a time, and is run again after an error in the second epoch."""
    monkeypatch.setattr(resume, "SAVE_AFTER", save_after)

    def stubborn(path):
        model, loader, history = VAE(784, latent_size=LATENTS, hidden_dim=HIDDEN), kills.shuffled(), []
        while len(history) < 3:
            try:
                history.append(helper.train_vae(len(history), model, loader, checkpoint=path))
            except Cut:
                pass
        return model.state_dict(), history

    with at_step(8):
        cut_once = digest(stubborn, path)
    assert cut_once == digest(stubborn)


@pytest.mark.parametrize("train", [vae, small_gan])
def test_an_epoch_is_saved_even_if_no_step_is(path, monkeypatch, train):
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    cut_training(train, path, 9)
    assert describe_checkpoint(path, 2).startswith("run.pt: 1 of 2 epochs. NOT COMPLETE")
    assert digest(train, path, OTHER_SEED) == digest(train)


def test_a_step_is_saved_when_half_a_minute_has_passed(path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resume, "SAVE_AFTER", 30)
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    places, real = [], resume.write_checkpoint
    monkeypatch.setattr(resume, "write_checkpoint",
                        lambda path, state: (places.append((len(state["epochs"]), state["step"])), real(path, state)))
    with at_step(3, lambda: now.__setitem__(0, 29.0)), at_step(4, lambda: now.__setitem__(0, 30.0)):
        digest(vae, path, epochs=1)
    assert places == [(0, 4), (1, 0)]


@pytest.mark.parametrize("train", [vae, small_gan])
def test_a_finished_training_shows_its_result_again_and_takes_no_step(path, train):
    first = digest(train, path)
    files = path.read_bytes(), beside(path).read_bytes()
    with at_step(1):
        assert digest(train, path, OTHER_SEED) == first
    assert (path.read_bytes(), beside(path).read_bytes()) == files


def test_drawing_and_evaluating_between_epochs_changes_nothing(path):
    def draw():
        torch.rand(3), random.random(), torch.manual_seed(5)
        model = VAE(784, latent_size=LATENTS, hidden_dim=HIDDEN)
        helper.evaluate_vae(model, kills.shuffled(32))

    plain = digest(lambda p: vae(p)[0], path)
    assert digest(lambda p: vae(p, between=draw)[0], beside(path, ".2")) == plain
    for ending in (".3", ".4"):
        cut_training(vae, beside(path, ending), 8, between=draw if ending == ".3" else lambda: None)
        assert digest(lambda p: vae(p, between=draw)[0], beside(path, ending), OTHER_SEED) == plain


def test_the_random_numbers_after_a_finished_training_are_those_of_its_end(path):
    def after(path):
        vae(path)
        return torch.rand(2), random.random()

    assert digest(after) == digest(after, path) == digest(after, path, OTHER_SEED)


# ---------------------------------------------------------------- what is said


def test_restored_epochs_print_their_lines_again(path, capsys):
    digest(vae, path, epochs=2)
    first = capsys.readouterr().out.splitlines()
    cut_training(vae, path, 3, seed=OTHER_SEED)
    capsys.readouterr()
    digest(vae, path, OTHER_SEED)
    lines = capsys.readouterr().out.splitlines()
    mark = " \t(restored; the model is that after 2 epochs)"
    assert lines[:3] == [first[0] + mark, first[1] + mark, "Going on at epoch 2, step 2, from run.pt"]
    assert lines[3].startswith("Train Epoch: 2 \tLoss: ") and len(lines) == 4


def test_restored_steps_of_a_gan_print_their_lines_again(path, capsys, monkeypatch):
    real = helper.run_a_gan
    monkeypatch.setattr(helper, "run_a_gan", lambda *a, **options: real(*a, **{**options, "show_every": 3}))
    cut_training(small_gan, path, 9)
    first = [line for line in capsys.readouterr().out.splitlines() if line]
    digest(small_gan, path, OTHER_SEED)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(first) == 3 and lines[:3] == [f"{line} (restored)" for line in first]
    assert lines[3] == "Going on at epoch 1, step 3, from run.pt" and lines[4].startswith("Iter: 9, D: ")


def test_another_device_or_version_is_said_in_one_line(path, capsys):
    cut_training(vae, path, 3)
    state = read_checkpoint(path)
    write_checkpoint(path, {**state, "made with": {**state["made with"], "device": "cuda", "torch": "1.0"}})
    capsys.readouterr()
    digest(vae, path, OTHER_SEED)
    said = [line for line in capsys.readouterr().out.splitlines() if "made with" in line]
    assert said == [f"run.pt was made with torch 1.0, now {torch.__version__}; device cuda, now cpu: "
                    "the last digits of what follows may differ."]


def test_a_checkpoint_of_a_gpu_goes_on_here(path):
    """It has one random state more; where there is no GPU, that one has nothing to go to."""
    cut_training(vae, path, 8)
    state = read_checkpoint(path)
    for name in ("random", "random at the start of the epoch"):
        state[name]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    write_checkpoint(path, {**state, "made with": {**state["made with"], "device": "cuda"}})
    assert digest(vae, path, OTHER_SEED) == digest(vae)


@pytest.mark.parametrize("train", [vae, small_gan])
def test_a_checkpoint_holds_plain_types_alone(path, train):
    cut_training(train, path, 8)
    found = set()

    def walk(value):
        found.add(type(value))
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, (list, tuple)):
            for item in value:
                walk(item)

    walk(read_checkpoint(path))
    assert found <= {dict, OrderedDict, list, tuple, str, int, float, bool, type(None), torch.Tensor}


def test_a_checkpoint_is_no_larger_than_what_it_holds(path):
    """Of a view, torch would save all of the tensor behind it."""
    digest(small_gan, path, loader=lambda: kills.shuffled(80, 80), batch_size=80)
    d, g = (helper.count_params(build()) for build in SMALL)
    numbers = 3 * (d + g) + g + helper.SHOWN_SAMPLES * 784  # weights and two moments; the average; the picture
    assert path.stat().st_size < 4 * numbers + 80_000  # all 80 images would be 200,000 bytes more


# ---------------------------------------------------------------- Stop


def press():
    signal.raise_signal(signal.SIGINT)


def stopped(train, path, step, act=press, **options):
    """Press Stop in the middle of a step; gives what is said, and how many steps began."""
    before = signal.getsignal(signal.SIGINT)
    with at_step(step, act) as steps, pytest.raises(KeyboardInterrupt) as stop:
        digest(train, path, **options)
    assert signal.getsignal(signal.SIGINT) is before
    return str(stop.value), steps[0]


@pytest.mark.parametrize("train", [vae, small_gan])
@pytest.mark.parametrize("step, place", [(1, "0 epochs and 1 steps"), (5, "0 epochs and 5 steps"),
                                         (8, "1 epochs and 3 steps"), (10, "1 epochs and 5 steps")])
def test_stop_lets_the_step_end_saves_and_says_how_to_go_on(path, monkeypatch, train, step, place):
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    said, steps = stopped(train, path, step)
    assert said == f"Stopped after {place} of the next; saved in run.pt. Run the cell again to go on"
    assert steps == step
    assert digest(train, path, OTHER_SEED) == digest(train)


@pytest.mark.parametrize("train", [vae, small_gan])
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
    assert digest(train, path, OTHER_SEED) == digest(train)


def test_a_second_stop_while_the_first_one_saves(path, monkeypatch):
    cut_training(vae, path, 8)
    newest, fsync = path.read_bytes(), os.fsync
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: (press(), fsync(number)))
        stopped(vae, path, 2, seed=OTHER_SEED)
    assert path.read_bytes() == newest and not beside(path, ".unfinished").exists()
    assert digest(vae, path, OTHER_SEED) == digest(vae)


def test_stop_without_a_checkpoint_says_that_nothing_is_saved(tmp_path):
    for train in (vae, small_gan):
        said, steps = stopped(train, None, 8)
        assert said.endswith("1 epochs and 3 steps of the next; nothing was saved, since no checkpoint was given")
        assert steps == 8
    assert os.listdir(tmp_path) == []


def test_stop_while_evaluating_ends_after_the_epoch(path, monkeypatch):
    def evaluate(*arguments, real=helper.evaluate_vae):
        press()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(helper, "evaluate_vae", evaluate)
        with pytest.raises(KeyboardInterrupt, match="after 1 epochs and 0 steps of the next; saved in run.pt"):
            digest(vae, path, validate=True)
    assert digest(vae, path, OTHER_SEED, validate=True) == digest(vae, validate=True)


@pytest.mark.parametrize("train, epochs", [(vae, 3), (small_gan, 2)])
def test_stop_while_the_last_epoch_is_saved_loses_nothing(path, monkeypatch, train, epochs):
    real, pressed = resume.write_checkpoint, []

    def write(path, state):
        if len(state["epochs"]) == epochs and not pressed:
            pressed.append(press())
        real(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "write_checkpoint", write)
        with pytest.raises(KeyboardInterrupt, match=f"after {epochs} epochs and 0 steps"):
            digest(train, path)
    plain = digest(train)
    with at_step(1):
        assert digest(train, path, OTHER_SEED) == plain


@pytest.mark.parametrize("train", [vae, small_gan])
def test_stop_between_the_last_save_and_the_end_is_not_lost(path, monkeypatch, train):
    real = resume.Run.finish_epoch
    monkeypatch.setattr(resume.Run, "finish_epoch", lambda run, *record: (real(run, *record), press()))
    with pytest.raises(KeyboardInterrupt, match="after 1 epochs and 0 steps"):
        digest(train, path, epochs=1)


def test_stop_when_it_cannot_be_saved_says_so(path, monkeypatch):
    monkeypatch.setattr(resume, "SAVE_AFTER", 1000)
    monkeypatch.setattr(resume, "write_checkpoint", failing)
    with pytest.warns(RuntimeWarning, match="could not be written"):
        said, _ = stopped(vae, path, 3)
    assert said.endswith("0 epochs and 3 steps of the next; it could NOT be saved")


def test_the_handler_of_stop_is_the_one_from_before(path):
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN, lambda *_: None):
            signal.signal(signal.SIGINT, handler)
            digest(vae, path)
            assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_training_in_a_thread_of_its_own_leaves_stop_alone(path):
    digests, handler = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: digests.append(digest(vae, path)))
    thread.start()
    thread.join()
    assert digests == [digest(vae)] and signal.getsignal(signal.SIGINT) is handler


# ---------------------------------------------------------------- damage, and disks that fail


def failing(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("train", [vae, small_gan])
@pytest.mark.parametrize("damage", [
    lambda raw: b"", lambda raw: raw[:len(raw) // 2], lambda raw: raw[:999] + bytes([raw[999] ^ 1]) + raw[1000:],
], ids=["emptied", "cut short", "a byte"])
def test_a_damaged_newest_file_costs_a_step_and_no_more(path, train, damage):
    cut_training(train, path, 9)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match=r"run\.pt cannot be read: .*; going on from run\.pt\.previous") as warned:
        assert digest(train, path, OTHER_SEED) == digest(train)
    assert len(warned) == 1


def test_when_both_are_damaged_the_run_is_refused_and_fresh_starts_over(path, capsys):
    cut_training(vae, path, 9)
    for file in (path, beside(path)):
        file.write_bytes(b"damaged")
    with at_step(1), pytest.raises(CheckpointError, match=r"run\.pt .*; run\.pt\.previous .*fresh=True"):
        digest(vae, path)
    assert path.read_bytes() == b"damaged"
    assert digest(vae, path, fresh=True) == digest(vae)
    assert path.with_name("run-1.pt").read_bytes() == b"damaged"


@pytest.mark.parametrize("train", [vae, small_gan])
@pytest.mark.parametrize("operation", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"),
                                   PermissionError(errno.EROFS, "Read-only file system"),
                                   OSError(errno.ENOTCONN, "Transport endpoint is not connected")], ids=str)
def test_a_disk_that_fails_warns_once_and_the_training_goes_on(path, monkeypatch, train, operation, error):
    cut_training(train, path, 4)
    newest = path.read_bytes()

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail)
        with pytest.warns(RuntimeWarning) as warned:
            assert digest(train, path, OTHER_SEED) == digest(train)
    assert [str(one.message) for one in warned] == [f"run.pt could not be written ({error}); "
                                                    "the training goes on without it"]
    assert path.read_bytes() == newest
    assert digest(train, path, OTHER_SEED) == digest(train)


def test_a_file_where_the_folder_should_be_warns_once(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.warns(RuntimeWarning, match="vae.pt could not be written") as warned:
        assert digest(vae, tmp_path / "taken" / "vae.pt") == digest(vae)
    assert len(warned) == 1


def test_a_drive_that_answers_with_errors_from_the_start_warns_once(path, monkeypatch):
    monkeypatch.setattr(resume, "write_checkpoint", failing)
    with pytest.warns(RuntimeWarning) as warned:
        assert digest(small_gan, path) == digest(small_gan)
    assert len(warned) == 1


def test_a_disk_that_fails_for_a_while_is_used_again(path, monkeypatch):
    real, broken = os.fsync, [True]
    monkeypatch.setattr(os, "fsync", lambda number: failing() if broken else real(number))
    with at_step(5, broken.clear), pytest.warns(RuntimeWarning) as warned:
        digest(vae, path)
    assert len(warned) == 1 and describe_checkpoint(path, 3) == "run.pt: 3 of 3 epochs"


def test_a_folder_that_is_deleted_in_between_is_made_again(tmp_path):
    path = tmp_path / "runs" / "vae.pt"
    assert digest(vae, path, between=lambda: shutil.rmtree(path.parent)) == digest(vae)
    with at_step(9, lambda: shutil.rmtree(path.parent, ignore_errors=True)):
        assert digest(vae, path) == digest(vae)
    assert describe_checkpoint(path, 3) == "vae.pt: 3 of 3 epochs"


@pytest.mark.parametrize("save_after", [0, 1000])
@pytest.mark.parametrize("step", [7, 10])  # within the second epoch, its last step
@pytest.mark.parametrize("train, module, loss", [(vae, helper, "loss_function"), (small_gan, gan, "generator_loss")])
def test_a_loss_that_is_nan_never_gets_into_a_checkpoint(path, monkeypatch, train, module, loss, step, save_after):
    monkeypatch.setattr(resume, "SAVE_AFTER", save_after)
    factor, real = [1], getattr(module, loss)
    with monkeypatch.context() as patch:
        patch.setattr(module, loss, lambda *arguments: real(*arguments) * factor[-1])
        named = step - 6 if train is vae else step - 1  # a GAN's steps are counted over all epochs
        with at_step(step, lambda: factor.append(torch.nan)), pytest.raises(
                FloatingPointError, match=f"epoch 1, step {named}: expected a finite loss"):
            digest(train, path)
    assert all(tensor.isfinite().all() for tensor in tensors_in(read_checkpoint(path)["parts"]))
    assert digest(train, path, OTHER_SEED) == digest(train)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inside for tensor in tensors_in(item)]


# ---------------------------------------------------------------- refused, and started over


class Own(VAE):
    """A model of the user's own, which does not say whether it takes labels."""

    def __init__(self, latent_size=LATENTS, hidden_dim=HIDDEN):
        super().__init__(784, latent_size, hidden_dim)
        self.num_classes = None


class Named(TensorDataset):
    name = "other digits"


def own(path, model=None, **options):
    return train_vae_to_the_end(path, model=model or Own(), epochs=1, **options)


def batches_of(size, number=5):
    return list(DataLoader(TensorDataset(*kills.digits(size * number)), size))


OTHER_VAES = {
    "width": ({"model": lambda: Own(LATENTS, 16)}, "network: expected .*out_features=16, .*, found .*features=24, .*"),
    "latents": ({"model": lambda: Own(5)}, "network: expected .*out_features=5, .*, found .*out_features=4, .*"),
    "class": ({"model": lambda: VAE(784, 4, 24)}, "class: expected VAE, found Own"),
    "CVAE": ({"model": lambda: CVAE(784, 10, 4, 24), "cond": True}, "class: expected CVAE, found Own"),
    "cond": ({"cond": True}, "cond: expected True, found False"),
    "data": ({"loader": lambda: DataLoader(Named(*kills.digits(80)), 16)},
             "data: expected other digits, found TensorDataset"),
    "images": ({"loader": lambda: kills.shuffled(96)}, "images: expected 96, found 80"),
    "batch size": ({"loader": lambda: kills.shuffled(80, 20)}, "batch size: expected 20, found 16"),
    "batch size, as many batches": ({"loader": lambda: kills.shuffled(80, 18)}, "batch size: expected 18, found 16"),
}


def assert_refused(path, train, message, **options):
    """Refused before a step, with the field and both values; the files stay as they are."""
    files = path.read_bytes(), beside(path).read_bytes()
    refusal = rf"(?s)run\.pt is the checkpoint of another run\. {message}\. fresh=True"
    with at_step(1), pytest.raises(CheckpointError, match=refusal):
        train(path, **options)
    assert (path.read_bytes(), beside(path).read_bytes()) == files
    assert sorted(os.listdir(path.parent)) == ["run.pt", "run.pt.previous"]


@pytest.mark.parametrize("options, message", OTHER_VAES.values(), ids=OTHER_VAES)
def test_the_checkpoint_of_another_vae_is_refused(path, options, message):
    digest(own, path)
    model = options.get("model", Own)()
    before = digest_of(model.state_dict())
    assert_refused(path, own, message, **{**options, "model": model})
    assert digest_of(model.state_dict()) == before


def test_batches_of_another_size_are_refused_in_a_list_too(path):
    digest(own, path, loader=lambda: batches_of(16))
    assert_refused(path, own, "batch size: expected 8, found 16", loader=lambda: batches_of(8))


def test_a_vae_of_another_loss_or_rate_is_refused(path, monkeypatch):
    digest(own, path)
    with monkeypatch.context() as patch:
        patch.setattr(helper, "loss_function", lambda *arguments: 2 * loss_function(*arguments))
        assert_refused(path, own, r"loss_function of a fixed example: expected [\d.]+, found [\d.]+")
    assert_refused(path, own, r"optimizer: expected Adam .*'lr': 0.5.*, found Adam .*'lr': 0.001.*", learning_rate=0.5)


def own_gan(path, D=gan.discriminator, G=gan.generator, losses=(gan.discriminator_loss, gan.generator_loss),
            d_adam=None, g_adam=None, optimizer=torch.optim.Adam, batch_size=16, noise_size=96, loader=kills.shuffled):
    D, G = D(), G()
    solvers = optimizer(D.parameters(), **d_adam or {}), optimizer(G.parameters(), **g_adam or {})
    return helper.run_a_gan(D, G, *solvers, *losses, "no.jpg", 100, batch_size, noise_size, 1, loader_train=loader(),
                            checkpoint=path)


OTHER_GANS = {
    "D": ({"D": gan.build_dc_classifier}, "D: expected .*Unflatten.*, found .*Linear.*"),
    "G": ({"G": gan.build_dc_generator}, "G: expected .*, found .*"),
    "the rate of D": ({"d_adam": {"lr": 0.5}}, "D_solver: expected Adam .*'lr': 0.5.*, found Adam .*'lr': 0.001.*"),
    "the rate of G": ({"g_adam": {"lr": 0.5}}, "G_solver: expected Adam .*'lr': 0.5.*, found Adam .*'lr': 0.001.*"),
    "betas": ({"d_adam": {"betas": (0.5, 0.9)}}, r"D_solver: expected .*\(0.5, 0.9\).*, found .*\(0.9, 0.999\).*"),
    "a switch of Adam": ({"g_adam": {"amsgrad": True}}, "G_solver: expected .*amsgrad.*True.*, found .*"),
    "another optimizer": ({"optimizer": torch.optim.RMSprop}, "D_solver: expected RMSprop .*, found Adam .*"),
    "losses": ({"losses": (gan.ls_discriminator_loss, gan.ls_generator_loss)},
               r"losses of a fixed example: expected [\d., ]+, found [\d., ]+"),
    "noise": ({"noise_size": 10}, "noise_size: expected 10, found 96"),
    "images": ({"loader": lambda: kills.shuffled(96)}, "images: expected 96, found 80"),
    "batch size": ({"batch_size": 8}, "batch size: expected 8, found 16"),
    "batch size of the loader": ({"batch_size": 20, "loader": lambda: kills.shuffled(80, 20)},
                                 "batch size: expected 20, found 16"),
}


@pytest.fixture(scope="module")
def finished_gan(tmp_path_factory):
    path = tmp_path_factory.mktemp("gan") / "run.pt"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("show_and_close", "save_picture", "draw_digits"):
            patch.setattr(helper, name, lambda *_, **__: None)
        patch.setattr(resume, "SAVE_AFTER", 0)
        own_gan(path)
    return path


@pytest.mark.parametrize("options, message", OTHER_GANS.values(), ids=OTHER_GANS)
def test_the_checkpoint_of_another_gan_is_refused(finished_gan, options, message):
    assert_refused(finished_gan, own_gan, message, **options)


def test_the_same_gan_is_not_refused(finished_gan):
    with at_step(1):
        own_gan(finished_gan)


def test_the_checkpoint_of_a_gan_is_refused_for_a_vae_and_the_reverse(finished_gan, path):
    assert_refused(finished_gan, own, "class: expected Own, found None")
    digest(own, path)
    assert_refused(path, own_gan, "D: expected Sequential.*, found None")


def test_another_file_format_is_refused(path):
    digest(vae, path)
    write_checkpoint(path, {**read_checkpoint(path), "format": 99})
    for train in (vae, small_gan):
        with at_step(1), pytest.raises(CheckpointError, match="run.pt: expected .* format .*, found format 99. fresh"):
            digest(train, path)


@pytest.mark.parametrize("train", [vae, small_gan])
def test_a_folder_or_a_text_is_refused(tmp_path, train):
    with at_step(1), pytest.raises(ValueError, match=f"expected the name of a file, found the folder {tmp_path.name}"):
        train(tmp_path)
    (tmp_path / "notes.txt").write_text("My notes")
    with at_step(1), pytest.raises(CheckpointError, match=r"notes\.txt cannot be read: .*fresh=True"):
        train(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "My notes"


def test_an_epoch_that_comes_too_early_is_refused(path):
    digest(vae, path, epochs=1)
    with pytest.raises(ValueError, match="epoch: expected at most 1, the next one of run.pt, found 2"):
        helper.train_vae(2, VAE(784, LATENTS, HIDDEN), kills.shuffled(), checkpoint=path)


def test_a_loader_that_has_become_shorter_is_named(path):
    cut_training(vae, path, 5, loader=lambda: PassedOff(batches_of(16)))
    with pytest.raises(ValueError, match="the loader: expected at least 4 batches, as in run.pt, found 2"):
        digest(vae, path, loader=lambda: PassedOff(batches_of(16)[:2]))


class PassedOff(list):
    """Batches that say nothing of their number."""

    def __length_hint__(self):
        return NotImplemented

    def __len__(self):
        return 5


@pytest.mark.parametrize("train", [vae, small_gan])
def test_fresh_starts_over_and_keeps_the_old_files(path, train, capsys):
    plain, kept = digest(train), []
    cut_training(train, path, 7)
    for number in (1, 2):  # of one that was cut short, of one that is finished
        kept.append(path.read_bytes())
        capsys.readouterr()
        assert digest(train, path, fresh=True) == plain
        assert f"Starting over; the old checkpoint is kept as run-{number}.pt." in capsys.readouterr().out
    assert [path.with_name(f"run-{number}.pt").read_bytes() for number in (1, 2)] == kept
    assert digest(train, path.with_name("run-1.pt"), OTHER_SEED) == plain  # it can be gone on with


def test_fresh_without_a_checkpoint_just_starts(path, capsys):
    assert digest(vae, path, fresh=True) == digest(vae)
    assert capsys.readouterr().out.startswith("Starting over.\nTrain Epoch: 0")
    assert sorted(os.listdir(path.parent)) == ["run.pt", "run.pt.previous"]


def test_fresh_at_a_later_epoch_does_nothing(path):
    plain = digest(vae)
    cut_training(vae, path, 8)
    model, loader = VAE(784, latent_size=LATENTS, hidden_dim=HIDDEN), kills.shuffled()
    history = [helper.train_vae(epoch, model, loader, checkpoint=path, fresh=epoch > 0) for epoch in range(3)]
    assert not path.with_name("run-1.pt").exists()
    torch.manual_seed(SEED)
    assert digest_of(history) == digest(lambda p: vae(p)[0][2])
    assert digest(vae, path, OTHER_SEED) == plain


# ---------------------------------------------------------------- more epochs, or fewer


@pytest.mark.parametrize("train", [vae, small_gan])
def test_more_epochs_go_on_as_if_they_had_been_asked_for_at_once(path, train):
    digest(train, path, epochs=1)
    digest(train, path, OTHER_SEED, epochs=2)
    assert digest(train, path, OTHER_SEED + 1, epochs=4) == digest(train, epochs=4)


def test_fewer_epochs_of_a_vae_show_the_newest_state(path, capsys):
    digest(vae, path)
    capsys.readouterr()
    torch.manual_seed(OTHER_SEED)
    (weights, _, history, _), *_ = vae(path, epochs=1)
    assert len(history) == 1 and capsys.readouterr().out.endswith("(restored; the model is that after 3 epochs)\n")
    assert digest_of(weights) == digest(lambda p: vae(p)[0][0])


@pytest.mark.parametrize("cut_at, epochs", [(None, 1), (None, 0), (8, 1)])
def test_fewer_epochs_of_a_gan_show_the_newest_state(path, capsys, cut_at, epochs):
    digest(small_gan, path) if cut_at is None else cut_training(small_gan, path, cut_at)
    capsys.readouterr()
    with at_step(1):
        (_, G, *_, d_loss, g_loss, _, _, _, average, best), *_ = small_gan(path, epochs=epochs)
    assert f"run.pt is past the {epochs} epochs that were asked for: all of it is shown." in capsys.readouterr().out
    assert len(d_loss) == len(g_loss) == (10 if cut_at is None else cut_at - 1)
    assert digest_of(best) == digest_of(G) == digest_of(read_checkpoint(path)["parts"]["G"])


# ---------------------------------------------------------------- the averaged generator


def small_generator():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def walk(generator, steps):
    """Change a generator's weights and statistics at random; yields after each step."""
    for _ in range(steps):
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(torch.randn_like(p))
        generator.train()(torch.randn(8, 3))
        yield


def test_the_average_is_the_formula_in_float64(monkeypatch):
    monkeypatch.setattr(averaging, "DECAY", 0.95)  # reached after 14 updates: 0.95 ** 8 = 0.66
    generator = small_generator()
    average, expected = averaging.averaged(generator), {}
    for update, _ in enumerate(walk(generator, 30)):
        average.update_parameters(generator)
        decay = min((1 + update) / (10 + update), 0.95 ** averaging.AVERAGE_EVERY) if update else 0.0
        for name, value in generator.state_dict().items():
            old = expected.get(name, value.double())
            expected[name] = decay * old + (1 - decay) * value.double()
    found = average.module.state_dict()
    assert found["1.num_batches_tracked"] == 30 and found["1.num_batches_tracked"].dtype == torch.int64
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_decay_grows_from_2_11_to_that_of_8_steps():
    decays = [averaging.decay_after(torch.tensor(n)).item() for n in (1, 10, 100, 10_000)]
    assert decays == pytest.approx([2 / 11, 11 / 20, 101 / 110, 0.999 ** 8])
    assert averaging.AVERAGE_EVERY == 8


def test_averaging_leaves_the_generator_alone():
    generator = small_generator()
    average = averaging.averaged(generator)
    for _ in walk(generator, 3):
        before, modes = digest_of(generator.state_dict()), [m.training for m in generator.modules()]
        average.update_parameters(generator)
        assert digest_of(generator.state_dict()) == before and [m.training for m in generator.modules()] == modes
    assert all(p.requires_grad for p in generator.parameters())
    assert not any(p.requires_grad for p in average.parameters()) and not average.module.training
    shared = {p.data_ptr() for p in generator.parameters()} & {p.data_ptr() for p in average.parameters()}
    assert not shared


def test_a_gan_averages_every_eighth_step_and_trains_as_without(monkeypatch):
    seen, real = [], helper.generator_step

    def step(D, G, *arguments):
        result = real(D, G, *arguments)
        seen.append({name: value.clone() for name, value in G.state_dict().items()})
        return result

    def train(path):
        return train_gan_to_the_end(path, SMALL, lambda: kills.shuffled(20, 4), batch_size=4)  # 10 steps

    monkeypatch.setattr(helper, "generator_step", step)
    torch.manual_seed(SEED)
    (_, G, *_, average, best), *_ = train(None)
    assert len(seen) == 10 and digest_of(best) == digest_of(G) == digest_of(seen[9])
    for name, value in average.items():
        expected = 2 / 11 * seen[0][name] + 9 / 11 * seen[8][name] if value.is_floating_point() else seen[8][name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(averaging.AveragedModel, "update_parameters", lambda *_: None)
    torch.manual_seed(SEED)
    assert digest_of(train(None)[0][1]) == digest_of(G)


def test_the_history_s_generators_are_no_part_of_the_one_that_is_trained(path):
    D, G = gan.discriminator(), gan.generator()
    history = helper.run_a_gan(D, G, gan.get_optimizer(D), gan.get_optimizer(G), gan.discriminator_loss,
                               gan.generator_loss, "no.jpg", batch_size=16, num_epochs=1,
                               loader_train=kills.shuffled(), checkpoint=path)
    before = digest_of(history.G_best), digest_of(history.G_average.state_dict())
    with torch.no_grad():
        for p in G.parameters():
            p.zero_()
    assert (digest_of(history.G_best), digest_of(history.G_average.state_dict())) == before
    assert history.G_average(gan.sample_noise(2, 96)).shape == (2, 784) and not history.G_average.training
