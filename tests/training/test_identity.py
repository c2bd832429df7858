"""cscm77/training/identity.py: another run is refused by the field that differs, the same never."""

import random

import kills
import numpy as np
import pytest
import torch
from kills import (
    HIDDEN,
    LATENTS,
    SEED,
    batches,
    digest_of,
    shuffled,
    train_gan,
    train_vae_to_the_end,
)
from tiny import tree
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from trainings import at_step, both, digest, said_by

import cscm77_helper as helper
import gan
from cscm77.training import identity
from cscm77.training.checkpoints import CheckpointError
from vae import VAE, loss_function

NETWORK = "Net(\n  (0): Linear(2, 3)\n  (1): Linear(3, 1)\n)"


@pytest.mark.parametrize("expected, found, message", [
    ({"class": "VAE", "images": 5}, {"class": "VAE", "images": 6}, "images: expected 5, found 6"),
    ({"class": "VAE"}, {"D": "x"}, "class: expected VAE, found nothing"),
    ({}, {"D": "x"}, "D: expected nothing, found x"),
    ({"network": NETWORK}, {"network": NETWORK.replace("3, 1", "3, 2")},
     r"network: expected \(1\): Linear\(3, 1\), found \(1\): Linear\(3, 2\)"),
])
def test_another_run_is_refused_by_the_first_field_that_differs(path, expected, found, message):
    refusal = f"run.pt is the checkpoint of another run. {message}. fresh=True"
    with pytest.raises(CheckpointError, match=refusal):
        identity.check_same_run(path, expected, found)


def test_the_same_run_is_not_refused_nor_one_of_which_less_is_known(path):
    fields = {"class": "VAE", "betas": [0.5, 1], "digest": "ab"}
    identity.check_same_run(path, fields, dict(reversed(fields.items())))
    identity.check_same_run(path, {**fields, "digest": None}, fields)
    identity.check_same_run(path, fields, {**fields, "digest": None})
    newer = {**fields, "optimizer, decoupled_weight_decay": False}  # since torch 2.6
    identity.check_same_run(path, newer, fields)


# ---------------------------------------------------------------- VAEs


class Own(VAE):
    """A model of the user's own, which does not say whether it takes labels."""

    def __init__(self, latent_size=LATENTS, hidden_dim=HIDDEN):
        super().__init__(784, latent_size, hidden_dim)
        self.num_classes = None


class Named(TensorDataset):
    name = "other digits"


def own(path, model=None, **options):
    return train_vae_to_the_end(path, model=model or Own(), epochs=1, **options)


DIGESTS = r"digest of some images: expected \w+, found \w+"
OTHER_VAES = {
    "width": ({"model": lambda: Own(LATENTS, 16)},
              "network: expected .*out_features=16, .*, found .*features=24, .*"),
    "class": ({"model": lambda: VAE(784, 4, 24)}, "class: expected VAE, found Own"),
    "cond": ({"cond": True}, "cond: expected True, found False"),
    "rate": ({"learning_rate": 0.5}, "optimizer, lr: expected 0.5, found 0.001"),
    "data": ({"loader": lambda: DataLoader(Named(*kills.digits(80)), 16)},
             "data: expected other digits, found TensorDataset"),
    "images": ({"loader": lambda: shuffled(96)}, "images: expected 96, found 80"),
    "batch size, as many batches": ({"loader": lambda: shuffled(80, 18)},
                                    "batch size: expected 18, found 16"),
    "order": ({"loader": batches}, "order: expected SequentialSampler, found RandomSampler"),
    "binarised": ({"loader": lambda: shuffled(change=lambda x, y: ((x > 0.5).float(), y))},
                  DIGESTS),
    "other labels": ({"loader": lambda: shuffled(change=lambda x, y: (x, y.flip(0)))}, DIGESTS),
}


def assert_refused(path, train, message, **options):
    """Refused before a step, with the field and both values; the files stay as they are."""
    files = tree(path.parent)
    refusal = rf"(?s)run\.pt is the checkpoint of another run\. {message}\. fresh=True"
    with at_step(1), pytest.raises(CheckpointError, match=refusal):
        train(path, **options)
    assert tree(path.parent) == files


@pytest.fixture(scope="module")
def finished_vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "run.pt"
    own(path)
    return path


@pytest.mark.parametrize("options, message", OTHER_VAES.values(), ids=OTHER_VAES)
def test_the_checkpoint_of_another_vae_is_refused(finished_vae, options, message):
    model = options.get("model", Own)()
    before = digest_of(model.state_dict())
    assert_refused(finished_vae, own, message, **{**options, "model": model})
    assert digest_of(model.state_dict()) == before


