"""train_vae and evaluate_vae against the brief's own loop, step by step, and what they refuse."""

import contextlib
import random
import sys

import numpy as np
import pytest
import torch
from kills import digest_of, digits
from torch import nn
from torch.nn.parallel import DataParallel
from torch.utils.data import DataLoader, TensorDataset

import cscm77_helper as helper
import vae
from cscm77.training import run
from cscm77.training.checkpoints import read_checkpoint
from cscm77.utils import progress_bar
from cscm77_helper import evaluate_vae, train_vae
from vae import CVAE, VAE, loss_function


def loader(n=256, batch_size=64, **options):
    return DataLoader(TensorDataset(*digits(n)), batch_size, **options)


def brief_vae_epochs(model, batches, epochs, cond=False):
    """The brief's loop with one Adam, written out: the oracle of train_vae."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        for x, y in batches:
            c = torch.zeros(len(y), 10, dtype=x.dtype)
            c[torch.arange(len(y)), y] = 1
            x_hat, mu, logvar = model(x, c) if cond else model(x)
            loss = loss_function(x_hat, x, mu, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("cond", [False, True])
def test_train_vae_takes_the_steps_of_the_brief(cond):
    ours, theirs = ((CVAE if cond else VAE)(784, hidden_dim=32) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    batches = list(loader())
    torch.manual_seed(5)
    for epoch in range(3):  # 12 steps
        train_vae(epoch, ours, batches, cond)
    torch.manual_seed(5)
    brief_vae_epochs(theirs, batches, 3, cond)
    assert digest_of(ours.state_dict()) == digest_of(theirs.state_dict())


def test_train_vae_prints_the_line_of_the_brief_and_gives_a_curve(capsys):
    model, batches = VAE(784, hidden_dim=32), list(loader(512, 96))  # the last batch has 32 images
    results = [train_vae(epoch, model, batches, val_loader=batches) for epoch in range(4)]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Train Epoch: {e} \tLoss: {r.loss:.6f}" for e, r in enumerate(results)]
    assert results[-1].loss < results[0].loss and results[-1].val_loss < results[0].val_loss
    for r in results:
        assert r.loss == pytest.approx(r.reconstruction + r.kl, rel=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images():
    model, batches = VAE(784, hidden_dim=32), list(loader(512, 96))
    torch.manual_seed(2)
    result = train_vae(0, model, batches, learning_rate=1e-30)
    torch.manual_seed(2)
    expected = sum(loss_function(x_hat, x, mu, logvar).item() * len(x)
                   for x, _ in batches for x_hat, mu, logvar in [model(x)]) / 512
    assert result.loss == pytest.approx(expected, rel=1e-6)


def test_an_edited_loss_function_is_the_one_that_is_trained(monkeypatch):
    monkeypatch.setattr(helper, "loss_function", lambda x_hat, x, mu, logvar: 0 * mu.sum() + 7)
    result = train_vae(0, VAE(784, hidden_dim=8), list(loader(128)))
    assert result.loss == 7
    assert result.reconstruction > 100  # the parts stay what their names say


def test_measuring_does_not_change_training():
    plain, measured = VAE(784, hidden_dim=16), VAE(784, hidden_dim=16)
    measured.load_state_dict(plain.state_dict())
    batches, random_state = list(loader()), random.getstate()
    for model, val_loader in ((plain, None), (measured, batches)):
        torch.manual_seed(0)
        for epoch in range(2):
            train_vae(epoch, model, batches, val_loader=val_loader)
    assert digest_of(plain.state_dict()) == digest_of(measured.state_dict())
    assert random.getstate() == random_state


def test_evaluation_is_repeatable_and_leaves_weights_mode_and_random_state():
    model, batches = VAE(784, hidden_dim=16).train(), list(loader(256, 100))
    before, state = digest_of(model.state_dict()), torch.get_rng_state()
    first, second = evaluate_vae(model, batches), evaluate_vae(model, batches)
    assert first == second and model.training
    assert torch.equal(torch.get_rng_state(), state) and digest_of(model.state_dict()) == before
    assert first.loss == pytest.approx(first.reconstruction + first.kl, rel=1e-6)
    with pytest.raises(ValueError, match=r"found 0 to 1\.99"):
        evaluate_vae(model, [(2 * x, y) for x, y in loader(64)])
    assert model.training


def show_bars(monkeypatch):
    """Take standard output for a terminal, and draw bars at every step."""
    def eager_bar(total, description, done=0):
        bar = progress_bar(total, description, done=done)
        bar.mininterval, bar.miniters, bar.dynamic_miniters = 0, 1, False
        return bar

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(run, "progress_bar", eager_bar)


def test_train_vae_shows_a_bar_with_its_loss_in_a_terminal(capsys, monkeypatch):
    show_bars(monkeypatch)
    monkeypatch.setattr(run, "READ_EVERY", 2)
    train_vae(3, VAE(784, hidden_dim=8), list(loader(512, 8)))  # 64 steps
    said = capsys.readouterr().out
    assert "Epoch 3" in said and "/64 [" in said and "loss=" in said
    line = next(line for line in said.split("\n") if "Train Epoch" in line)
    assert line.rpartition("\r")[2].startswith("Train Epoch: 3 \tLoss: ")


@pytest.mark.parametrize("first_nan", [0, 2, 3])
def test_a_loss_that_becomes_nan_stops_with_epoch_and_step(monkeypatch, first_nan):
    calls = []

    def sometimes_nan(*arguments):
        calls.append(1)
        return loss_function(*arguments) * (torch.nan if len(calls) == first_nan + 1 else 1)

    monkeypatch.setattr(helper, "loss_function", sometimes_nan)
    with pytest.raises(FloatingPointError, match=f"epoch 2, step {first_nan}:.*found .nan"):
        train_vae(2, VAE(784, hidden_dim=8), list(loader()))


def test_weights_that_explode_stop_the_training_with_epoch_and_step():
    with pytest.raises(FloatingPointError, match=r"epoch 0, step 1: .*found nan"):
        train_vae(0, VAE(784, hidden_dim=8), list(loader()), learning_rate=1e30)


def test_the_parts_of_the_loss_are_those_of_vae_py():
    model, x = VAE(784, hidden_dim=8), next(iter(loader(128)))[0]
    x[0], x[1] = 0, 1
    with torch.no_grad():  # pixels of exactly 1 and 0
        model.decoder[-3].bias[:9], model.decoder[-3].bias[9:20] = 1e4, -1e4
    torch.manual_seed(4)
    _, *parts = helper.negative_elbo(model, x)
    torch.manual_seed(4)
    x_hat, mu, logvar = model(x)
    assert parts[0].item() == pytest.approx(vae.reconstruction(x_hat, x).item(), rel=1e-6)
    assert parts[1].item() == pytest.approx(vae.kl_divergence(mu, logvar).item(), rel=1e-6)


# ---------------------------------------------------------------- networks and numbers of users


@pytest.mark.parametrize("how", ["double", "default"])
def test_float64_goes_through_training_evaluation_and_checkpoints(tmp_path, how):
    model = CVAE(784, hidden_dim=8)
    with default_dtype(torch.float64) if how == "default" else contextlib.nullcontext():
        model = CVAE(784, hidden_dim=8) if how == "default" else model.double()
        kept = CVAE(784, hidden_dim=8).double()
        kept.load_state_dict(model.state_dict())
        curve = [train_vae(epoch, model, list(loader()), True, val_loader=loader(),
                           checkpoint=tmp_path / "run.pt") for epoch in range(2)]
        again = CVAE(784, hidden_dim=8).double()
        resumed = [train_vae(epoch, again, list(loader()), True, val_loader=loader(),
                             checkpoint=tmp_path / "run.pt") for epoch in range(3)]
        assert evaluate_vae(model, loader(), True).loss == pytest.approx(curve[1].val_loss)
    assert all(value.dtype == torch.float64 for value in model.state_dict().values())
    assert digest_of(resumed[:2]) == digest_of(curve)
    saved = read_checkpoint(tmp_path / "run.pt")["parts"]["model"]
    assert saved["mu_layer.bias"].dtype == torch.float64
    assert digest_of(kept.state_dict()) != digest_of(model.state_dict())


@contextlib.contextmanager
def default_dtype(dtype):
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)


def test_data_parallel_with_26_classes_trains_evaluates_and_resumes(tmp_path):
    x, y = digits(128)
    letters = DataLoader(TensorDataset(x, (y + 16).to(torch.uint8)), 32)
    for _ in range(2):
        model = DataParallel(CVAE(784, num_classes=26, hidden_dim=8))
        curve = [train_vae(epoch, model, letters, cond=True, val_loader=letters,
                           checkpoint=tmp_path / "run.pt") for epoch in range(2)]
    assert evaluate_vae(model, letters, cond=True).loss == pytest.approx(curve[1].val_loss)
    with pytest.raises(ValueError, match="cond: expected True for a CVAE"):
        train_vae(0, model, letters)


class ClearingStep:
    """vae_step in a loop of one's own that forgets autocast's copies of weights by itself."""

    def __init__(self, real):
        self.real = real

    def __call__(self, *arguments):
        result = self.real(*arguments)
        torch.clear_autocast_cache()
        return result


def test_autocast_around_a_training_really_trains(monkeypatch):
    def trained():
        torch.manual_seed(0)
        model = VAE(784, hidden_dim=16)
        before = digest_of(model.state_dict())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            curve = [train_vae(epoch, model, list(loader()), learning_rate=0.01)
                     for epoch in range(3)]
        assert torch.is_autocast_cache_enabled() and digest_of(model.state_dict()) != before
        return digest_of(model.state_dict()), [epoch.loss for epoch in curve]

    weights, losses = trained()
    assert losses[2] < 0.8 * losses[0]
    monkeypatch.setattr(helper, "vae_step", ClearingStep(helper.vae_step))
    assert trained() == (weights, losses)


def test_numpy_s_whole_numbers_are_whole_numbers(tmp_path):
    model, path = VAE(784, hidden_dim=8), tmp_path / "run.pt"
    for epoch in np.arange(2):
        train_vae(epoch, model, list(loader()), checkpoint=path, learning_rate=np.float64(0.001))
    train_vae(np.int8(2), model, list(loader()), checkpoint=path)
    assert read_checkpoint(path)["epoch"] == 3


def test_batches_of_one_image_train():
    assert train_vae(0, VAE(784, hidden_dim=8), list(loader(6, 1))).loss > 0


LOSSES = {"a float": (lambda loss: loss.item(), "found float"),
          "a numpy number": (lambda loss: loss.detach().numpy().mean(), "found float32"),
          "None": (lambda loss: None, "found None"),
          "a tuple": (lambda loss: (loss, loss), "found tuple"),
          "a vector": (lambda loss: loss.expand(3), r"found a tensor of shape \(3,\)"),
          "no gradient": (lambda loss: loss.detach(), "found a tensor without a gradient")}


@pytest.mark.parametrize("checkpoint", [None, "run.pt"])
@pytest.mark.parametrize("change, found", LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_no_scalar_is_refused_at_the_first_step(tmp_path, monkeypatch, change, found,
                                                               checkpoint):
    monkeypatch.setattr(helper, "loss_function", lambda *a: change(loss_function(*a)))
    message = f"epoch 0, step 0: loss_function: expected a scalar tensor.*{found}"
    with pytest.raises(ValueError, match=message):
        train_vae(0, VAE(784, hidden_dim=8), list(loader()),
                  checkpoint=checkpoint and tmp_path / checkpoint)


def test_a_loss_of_shape_1_is_a_scalar(monkeypatch):
    monkeypatch.setattr(helper, "loss_function", lambda *a: loss_function(*a).reshape(1))
    ours = VAE(784, hidden_dim=8)
    theirs = VAE(784, hidden_dim=8)
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(1)
    train_vae(0, ours, list(loader()), val_loader=loader())
    torch.manual_seed(1)
    brief_vae_epochs(theirs, list(loader()), 1)
    assert digest_of(ours.state_dict()) == digest_of(theirs.state_dict())


# ---------------------------------------------------------------- refused


def small(cond=False):
    return CVAE(784, hidden_dim=8) if cond else VAE(784, hidden_dim=8)


def bad_batches(change):
    return [(x, y) if i < 2 else change(x, y) for i, (x, y) in enumerate(loader())]


def all_batches(change):
    return [change(x, y) for x, y in loader()]


def trains(*arguments, epoch=0, **options):
    return lambda: train_vae(epoch, small(options.get("cond")), *arguments, **options)


BAD_TRAINING = {
    "a rate of 0": (trains(loader(), learning_rate=0), "learning_rate: .*found 0"),
    "an infinite rate": (trains(loader(), learning_rate=float("inf")),
                         "learning_rate: expected a positive number, found inf"),
    "a negative epoch": (trains(loader(), epoch=-1), "epoch: expected a whole.*found -1"),
    "half an epoch": (trains(loader(), epoch=0.5), "epoch.*found 0.5"),
    "True for an epoch": (trains(loader(), epoch=True), "epoch.*found True"),
    "no batches": (trains([]), "train_loader: expected at least one batch, found none"),
    "a data set": (trains(TensorDataset(*digits(9))), "train_loader: .*found the data set Tensor"),
    "nothing to validate on": (trains(loader(), val_loader=[]), "val_loader: .*at least one batch"),
    "tensors to validate on": (trains(loader(), val_loader=digits(9)), "val_loader: .*tensors"),
    "a label for a VAE": (lambda: train_vae(0, small(), loader(), cond=True),
                          "cond: .*found True for VAE"),
    "no label for a CVAE": (lambda: train_vae(0, small(True), loader()),
                            "cond: .*found False for CVAE"),
    "no label for a CVAE to evaluate": (lambda: evaluate_vae(small(True), loader()),
                                        "cond: .*found False for CVAE"),
    "no batches to evaluate": (lambda: evaluate_vae(small(), []), "loader: .*least one batch"),
    "images in bytes": (trains(all_batches(lambda x, y: ((255 * x).byte(), y))), "torch.uint8"),
    "images up to 255": (trains(all_batches(lambda x, y: (255 * x, y))), r"found 0 to 2"),
    "images from -1": (trains(all_batches(lambda x, y: (2 * x - 1, y))), "1], found -1 to"),
    "an image of nan": (trains(all_batches(lambda x, y: (x * torch.nan, y))), "found nan"),
    "images of another size": (trains(bad_batches(lambda x, y: (x[..., :20], y))),
                               r"epoch 0, step 2: images.*784 pix.*found \(64, 1, 28, 20\)"),
    "an empty batch": (trains([(torch.zeros(0, 1, 28, 28), torch.zeros(0))]), "at least one image"),
    "a label 12": (trains(bad_batches(lambda x, y: (x, y + 3)), cond=True),
                   "epoch 0, step 2: labels: expected 0 to 9, found 3 to 12"),
    "labels that are not whole": (trains(all_batches(lambda x, y: (x, y.float())), cond=True),
                                  "step 0: labels: expected integers"),
}


@pytest.mark.parametrize("call, message", BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_bad_input_of_a_vae_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_of_the_user_s_own_trains(tmp_path):
    class Plain(nn.Module):
        """It says nothing of its sizes."""

        def __init__(self):
            super().__init__()
            self.net = nn.Linear(784, 784)

        def forward(self, x):
            mu = x.flatten(1)[:, :3]
            return self.net(x.flatten(1)).sigmoid().view_as(x), mu, 0 * mu

    for _ in range(2):
        train_vae(0, Plain(), list(loader()), val_loader=loader(), checkpoint=tmp_path / "run.pt")
