"""cscm77/training/begin.py: what is looked at before a step, starting over, whose a file is."""

import gc
import os
import weakref

import kills
import pytest
import torch
from kills import HIDDEN, LATENTS, SEED, digest_of
from torch import nn
from trainings import OTHER_SEED, at_step, both, cut_training, digest, vae

import cscm77_helper as helper
from cscm77.training.begin import runs
from cscm77.training.checkpoints import CheckpointError, read_checkpoint
from vae import VAE


def small_vae():
    return VAE(784, LATENTS, HIDDEN)


# ---------------------------------------------------------------- what is no checkpoint of ours


@both
def test_a_folder_or_weights_are_refused(tmp_path, train):
    folder = f"checkpoint: expected the name of a file, found the folder {tmp_path.name}"
    with at_step(1), pytest.raises(ValueError, match=folder):
        train(tmp_path)
    torch.save(small_vae().state_dict(), tmp_path / "vae.pt")
    not_ours = r"vae\.pt is not one of ours: plain torch\.save wrote it\. fresh=True"
    with at_step(1), pytest.raises(CheckpointError, match=not_ours):
        train(tmp_path / "vae.pt")
    assert os.listdir(tmp_path) == ["vae.pt"]


def test_an_epoch_that_comes_too_early_is_refused(path):
    digest(vae, path, epochs=1)
    early = "epoch: expected at most 1, the next one of run.pt, found 2"
    with pytest.raises(ValueError, match=early):
        helper.train_vae(2, small_vae(), kills.shuffled(), checkpoint=path)


# ---------------------------------------------------------------- starting over


@both
def test_fresh_starts_over_and_keeps_the_old_files(path, train, capsys):
    plain, kept = digest(train), []
    cut_training(train, path, 7)
    for number in (1, 2):  # of one that was cut short, of one that is finished
        kept.append(path.read_bytes())
        capsys.readouterr()
        assert digest(train, path, fresh=True) == plain
        said = f"Starting over; the old checkpoint is kept as run-{number}.pt."
        assert said in capsys.readouterr().out
    assert [path.with_name(f"run-{number}.pt").read_bytes() for number in (1, 2)] == kept
    assert digest(train, path.with_name("run-1.pt"), OTHER_SEED) == plain  # it can be gone on with


def test_fresh_without_a_checkpoint_just_starts_and_at_a_later_epoch_does_nothing(path, capsys):
    assert digest(vae, path, fresh=True) == digest(vae)
    assert capsys.readouterr().out.startswith("Starting over.\nTrain Epoch: 0")
    assert sorted(os.listdir(path.parent)) == ["run.pt", "run.pt.previous"]


# ---------------------------------------------------------------- one run, one model, one Adam


def adam_of(model):
    return runs[model].parts["Adam"]


def test_one_adam_stays_with_a_model_for_all_its_epochs():
    model, batches = small_vae(), kills.shuffled()  # 5 steps an epoch
    helper.train_vae(0, model, batches)
    first = adam_of(model)
    helper.train_vae(1, model, batches)
    assert adam_of(model) is first and first.state[model.mu_layer.weight]["step"] == 10
    helper.train_vae(0, model, batches)  # a new training
    assert adam_of(model).state[model.mu_layer.weight]["step"] == 5
    model.decoder[0] = nn.Linear(LATENTS, HIDDEN)
    helper.train_vae(1, model, batches)  # other weights
    assert adam_of(model).state[model.decoder[0].weight]["step"] == 5


def test_a_model_that_is_no_longer_used_is_freed(path):
    model = small_vae()
    helper.train_vae(0, model, kills.shuffled(), checkpoint=path)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_learning_rate_is_that_of_adam_and_stays():
    model = small_vae()
    for rate in (0.01, 0.001):
        helper.train_vae(0, model, kills.shuffled(), learning_rate=rate)
        assert adam_of(model).defaults["lr"] == rate
    other = "learning_rate: expected 0.001, as in the epochs before, found 0.01"
    with pytest.raises(ValueError, match=other):
        helper.train_vae(1, model, kills.shuffled(), learning_rate=0.01)


# ---------------------------------------------------------------- two models on one path


def test_of_two_models_on_one_path_the_older_is_refused_at_its_next_epoch(path):
    older, newer = small_vae(), small_vae()
    helper.train_vae(0, older, kills.shuffled(), checkpoint=path)
    torch.manual_seed(SEED)
    helper.train_vae(0, newer, kills.shuffled(), checkpoint=path, fresh=True)
    before = path.read_bytes()
    refusal = "run.pt: another training has this file since; give each .* a checkpoint of its own"
    with at_step(1), pytest.raises(CheckpointError, match=refusal):
        helper.train_vae(1, older, kills.shuffled(), checkpoint=path)
    assert path.read_bytes() == before
    helper.train_vae(1, newer, kills.shuffled(), checkpoint=path)  # whoever began last has it
    with pytest.raises(CheckpointError, match="is the checkpoint of another run"):
        helper.train_vae(0, VAE(784, LATENTS, 9), kills.shuffled(), checkpoint=path)
    helper.train_vae(2, newer, kills.shuffled(), checkpoint=path)  # one that is refused does not


def test_a_training_cell_that_is_run_again_works_while_the_old_model_is_held(path):
    held, curves = [], []
    for seed in (SEED, OTHER_SEED):
        torch.manual_seed(seed)
        held.append(small_vae())
        curves.append([helper.train_vae(epoch, held[-1], kills.shuffled(), checkpoint=path)
                       for epoch in range(2)])
    assert curves[0] == curves[1]
    assert digest_of(held[0].state_dict()) == digest_of(held[1].state_dict())
    for epoch in range(3):  # the same model again: it begins last, so the file is its own
        helper.train_vae(epoch, held[0], kills.shuffled(), checkpoint=path)
    assert read_checkpoint(path)["epoch"] == 3
