"""cscm77/training/run.py: a training that was killed or cut short ends as one that never was.

The oracle is always the same training without a checkpoint and without a break, to the last bit.
"""

import os
import random
import sys
from contextlib import suppress
from functools import partial

import kills
import pytest
import torch
from kills import HIDDEN, LATENTS, SEED, Children, digest_of
from tiny import tree
from trainings import (
    OTHER_SEED,
    SMALL,
    Cut,
    at_step,
    both,
    cut_training,
    digest,
    plain,
    said_by,
    small_gan,
    vae,
)

import cscm77_helper as helper
from cscm77.files import beside
from cscm77.training import checkpoints, journal
from cscm77.training import run as resume
from cscm77.training.checkpoints import describe_checkpoint, read_checkpoint
from vae import VAE


def small_vae():
    return VAE(784, LATENTS, HIDDEN)


# ---------------------------------------------------------------- killed

KILLS = {"VAE": 24, "CVAE": 14, "FC": 9, "DC": 8}
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the process that forks them
        yield Children(tmp_path_factory.mktemp("kills"))


@forks
@pytest.mark.parametrize("training", KILLS)
def test_killed_and_resumed_equals_never_interrupted(children, training):
    in_a_save, wrong = kills.killed_and_resumed(children, training, KILLS[training],
                                                random.Random(training))
    assert wrong == 0 and in_a_save >= len(kills.IN_A_SAVE) >= 7


@forks
@pytest.mark.parametrize("part", [None, "torch's random numbers", "the moments"])
def test_the_kills_would_show_a_part_of_the_state_that_is_not_restored(children, tmp_path, part):
    path = tmp_path / "vae.pt"
    assert children.run("VAE", path, at=("write_checkpoint", 9))[0] is None  # in the second epoch
    resumed, _ = children.run("VAE", path, forget=part)
    assert (resumed == children.run("VAE")[0]) == (part is None)


@pytest.mark.parametrize("part", kills.FORGET)
def test_every_part_of_the_state_is_needed(path, monkeypatch, part):
    cut_training(vae, path, 9)
    monkeypatch.setattr(checkpoints, "read_checkpoint", kills.forgetful(part))
    assert digest(vae, path, OTHER_SEED) != plain(vae)


# ---------------------------------------------------------------- cut short, in this process


TRAININGS = {
    "VAE": vae,
    "CVAE with validation": partial(vae, cond=True, validate=True),
    "own generator, partial batches": partial(vae, loader=lambda: kills.own_generator(n=75)),
    "Python's order": partial(vae, loader=kills.python_shuffled),
    "list of batches": partial(vae, loader=lambda: list(kills.batches())),
    "GAN": small_gan,
    "GAN, partial batches": partial(small_gan, loader=lambda: kills.own_generator(n=88)),
}


@pytest.mark.parametrize("step", [2, 5, 6, 9])  # within an epoch, its last step, its first
@pytest.mark.parametrize("name", TRAININGS)
def test_cut_short_and_resumed_equals_never_interrupted(path, name, step):
    train = TRAININGS[name]
    cut_training(train, path, step)
    assert describe_checkpoint(path, 9).startswith(f"run.pt: {(step - 1) // 5} of 9 epochs")
    assert digest(train, path, OTHER_SEED) == plain(train)


@pytest.mark.parametrize("save_after", [0, 30])
def test_the_same_model_goes_on_in_the_same_process(path, monkeypatch, save_after):
    """A cell that calls one epoch at a time, and is run again after an error in the second one."""
    monkeypatch.setattr(resume, "SAVE_AFTER", save_after)

    def stubborn(path):
        model, loader, history = small_vae(), kills.shuffled(), []
        while len(history) < 3:
            with suppress(Cut):
                history.append(helper.train_vae(len(history), model, loader, checkpoint=path))
        return model.state_dict(), history

    with at_step(8):
        cut_once = digest(stubborn, path)
    assert cut_once == digest(stubborn)


def test_a_step_is_saved_when_half_a_minute_has_passed(path, monkeypatch):
    now, places = [0.0], []
    monkeypatch.setattr(resume, "SAVE_AFTER", 30)
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[-1])
    monkeypatch.setattr(checkpoints, "write_checkpoint",
                        lambda _, state: places.append((state["epoch"], state["step"])))
    with at_step(3, lambda: now.append(29.0)), at_step(4, lambda: now.append(30.0)):
        digest(vae, path, epochs=1)
    assert places == [(0, 4), (1, 0)]


@both
def test_a_finished_training_shows_its_result_again_and_takes_no_step(path, train):
    first, files = digest(train, path), tree(path.parent)
    with at_step(1):
        assert digest(train, path, OTHER_SEED) == first
    assert tree(path.parent) == files


