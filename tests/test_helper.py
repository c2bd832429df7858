"""cscm77_helper.py: its small functions, and what holds of both trainings alike."""

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from kills import batches, digest_of, train_gan
from torch import nn

import cscm77_helper as helper
import gan
from cscm77.training import run
from cscm77.training.checkpoints import read_checkpoint
from cscm77.utils import progress_bar
from cscm77_helper import show_images, train_vae
from vae import VAE

TOP = Path(helper.__file__).parent


def test_import_changes_no_setting_and_loads_no_extra_library():
    code = """
import random, sys, torch
def settings():
    return (str(torch.get_rng_state().tolist()), random.getstate(), torch.get_num_threads(),
            torch.get_float32_matmul_precision(), torch.get_default_dtype())
before = settings()
import cscm77_helper, vae, gan, cscm77.report.pictures
assert settings() == before
assert not {'torchmetrics', 'ipywidgets', 'typst'} & set(sys.modules), 'loaded too much'
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28), (5, 28, 28), (1, 784)])
def test_show_images_leaves_one_new_figure_current(shape, tmp_path):
    before = plt.get_fignums()
    assert show_images(torch.rand(shape, requires_grad=True)) is None
    assert len(plt.get_fignums()) == len(before) + 1
    plt.savefig(tmp_path / "picture.jpg")
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    assert len(plt.gcf().axes) == 1  # one image, not one axes a digit


# ---------------------------------------------------------------- both trainings


def a_vae(path=None, epochs=1, dtype=torch.float, **options):
    """The digests of a VAE's weights and its losses, after 4 steps an epoch."""
    torch.manual_seed(0)
    model = VAE(784, hidden_dim=16).to(dtype)
    curve = [train_vae(epoch, model, list(batches(256, 64)), checkpoint=path,
                       **{"learning_rate": 0.01, **options}) for epoch in range(epochs)]
    assert all(value.dtype == dtype for value in model.state_dict().values())
    return digest_of(model.state_dict()), [(epoch.loss, epoch.val_loss) for epoch in curve]


def a_gan(path=None, epochs=1, dtype=torch.float, **options):
    """The digests of a GAN's weights and its losses, after 4 steps an epoch."""
    torch.manual_seed(0)
    networks = gan.discriminator().to(dtype), gan.generator().to(dtype)
    history = train_gan(*networks, **{
        "batch_size": 64, "num_epochs": epochs, "loader_train": list(batches(256, 64)),
        "checkpoint": path, **options})
    states = [network.state_dict() for network in (*networks, history.G_average)]
    assert all(value.dtype == dtype for value in states[2].values() if value.is_floating_point())
    return digest_of(states), list(zip(history.d_loss, history.g_loss, strict=True))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(helper, "save_picture", lambda *_, **__: None)


both = pytest.mark.parametrize("train", [a_vae, a_gan])
every_loss = pytest.mark.parametrize("train, module, name", [
    (a_vae, helper, "loss_function"), (a_gan, gan, "discriminator_loss"),
    (a_gan, gan, "generator_loss")])


@both
def test_a_bar_with_the_losses_is_shown_in_a_terminal(train, capsys, monkeypatch):
    def eager_bar(total, description, done=0):
        bar = progress_bar(total, description, done=done)
        bar.mininterval, bar.miniters, bar.dynamic_miniters = 0, 1, False
        return bar

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(run, "progress_bar", eager_bar)
    monkeypatch.setattr(run, "READ_EVERY", 2)
    train()
    said = capsys.readouterr().out
    shown = ("Epoch 0", "loss=") if train is a_vae else ("1 epochs", "D=", "G=")
    assert all(words in said for words in (*shown, "/4 ["))
    line = next(line for line in said.split("\n") if "Epoch: " in line or "Iter: " in line)
    assert line.rpartition("\r")[2].startswith(("Train Epoch: 0 \tLoss: ", "Iter: 0, D: "))