EDITS = {"loss_function": (lambda *arguments: 2 * loss_function(*arguments),
                           r"loss of made-up images: expected [\d.e+]+, found [\d.e+]+"),
         "vae.reparametrize": (lambda mu, logvar: mu + 0 * logvar,
                               r"noise of made-up latents: expected [-\d.e+]+, found [-\d.e+]+")}


@pytest.mark.parametrize("name", [*EDITS, "data"])
def test_what_changes_between_two_runs_or_two_epochs_is_another_run(path, monkeypatch, name):
    model, loader = Own(), shuffled()
    helper.train_vae(0, model, loader, checkpoint=path)
    if name == "data":
        loader, message = shuffled(change=lambda x, y: (1 - x, y)), DIGESTS
    else:
        edited, message = EDITS[name]
        monkeypatch.setattr(f"cscm77_helper.{name}", edited)
    assert_refused(path, lambda path: helper.train_vae(1, model, loader, checkpoint=path), message)
    assert_refused(path, own, message, loader=lambda: loader)


# ---------------------------------------------------------------- GANs


def own_gan(path, D=gan.discriminator, G=gan.generator, d_adam=None, g_adam=None,
            tune=lambda D, solver: solver, optimizer=torch.optim.Adam, loader=shuffled, **options):
    D, G = D(), G()
    return train_gan(D, G, D_solver=tune(D, optimizer(D.parameters(), **d_adam or {})),
                     G_solver=optimizer(G.parameters(), **g_adam or {}), checkpoint=path,
                     loader_train=loader(), **options)


def given_groups(D, solver):
    return torch.optim.Adam([{"params": [p], "lr": 0.5 if p.ndim > 1 else 0.001}
                             for p in D.parameters()])


def scheduled(D, solver):
    torch.optim.lr_scheduler.LinearLR(solver, start_factor=0.5)
    return solver


OTHER_GANS = {
    "D": ({"D": gan.build_dc_classifier}, "D: expected .*Unflatten.*, found .*Linear.*"),
    "G": ({"G": gan.build_dc_generator}, "G: expected .*, found .*"),
    "rate of G": ({"g_adam": {"lr": 0.5}}, "G_solver, lr: expected 0.5, found 0.001"),
    "rate, a tensor": ({"d_adam": {"lr": torch.tensor(0.5)}},
                       "D_solver, lr: expected 0.5, found 0.001"),
    "rate, in groups": ({"tune": given_groups},
                        r"D_solver, lr: expected \[0.5, 0.001, .*\], found 0.001"),
    "rate, a scheduler's": ({"tune": scheduled}, "D_solver, lr: expected 0.0005, found 0.001"),
    "betas": ({"d_adam": {"betas": (0.5, 0.9)}},
              r"D_solver, betas: expected \[0.5, 0.9\], found \[0.9, 0.999\]"),
    "a switch of Adam": ({"g_adam": {"amsgrad": True}},
                         "G_solver, amsgrad: expected True, found False"),
    "optimizer": ({"optimizer": torch.optim.RMSprop}, "D_solver: expected RMSprop, found Adam"),
    "loss of D": ({"discriminator_loss": gan.ls_discriminator_loss},
                  r"loss of D for made-up scores: expected [\d.]+, found [\d.]+"),
    "loss of G": ({"generator_loss": gan.ls_generator_loss},
                  r"loss of G for made-up scores: expected [\d.]+, found [\d.]+"),
    "noise": ({"noise_size": 10}, "noise_size: expected 10, found 96"),
    "batch size": ({"batch_size": 20, "loader": lambda: shuffled(80, 20)},
                   "batch size: expected 20, found 16"),
    "binarised": OTHER_VAES["binarised"],
}


@pytest.fixture(scope="module")
def finished_gan(tmp_path_factory):
    path = tmp_path_factory.mktemp("gan") / "run.pt"
    own_gan(path)
    return path


@pytest.mark.parametrize("options, message", OTHER_GANS.values(), ids=OTHER_GANS)
def test_the_checkpoint_of_another_gan_is_refused(finished_gan, options, message):
    assert_refused(finished_gan, own_gan, message, **options)


def test_the_same_gan_is_not_refused_however_it_is_put(finished_gan):
    same = {"lr": torch.tensor(0.001), "betas": [0.9, 0.999]}
    for options in ({}, {"d_adam": same}, {"batch_size": np.int64(16), "noise_size": np.int32(96)},
                    {"generator_loss": lambda scores: gan.generator_loss(scores)}):
        with at_step(1):
            own_gan(finished_gan, **options)