def test_drawing_and_evaluating_between_epochs_changes_nothing(path):
    def draw():
        torch.rand(3), random.random(), torch.manual_seed(5)
        helper.evaluate_vae(small_vae(), kills.shuffled(32))

    def train(path, between=draw):
        return vae(path, between=between)[0]  # without the random numbers after the last epoch

    expected = digest(train, path, between=lambda: None)
    assert digest(train, beside(path, ".2")) == expected
    for ending, between in ((".3", draw), (".4", lambda: None)):
        cut_training(train, beside(path, ending), 8, between=between)
        assert digest(train, beside(path, ending), OTHER_SEED) == expected


# ---------------------------------------------------------------- what is said


def test_restored_epochs_print_their_lines_again(path, capsys):
    digest(vae, path, epochs=2)
    first = said_by(capsys)
    cut_training(vae, path, 3)
    said_by(capsys)
    digest(vae, path)
    lines = said_by(capsys)
    mark = " \t(restored; the model is that after 2 epochs)"
    going_on = "Going on at epoch 2, step 2, from run.pt"
    assert lines[:3] == [first[0] + mark, first[1] + mark, going_on]
    assert lines[3].startswith("Train Epoch: 2 \tLoss: ") and len(lines) == 4


def test_restored_steps_of_a_gan_print_their_lines_again(path, capsys):
    cut_training(small_gan, path, 9)
    first = said_by(capsys)
    digest(small_gan, path)
    lines = said_by(capsys)
    assert len(first) == 3 and lines[:3] == [f"{line} (restored)" for line in first]
    assert lines[3] == "Going on at epoch 1, step 3, from run.pt"
    assert lines[4].startswith("Iter: 9, D: ")


# ---------------------------------------------------------------- what a file holds


def test_a_checkpoint_is_no_larger_than_what_it_holds(path):
    """Of a view, torch would save all of the tensor behind it."""
    digest(small_gan, path, loader=lambda: kills.shuffled(80, 80), batch_size=80)
    d, g = (helper.count_params(build()) for build in SMALL)
    # weights and two moments; the average; the picture
    numbers = 3 * (d + g) + g + journal.SHOWN_SAMPLES * 784
    assert path.stat().st_size < 4 * numbers + 80_000  # all 80 images would be 200,000 bytes more


@pytest.mark.parametrize("train, networks", [(vae, {"model": small_vae}),
                                             (small_gan, dict(zip("DG", SMALL, strict=True)))])
def test_plain_torch_takes_the_weights_out_of_a_checkpoint_as_readme_says(path, train, networks):
    (first, *_), *_ = train(path)
    parts = torch.load(str(path), weights_only=True)["parts"]
    loaded = {name: build() for name, build in networks.items()}
    for name, network in loaded.items():
        network.load_state_dict(parts[name])
    assert digest_of(next(iter(loaded.values())).state_dict()) == digest_of(first)


# ---------------------------------------------------------------- more epochs, or fewer


@both
def test_more_epochs_go_on_as_if_they_had_been_asked_for_at_once(path, train):
    digest(train, path, epochs=1)
    digest(train, path, OTHER_SEED, epochs=2)
    assert digest(train, path, OTHER_SEED + 1, epochs=4) == plain(train, epochs=4)


def test_fewer_epochs_of_a_vae_show_the_newest_state(path, capsys):
    (newest, *_), *_ = vae(path)
    (weights, _, history, *_), *_ = vae(path, epochs=1)
    assert len(history) == 1 and digest_of(weights) == digest_of(newest)
    assert capsys.readouterr().out.endswith("(restored; the model is that after 3 epochs)\n")


@pytest.mark.parametrize("cut_at, epochs", [(None, 1), (None, 0), (8, 1)])
def test_fewer_epochs_of_a_gan_show_the_newest_state(path, capsys, cut_at, epochs):
    digest(small_gan, path) if cut_at is None else cut_training(small_gan, path, cut_at)
    with at_step(1):
        (_, G, *_, d_loss, g_loss, _, _, _, _, best), *_ = small_gan(path, epochs=epochs)
    past = f"run.pt is past the {epochs} epochs that were asked for: all of it is shown."
    assert past in said_by(capsys)
    assert len(d_loss) == len(g_loss) == (10 if cut_at is None else cut_at - 1)
    assert digest_of(best) == digest_of(G) == digest_of(read_checkpoint(path)["parts"]["G"])


# ---------------------------------------------------------------- another file, the same model


def test_a_model_that_goes_on_with_another_file_is_taken_up_from_that(path):
    torch.manual_seed(SEED)
    model, loader, other = small_vae(), kills.shuffled(), path.with_name("other.pt")
    helper.train_vae(0, model, loader, checkpoint=path)
    with pytest.raises(ValueError, match="epoch: expected at most 0, the next one of other.pt"):
        helper.train_vae(1, model, loader, checkpoint=other)
    assert not other.exists()
    helper.train_vae(1, model, loader, checkpoint=path)
    torch.manual_seed(SEED)
    assert digest_of(model.state_dict()) == digest_of(vae(None, epochs=2)[0][0])