@both
@pytest.mark.parametrize("how", ["double", "default"])
def test_float64_goes_through_training_validation_and_checkpoints(train, how, tmp_path, request):
    if how == "default":
        request.getfixturevalue("double_by_default")
    options = {"val_loader": batches(40)} if train is a_vae else {"score": lambda G: 1.0}
    whole = train(tmp_path / "whole.pt", 2, torch.float64, **options)
    train(tmp_path / "run.pt", 1, torch.float64, **options)
    assert train(tmp_path / "run.pt", 2, torch.float64, **options) == whole
    parts = read_checkpoint(tmp_path / "run.pt")["parts"]
    weights = parts["model" if train is a_vae else "D"]
    assert all(value.dtype == torch.float64 for value in weights.values())


@both
def test_autocast_around_a_training_really_trains(train, monkeypatch):
    def trained():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = train(epochs=3)
        assert torch.is_autocast_cache_enabled()
        return result

    def clearing(step):
        """A step of one's own that forgets autocast's copies of weights by itself."""
        def cleared(*arguments):
            result = step(*arguments)
            torch.clear_autocast_cache()
            return result
        return cleared

    first = trained()
    assert first[1][-1][0] < 0.95 * first[1][0][0]
    for name in ("vae_step", "discriminator_step", "generator_step"):
        monkeypatch.setattr(helper, name, clearing(getattr(helper, name)))
    assert trained() == first


def test_numpy_s_numbers_are_numbers(tmp_path):
    path = tmp_path / "vae.pt"
    for epochs, rate in ((np.int64(2), np.float64(0.001)), (np.int8(3), 0.001)):
        model = VAE(784, hidden_dim=8)
        for epoch in np.arange(epochs):
            train_vae(epoch, model, list(batches()), checkpoint=path, learning_rate=rate)
    assert read_checkpoint(path)["epoch"] == 3
    path = tmp_path / "gan.pt"
    for epochs in (1, 2):  # of 140 steps: more than an int8 holds, then more than a uint8
        D, G = nn.Linear(784, 1), nn.Linear(96, 784)
        history = train_gan(D, G, D_solver=torch.optim.Adam(D.parameters(), lr=np.float64(0.001)),
                            loader_train=batches(280, 2), batch_size=np.int32(2),
                            noise_size=np.int16(96), show_every=np.uint8(100), checkpoint=path,
                            num_epochs=np.int8(epochs), score=lambda G: np.float32(1))
    assert len(history.d_loss) == 280 and read_checkpoint(path)["epoch"] == 2


@every_loss
@pytest.mark.parametrize("change, found", [
    (lambda loss: loss.item(), "found float"),
    (lambda loss: loss.detach().numpy().mean(), "found float32"),
    (lambda loss: None, "found None"),
    (lambda loss: (loss, loss), "found tuple"),
    (lambda loss: loss.expand(3), r"found torch.float32 \(3,\)"),
    (lambda loss: loss.detach(), "found a tensor without a gradient"),
], ids=["a float", "a numpy number", "None", "a tuple", "a vector", "no gradient"])
def test_a_loss_that_is_no_scalar_is_refused_at_the_first_step(tmp_path, monkeypatch, train, module,
                                                               name, change, found):
    loss = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: change(loss(*arguments)))
    for path in (None, tmp_path / "run.pt"):
        message = f"epoch 0, step 0: {name}: expected a scalar tensor.*{found}"
        with pytest.raises(ValueError, match=message):
            train(path)


@every_loss
def test_a_loss_of_shape_1_is_a_scalar(monkeypatch, train, module, name):
    plain, loss = train(), getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: loss(*arguments).reshape(1))
    assert train() == plain


@every_loss
@pytest.mark.parametrize("bad", [0, 3, 5])  # the first step, an epoch's last, between readings
def test_a_loss_that_becomes_nan_stops_with_epoch_and_step(monkeypatch, train, module, name, bad):
    loss, calls = getattr(module, name), []

    def sometimes_nan(*arguments):
        calls.append(1)
        return loss(*arguments) * (torch.nan if len(calls) == bad + 1 else 1)

    monkeypatch.setattr(module, name, sometimes_nan)
    step = bad % 4 if train is a_vae else bad  # a GAN's are counted over all epochs
    with pytest.raises(FloatingPointError, match=f"epoch {bad // 4}, step {step}:.*found .*nan"):
        train(epochs=2)
