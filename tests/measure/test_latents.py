"""cscm77/measure/latents.py: the KL against torch, the bound against a likelihood that is known."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cscm77.measure.latents import importance_weighted_loss, kl_of_latents, plane_of_digits
from cscm77_helper import evaluate_vae
from vae import CVAE, VAE


def digits(number=70, size=32):
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(number, 1, 28, 28, generator=rng)
    return DataLoader(TensorDataset(images, torch.arange(number) % 10), size)


class TwoPictures(nn.Module):
    """z > 0 draws one picture, z <= 0 another, q(z|x) is the prior: p(x) is a mean of two."""

    def __init__(self, first, second):
        super().__init__()
        self.pictures = nn.Parameter(torch.stack((first, second)))
        self.decoder = lambda z: self.pictures[(z[:, 0] <= 0).long()]

    def encode(self, x):
        return torch.zeros(len(x), 1), torch.zeros(len(x), 1)


def test_the_bound_reaches_a_likelihood_known_in_closed_form():
    first, second = torch.rand(2, 1, 2, 2)
    x = torch.rand(50, 1, 2, 2)
    log_p = torch.stack([(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)
                         for p in (first, second)])
    exact = -(log_p.double().logsumexp(0) - math.log(2)).mean().item()
    loader = DataLoader(TensorDataset(x, torch.zeros(50, dtype=torch.long)), 50)
    found = importance_weighted_loss(TwoPictures(first, second), loader, sizes=(1, 4000))
    assert found[4000] == pytest.approx(exact, abs=2e-3)
    assert found[1] == pytest.approx(-log_p.mean().item(), abs=0.2) and found[1] > exact


@pytest.mark.parametrize("make, cond", [(VAE, False), (CVAE, True)])
def test_the_bound_falls_from_the_negative_elbo_as_samples_are_added(make, cond):
    torch.manual_seed(1)
    model = make(784, hidden_dim=16)
    found = importance_weighted_loss(model, digits(), cond=cond)
    assert list(found) == [1, 10, 100] and found[1] > found[10] > found[100]
    assert found[1] == pytest.approx(evaluate_vae(model, digits(), cond=cond).loss, rel=0.02)


def test_neither_batches_nor_a_ragged_last_one_change_anything_nor_are_settings_changed():
    model, before = VAE(784, hidden_dim=16), torch.get_rng_state()
    whole, ragged = digits(size=70), digits(size=32)
    one, other = (importance_weighted_loss(model, batches, (1, 5)) for batches in (whole, ragged))
    assert one == pytest.approx(other, rel=1e-6)
    torch.testing.assert_close(kl_of_latents(model, whole), kl_of_latents(model, ragged))
    assert torch.equal(torch.get_rng_state(), before) and model.training
    lists = [(images, labels.tolist()) for images, labels in whole]
    torch.testing.assert_close(kl_of_latents(model, lists), kl_of_latents(model, whole))


def test_kl_is_that_of_torch():
    model = VAE(784, hidden_dim=16)
    nn.init.normal_(model.logvar_layer.weight, std=0.1)
    with torch.no_grad():
        mu, logvar = model.encode(next(iter(digits(size=70)))[0])
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(kl_of_latents(model, digits()).float(), expected.mean(0))


def test_nothing_to_measure_what_does_not_fit_and_nan_are_refused():
    model = VAE(784, hidden_dim=16)
    for measure in (kl_of_latents, importance_weighted_loss):
        for loader, message in (([], "loader: expected at least one batch, found none"),
                                ([(torch.rand(4, 784),)], "expected batches of .images, labels"),
                                ([(torch.rand(4, 784), torch.arange(3))], "labels: expected 4")):
            with pytest.raises(ValueError, match=message):
                measure(model, loader)
        for wrong, cond in ((model, True), (CVAE(784, hidden_dim=16), False)):
            with pytest.raises(ValueError, match="cond: expected"):
                measure(wrong, digits(), cond=cond)
    nn.init.constant_(model.mu_layer.bias, math.nan)
    with pytest.raises(FloatingPointError, match="bound with 1 samples: expected a finite .* nan"):
        importance_weighted_loss(model, digits(), (1,))
    with pytest.raises(FloatingPointError, match="KL of the latents: expected a finite .* nan"):
        kl_of_latents(model, digits())


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_a_model_of_other_classes_is_measured_in_its_own_precision(double_by_default, wrap):
    model = wrap(CVAE(784, num_classes=26, hidden_dim=16))  # on images in float32
    kl = kl_of_latents(model, digits(), cond=True)
    bound = importance_weighted_loss(model, digits(), (1,), cond=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kl_of_latents(model, digits(), cond=True), kl)
        assert importance_weighted_loss(model, digits(), (1,), cond=True) == bound
    torch.testing.assert_close(kl_of_latents(model.float(), digits(), cond=True), kl, rtol=1e-4,
                               atol=1e-5)


def test_the_plane_of_digits_holds_their_means_and_not_the_noise():
    rotation, _ = torch.linalg.qr(torch.randn(5, 5))
    corners = torch.tensor([[2.0, 0], [0, 1], [-2, 0], [0, -1]])  # of four classes
    labels = torch.arange(4000) % 4
    noise = torch.randn(4000, 5) * torch.tensor([0.1, 0.1, 9.0, 0.1, 0.1])
    for label in range(4):
        noise[labels == label] -= noise[labels == label].mean(0)
    points = noise + torch.cat((corners[labels], torch.zeros(4000, 3)), dim=1)
    plane, share = plane_of_digits((points @ rotation).requires_grad_(), labels)
    assert plane.shape == (4000, 2) and share == pytest.approx(1, abs=1e-6)
    assert not plane.requires_grad
    means = torch.stack([plane[labels == label].mean(0) for label in range(4)])
    torch.testing.assert_close(means.abs(), corners.abs(), rtol=1e-3, atol=1e-3)


def test_where_there_is_no_plane_that_is_said():
    with pytest.raises(ValueError, match="latents of a point: expected .* of at least 2, found 1"):
        plane_of_digits(torch.rand(4, 1), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(FloatingPointError, match="share of the variance: expected a finite number"):
        plane_of_digits(torch.rand(4, 3), torch.full((4,), 7))