def test_the_checkpoint_of_a_gan_is_refused_for_a_vae_and_the_reverse(finished_gan, finished_vae):
    assert_refused(finished_gan, own, "class: expected Own, found nothing")
    assert_refused(finished_vae, own_gan, "D: expected Sequential.*, found nothing")


# ---------------------------------------------------------------- data


def subset(start):
    return DataLoader(Subset(batches(200).dataset, range(start, start + 80)), 16)


@pytest.mark.parametrize("field, make, others", [
    ("digest of some images", lambda: subset(0), subset(100)),
    ("digest of some images", lambda: list(batches()), [(1 - x, y) for x, y in batches()]),
    ("batch size", lambda: list(batches()), list(batches(80, 8))),
], ids=["subset", "list", "batches of a list"])
def test_other_data_have_another_identity(field, make, others):
    found = identity.of_data(make())
    assert found == identity.of_data(make()) and None not in (found[field], found["batches"])
    assert found[field] != identity.of_data(others)[field]


class Augmented(Dataset):
    """Images that are moved at random, by the random numbers of three libraries."""

    def __init__(self):
        self.images, self.labels = kills.digits(80)

    def __len__(self):
        return 80

    def __getitem__(self, i):
        by = random.randint(-2, 2) + np.random.randint(3) + int(torch.randint(3, ()))
        return self.images[i].roll(by, 2), self.labels[i]


class Streamed(IterableDataset):
    def __iter__(self):
        return zip(*kills.digits(80), strict=True)


class WithoutNumbers(Augmented):
    def __getitem__(self, i):
        raise TypeError("a key, please")


def all_random_states():
    return digest_of([torch.get_rng_state(), random.getstate(), str(np.random.get_state())])


@pytest.mark.parametrize("make", [
    Augmented, Streamed, WithoutNumbers, lambda: batches().dataset])
def test_taking_a_digest_moves_no_random_number(make):
    loader = DataLoader(make(), 16, generator=torch.Generator())
    before, own = all_random_states(), loader.generator.get_state()
    found = identity.of_data(loader)["digest of some images"]
    assert all_random_states() == before
    assert torch.equal(loader.generator.get_state(), own)
    assert (found is None) == (make in (Augmented, Streamed, WithoutNumbers))


# ---------------------------------------------------------------- losses that can hardly be asked


class Noisy:
    """A loss that counts its calls, and draws random numbers."""

    calls = 0

    def __call__(self, scores):
        self.calls += 1
        return scores.mean() + self.calls + torch.rand(())


def test_asking_a_loss_counts_no_call_and_draws_no_random_number():
    loss, before = Noisy(), torch.get_rng_state()
    first, second = (identity.value_of(loss, torch.ones(2)) for _ in range(2))
    assert first == second is not None and loss.calls == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_losses_that_close_over_a_target_or_fail_on_made_up_input_work(path):
    def penalised(real, fake):
        gradient, = torch.autograd.grad(real.sum(), real, create_graph=True)  # made up: has none
        return gan.discriminator_loss(real, fake) + gradient.mean()

    def aimed(scores):
        return F.binary_cross_entropy_with_logits(scores, ones)

    ones = torch.ones(16, 1)
    for _ in range(2):
        own_gan(path, discriminator_loss=penalised, generator_loss=aimed)
    assert_refused(path, own_gan, "loss of G for .*", generator_loss=gan.ls_generator_loss)


# ---------------------------------------------------------------- another beginning

SAID = ("run.pt began from other weights than these, and goes on with its own; "
        "fresh=True trains anew.")


@both
def test_another_beginning_goes_on_and_is_said_in_one_line(path, capsys, train):
    for seed, times in ((SEED, 0), (SEED, 0), (99, 1), (SEED, 0)):  # a new file, then an old one
        digest(train, path, seed, epochs=1)
        assert said_by(capsys).count(SAID) == times  # the file still knows where it began


def test_the_same_networks_that_go_on_are_no_other_beginning(path, capsys):
    networks, model = (gan.discriminator(), gan.generator()), Own()
    solvers = [gan.get_optimizer(network) for network in networks]
    for epochs in (1, 2):  # training cells that are run again
        train_gan(*networks, D_solver=solvers[0], G_solver=solvers[1], num_epochs=epochs,
                  loader_train=shuffled(), checkpoint=path)
        for epoch in range(2):
            helper.train_vae(epoch, model, shuffled(), checkpoint=path.with_name("vae.pt"))
    assert "began from other weights" not in capsys.readouterr().out
