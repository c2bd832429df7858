"""vae.py against torch.distributions and formulas in float64; test_brief_cells has its numbers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions

from vae import CVAE, VAE, kl_divergence, loss_function, reconstruction, reparametrize


def images(n=4):
    return torch.rand(n, 1, 28, 28)


def labels(n=4):
    return torch.eye(10)[torch.arange(n) % 10]


def test_the_loss_of_the_brief_has_the_reconstruction_first():
    x_hat, x = torch.sigmoid(torch.tensor([[[2.0, 5], [6, 7]], [[1, 10], [9, 3]]])).unsqueeze(1)
    posterior = torch.ones(1, 15), torch.zeros(1, 15)
    assert loss_function(x_hat, x, *posterior).item() == pytest.approx(8.5079, abs=5e-5)
    assert loss_function(x, x_hat, *posterior).item() == pytest.approx(8.0731, abs=5e-5)


def test_reparametrize_is_a_sample_of_the_posterior_with_gradients_to_mean_and_variance():
    mu, logvar = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    torch.manual_seed(1)
    z = reparametrize(mu, logvar)
    torch.manual_seed(1)
    torch.testing.assert_close(z, Normal(mu, (0.5 * logvar).exp()).rsample())
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(5, 3))
    torch.testing.assert_close(logvar.grad, 0.5 * (z - mu).detach())


def test_kl_equals_that_of_the_distributions():
    mu, logvar = torch.randn(6, 15), torch.randn(6, 15)
    posterior = Normal(mu.double(), (0.5 * logvar.double()).exp())
    expected = kl_of_distributions(posterior, Normal(0.0, 1.0)).sum() / 6
    torch.testing.assert_close(kl_divergence(mu, logvar).double(), expected, rtol=1e-6, atol=0)


def test_reconstruction_equals_the_formula_in_float64():
    x, x_hat = images().double(), images().double().clamp(0.01, 0.99)
    expected = -(x * x_hat.log() + (1 - x) * (1 - x_hat).log()).flatten(1).sum(1).mean()
    torch.testing.assert_close(reconstruction(x_hat, x), expected)
    found = reconstruction(x_hat.float(), x.float()).double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_loss_is_the_sum_of_its_parts_and_a_mean_over_the_batch():
    x, x_hat, mu, logvar = images(), images(), torch.randn(4, 15), torch.randn(4, 15)
    loss = loss_function(x_hat, x, mu, logvar)
    torch.testing.assert_close(loss, reconstruction(x_hat, x) + kl_divergence(mu, logvar))
    twice = loss_function(*(torch.cat((t, t)) for t in (x_hat, x, mu, logvar)))
    torch.testing.assert_close(twice, loss)


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 784)])
@pytest.mark.parametrize("kind", [int, np.int64])
def test_shapes_of_both_models_in_the_order_of_their_arguments(shape, kind):
    vae, cvae = VAE(kind(784), kind(7), kind(20)), CVAE(kind(784), kind(10), kind(7), kind(20))
    for model, c in ((vae, ()), (cvae, (labels(),))):
        x_hat, mu, logvar = model(torch.rand(shape), *c)
        assert x_hat.shape == (4, 1, 28, 28) and mu.shape == logvar.shape == (4, 7)
        assert 0 <= x_hat.min() and x_hat.max() <= 1
        assert model.decoder(torch.rand(3, 7 + 10 * len(c))).shape == (3, 1, 28, 28)
        sizes = [model.input_size, model.latent_size, model.hidden_dim, model.num_classes]
        assert sizes == [784, 7, 20, 10 * len(c)] and {type(size) for size in sizes} == {int}


def test_layers_are_those_of_the_brief():
    model = VAE(784, hidden_dim=30)
    kinds = [type(layer) for network in (model.encoder, model.decoder) for layer in network]
    assert kinds == ([nn.Flatten] + 3 * [nn.Linear, nn.ReLU] + 3 * [nn.Linear, nn.ReLU]
                     + [nn.Linear, nn.Sigmoid, nn.Unflatten])
    sizes = [(layer.in_features, layer.out_features) for layer in model.modules()
             if isinstance(layer, nn.Linear)]
    assert sizes == [(784, 30), (30, 30), (30, 30), (30, 15), (30, 15),
                     (15, 30), (30, 30), (30, 30), (30, 784)]


def test_the_label_changes_what_is_encoded_and_what_is_drawn():
    model, x, z = CVAE(784), images(1), torch.zeros(1, 15)
    three, four = torch.eye(10)[3:5].split(1)
    assert not torch.equal(model.encode(x, three)[0], model.encode(x, four)[0])
    drawn = [model.decoder(torch.cat((z, c), dim=1)) for c in (three, four)]
    assert not torch.equal(*drawn)


def test_the_posterior_begins_with_the_priors_variance_and_relu_layers_with_that_of_he():
    model = VAE(784)
    assert torch.equal(model.encode(images())[1], torch.zeros(4, 15))
    for layer in (model.encoder[1], model.encoder[3], model.encoder[5]):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.03)


def test_a_label_begins_stronger_than_a_pixel_and_a_latent():
    model = CVAE(784)
    for layer, width, gain in ((model.encoder[1], 784, 16), (model.decoder[0], 15, 8)):
        ratio = layer.weight[:, width:].std() / layer.weight[:, :width].std()
        assert ratio.item() == pytest.approx(gain, rel=0.1)


@pytest.mark.parametrize("build, c", [(VAE, ()), (CVAE, (labels(),))])
def test_every_parameter_learns_in_float64_too(build, c, double_by_default):
    x, by_default = images(), build(784, hidden_dim=20)
    torch.set_default_dtype(torch.float32)
    for model in (by_default, build(784, hidden_dim=20).double()):
        x_hat, mu, logvar = model(x, *c)
        loss = loss_function(x_hat, x, mu, logvar)
        loss.backward()
        assert loss.dtype == x_hat.dtype == torch.float64
        assert all(p.grad.abs().sum() > 0 for p in model.parameters())
        assert loss_function(x_hat, x.float(), mu, logvar).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_summed_in_float32_under_autocast(dtype):
    model, x = CVAE(784, hidden_dim=20), images()
    with torch.autocast("cpu", dtype=dtype):
        x_hat, mu, logvar = model(x, labels())
        parts = reconstruction(x_hat, x), kl_divergence(mu, logvar)
        loss = loss_function(x_hat, x, mu, logvar)
    assert x_hat.dtype == mu.dtype == dtype and {part.dtype for part in parts} == {torch.float32}
    torch.testing.assert_close(loss, loss_function(x_hat.float(), x, mu.float(), logvar.float()))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_reconstruction_that_is_nan_is_named():
    x_hat = images()
    x_hat[2, 0, 3, 4] = torch.nan
    with pytest.raises(FloatingPointError, match=r"^x_hat: expected values in \[0, 1\], found nan; "
                                                 "a smaller learning rate may help$"):
        loss_of(x_hat, images(), 4, 2)


def loss_of(x_hat, x, *shape):
    return loss_function(x_hat, x, torch.zeros(shape), torch.zeros(shape))


BAD_CALLS = {
    "images of another size": (lambda: VAE(784)(torch.rand(4, 1, 32, 32)),
                               r"784 pixels.*found \(4, 1, 32, 32\)"),
    "no images": (lambda: VAE(784)(torch.rand(0, 784)), r"N >= 1.*found \(0, 784\)"),
    "one image without a batch": (lambda: VAE(784)(torch.rand(784)), r"found \(784,\)"),
    "latent of another width": (lambda: VAE(784).decoder(torch.randn(2, 14)),
                                r"latent.*\(N, 15\).*found \(2, 14\)"),
    "latent without label": (
        lambda: CVAE(784).decoder(torch.randn(2, 15)),
        r"latent \(15\) and one-hot label \(10\).*\(N, 25\).*found \(2, 15\)"),
    "no latents": (lambda: VAE(784).decoder(torch.randn(0, 15)), r"N >= 1.*found \(0, 15\)"),
    "one-hot of another width": (lambda: CVAE(784)(images(), torch.eye(4)),
                                 r"one-hot labels: expected shape \(4, 10\), found \(4, 4\)"),
    "labels that are not one-hot": (lambda: CVAE(784)(images(), torch.arange(4)),
                                    r"\(4, 10\), found \(4,\)"),
    "a label too few": (lambda: CVAE(784)(images(), labels(3)), r"\(4, 10\), found \(3, 10\)"),
    "mu and logvar that differ": (lambda: reparametrize(torch.zeros(2, 3), torch.zeros(2, 4)),
                                  r"\(2, 3\) and \(2, 4\)"),
    "x and x_hat that differ": (lambda: loss_of(images(4), images(3), 3, 2),
                                r"x_hat \(4, 1, 28, 28\), x \(3, 1, 28, 28\)"),
    "a loss of nothing": (lambda: loss_of(images(0), images(0), 0, 2), "at least one"),
    "images of another range": (lambda: loss_of(images(), 2 * images() - 1, 4, 2),
                                r"x: expected values in \[0, 1\], found -"),
    "a reconstruction in logits": (lambda: loss_of(3 * images(), images(), 4, 2),
                                   r"x_hat: expected values in \[0, 1\], found .* to [23]"),
    "pixels that make no square": (lambda: VAE(783), "square.*found 783"),
    "no latent": (lambda: VAE(784, 0), "latent_size: expected a whole number.*found 0"),
    "half a hidden unit": (lambda: VAE(784, hidden_dim=0.5), "hidden_dim.*found 0.5"),
    "no class": (lambda: CVAE(784, num_classes=0), "num_classes.*found 0"),
}


@pytest.mark.parametrize("call, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
