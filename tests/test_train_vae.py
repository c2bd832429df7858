"""train_vae and evaluate_vae against the brief's own loop, step by step, and what they refuse."""

import random

import pytest
import torch
from kills import batches as loader
from kills import digest_of, digits
from torch import nn
from torch.nn.parallel import DataParallel
from torch.utils.data import TensorDataset

import cscm77_helper as helper
import vae
from cscm77_helper import evaluate_vae, train_vae
from vae import CVAE, VAE, loss_function


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


def small(cond=False):
    return (CVAE if cond else VAE)(784, hidden_dim=8)


@pytest.mark.parametrize("cond", [False, True])
@pytest.mark.parametrize("measured", [False, True])
def test_train_vae_takes_the_steps_of_the_brief(cond, measured):
    """Measuring between the epochs changes none of them."""
    ours, theirs = small(cond), small(cond)
    theirs.load_state_dict(ours.state_dict())
    batches, random_state = list(loader()), random.getstate()
    torch.manual_seed(5)
    for epoch in range(3):  # 15 steps
        train_vae(epoch, ours, batches, cond, val_loader=batches if measured else None)
    torch.manual_seed(5)
    brief_vae_epochs(theirs, batches, 3, cond)
    assert digest_of(ours.state_dict()) == digest_of(theirs.state_dict())
    assert random.getstate() == random_state


def test_train_vae_prints_the_line_of_the_brief_and_gives_a_curve(capsys):
    model, batches = VAE(784, hidden_dim=32), list(loader(512, 96))  # the last batch has 32 images
    results = [train_vae(epoch, model, batches, val_loader=batches) for epoch in range(4)]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Train Epoch: {e} \tLoss: {r.loss:.6f}" for e, r in enumerate(results)]
    assert results[-1].loss < results[0].loss and results[-1].val_loss < results[0].val_loss
    assert results[0].loss == pytest.approx(results[0].reconstruction + results[0].kl, rel=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images():
    model, batches = small(), list(loader(512, 96))
    torch.manual_seed(2)
    result = train_vae(0, model, batches, learning_rate=1e-30)
    torch.manual_seed(2)
    expected = sum(loss_function(x_hat, x, mu, logvar).item() * len(x)
                   for x, _ in batches for x_hat, mu, logvar in [model(x)]) / 512
    assert result.loss == pytest.approx(expected, rel=1e-6)


def test_an_edited_loss_function_is_the_one_that_is_trained(monkeypatch):
    monkeypatch.setattr(helper, "loss_function", lambda x_hat, x, mu, logvar: 0 * mu.sum() + 7)
    result = train_vae(0, small(), loader())
    assert result.loss == 7
    assert result.reconstruction > 100  # the parts stay what their names say


def test_evaluation_is_repeatable_and_leaves_weights_mode_and_random_state():
    model, batches = small(), list(loader(256, 100))
    before, state = digest_of(model.state_dict()), torch.get_rng_state()
    first, second = evaluate_vae(model, batches), evaluate_vae(model, batches)
    assert first == second and model.training
    assert torch.equal(torch.get_rng_state(), state) and digest_of(model.state_dict()) == before
    assert first.loss == pytest.approx(first.reconstruction + first.kl, rel=1e-6)
    with pytest.raises(ValueError, match=r"found 0 to 1\.99"):
        evaluate_vae(model, [(2 * x, y) for x, y in loader(64)])
    assert model.training


def test_weights_that_explode_stop_the_training_with_epoch_and_step():
    with pytest.raises(FloatingPointError, match=r"epoch 0, step 1: .*found nan"):
        train_vae(0, small(), loader(), learning_rate=1e30)


def test_the_parts_of_the_loss_are_those_of_vae_py():
    model, x = small(), next(iter(loader()))[0]
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


def test_data_parallel_with_26_classes_trains_evaluates_and_resumes(tmp_path):
    letters = loader(128, 32, lambda x, y: (x, (y + 16).to(torch.uint8)))
    for _ in range(2):
        model = DataParallel(CVAE(784, num_classes=26, hidden_dim=8))
        curve = [train_vae(epoch, model, letters, cond=True, val_loader=letters,
                           checkpoint=tmp_path / "run.pt") for epoch in range(2)]
    assert evaluate_vae(model, letters, cond=True).loss == pytest.approx(curve[1].val_loss)
    with pytest.raises(ValueError, match="cond: expected True for a CVAE"):
        train_vae(0, model, letters)


def test_batches_of_one_image_train():
    assert train_vae(0, small(), loader(6, 1)).loss > 0


# ---------------------------------------------------------------- refused


def bad_batches(change):
    return [(x, y) if i < 2 else change(x, y) for i, (x, y) in enumerate(loader())]


def all_batches(change):
    return loader(change=change)


def trains(*arguments, epoch=0, **options):
    return lambda: train_vae(epoch, small(options.get("cond")), *arguments, **options)


BAD_TRAINING = {
    "a rate of 0": (trains(loader(), learning_rate=0), "learning_rate: .*found 0"),
    "an infinite rate": (trains(loader(), learning_rate=float("inf")),
                         "learning_rate: expected a positive number, found inf"),
    "a negative epoch": (trains(loader(), epoch=-1), "epoch: expected a whole.*found -1"),
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
                               r"epoch 0, step 2: images.*784 pix.*found \(16, 1, 28, 20\)"),
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
