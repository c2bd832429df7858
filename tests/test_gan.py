"""gan.py against the numbers of the brief and formulas in float64."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gan
from cscm77.grad import rel_error
from cscm77_helper import count_params

FAKE = torch.tensor([-1.80865868, 0.09030055, -0.4428902, -0.07879368, -0.37655044,
                     0.32084742, -0.28590837, 1.01376281, 0.99241439, 0.39394346])
REAL = torch.tensor([0.93487311, -1.01698916, -0.57304769, -0.88162704, -1.40129389,
                     -1.45395693, -1.54239755, -0.57273325, 0.98584429, 0.13312152])
NETWORKS = {"discriminator": (gan.discriminator, 784, 267009),
            "generator(4)": (lambda: gan.generator(np.int64(4)), 4, 1858320),
            "build_dc_classifier": (gan.build_dc_classifier, 784, 1102721),
            "build_dc_generator(4)": (lambda: gan.build_dc_generator(np.int64(4)), 4, 6580801)}
every_network = pytest.mark.parametrize("build, width, number", NETWORKS.values(), ids=NETWORKS)


@pytest.mark.parametrize("loss, number", [
    (gan.discriminator_loss(REAL, FAKE), 1.8423983904443109),
    (gan.generator_loss(FAKE), 0.771286196423346),
    (gan.ls_discriminator_loss(REAL, FAKE), 1.8770293614440594),
    (gan.ls_generator_loss(FAKE), 0.816954786997558),
])
def test_losses_give_the_numbers_of_the_brief(loss, number):
    assert rel_error(torch.tensor(number), loss) < 1e-7


@every_network
def test_networks_have_the_parameters_of_the_brief_and_are_scripted_sliced_and_double(
        build, width, number):
    network, x = build().eval(), torch.rand(3, width)
    assert count_params(network) == number
    assert torch.equal(network[1:](network[0](x)), network(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call scripts deprecated
        assert torch.equal(torch.jit.script(network)(x), network(x))
    out = network.double()(x.double())
    assert out.dtype == torch.float64 and gan.generator_loss(out).dtype == torch.float64


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_losses_equal_their_formulas_in_float64(shape):
    real, fake = 3 * torch.randn(2, *shape, dtype=torch.float64)
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    for loss, scores, expected in (
            (gan.discriminator_loss, (real, fake),
             -d_real.log().mean() - (1 - d_fake).log().mean()),
            (gan.generator_loss, (fake,), -d_fake.log().mean()),
            (gan.ls_discriminator_loss, (real, fake),
             ((real - 1) ** 2).mean() / 2 + (fake ** 2).mean() / 2),
            (gan.ls_generator_loss, (fake,), ((fake - 1) ** 2).mean() / 2)):
        torch.testing.assert_close(loss(*scores), expected)
        in_float32 = loss(*(score.float() for score in scores))
        torch.testing.assert_close(in_float32.double(), expected, rtol=1e-6, atol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # a sum in bfloat16 has 3 digits
            assert torch.equal(loss(*(score.float() for score in scores)), in_float32)
            assert loss(*(score.bfloat16() for score in scores)).dtype == torch.float32


@pytest.mark.parametrize("logit, d_loss, g_loss", [
    (0.0, 1.386294, 0.693147),  # guessing costs what the theory says
    (200.0, 400, 200)])  # finite where a sigmoid rounds to 0 or 1
def test_cross_entropies_of_known_logits(logit, d_loss, g_loss):
    wrong = torch.full((8, 1), logit)
    assert gan.discriminator_loss(-wrong, wrong).item() == pytest.approx(d_loss, abs=1e-6)
    assert gan.generator_loss(-wrong).item() == pytest.approx(g_loss, abs=1e-6)


def test_losses_of_differing_batches_weigh_both_means_alike():
    real, fake = torch.randn(4), torch.randn(40)
    repeated = gan.discriminator_loss(real.repeat(10), fake)
    torch.testing.assert_close(gan.discriminator_loss(real, fake), repeated)


def test_noise_is_uniform_between_minus_1_and_1():
    z = gan.sample_noise(1000, 96)
    assert z.shape == (1000, 96) and z.dtype == torch.float32
    assert -1 <= z.min() < -0.999 and 0.999 < z.max() <= 1
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.var().item() == pytest.approx(1 / 3, rel=0.01)
    z = gan.sample_noise(np.int64(2), np.int64(3), dtype=torch.float64)
    assert z.shape == (2, 3) and z.dtype == torch.float64


@pytest.mark.parametrize("D, G", [(gan.discriminator, gan.generator),
                                  (gan.build_dc_classifier, gan.build_dc_generator)])
def test_generators_draw_between_minus_1_and_1_and_discriminators_give_one_logit(D, G):
    images, network = G()(gan.sample_noise(8, gan.NOISE_DIM)), D()
    assert gan.NOISE_DIM == 96 and images.shape == (8, 784)
    assert -1 <= images.min() < 0 < images.max() <= 1 and network(images).shape == (8, 1)
    assert {m.negative_slope for m in network if isinstance(m, nn.LeakyReLU)} == {0.01}


def test_optimizer_is_the_adam_of_the_brief():
    network = gan.generator(4)
    solver = gan.get_optimizer(network)
    assert type(solver) is torch.optim.Adam
    plain = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True)
    assert solver.defaults == plain.defaults
    assert [*map(id, solver.param_groups[0]["params"])] == [*map(id, network.parameters())]


BAD_CALLS = {
    "noise of another width": (lambda: gan.generator()(torch.rand(64, 10)),
                               r"noise: expected shape \(N, 96\) with N >= 1, found \(64, 10\)"),
    "DC noise of another width": (lambda: gan.build_dc_generator(4)(torch.rand(2, 96)),
                                  r"noise.*\(N, 4\).*found \(2, 96\)"),
    "images that are not flat": (lambda: gan.discriminator()(torch.rand(2, 1, 28, 28)),
                                 r"images.*found \(2, 1, 28, 28\)"),
    "DC images of another size": (lambda: gan.build_dc_classifier()(torch.rand(2, 1024)),
                                  r"images.*found \(2, 1024\)"),
    "no images": (lambda: gan.discriminator()(torch.rand(0, 784)), r"N >= 1.*found \(0, 784\)"),
    "no samples": (lambda: gan.sample_noise(0, 96), "batch_size: expected.*at least 1, found 0"),
    "noise without width": (lambda: gan.sample_noise(3, 0), "noise_dim: expected.*found 0"),
    "a network for no noise": (lambda: gan.generator(0), "noise_dim.*at least 1, found 0"),
    "a network for True": (lambda: gan.build_dc_generator(True), "noise_dim.*found True"),
    "no scores of D": (lambda: gan.discriminator_loss(REAL, FAKE[:0]),
                       r"logits_fake: expected at least one score, found shape \(0,\)"),
    "no scores for G": (lambda: gan.generator_loss(FAKE[:0]), "logits_fake"),
    "no scores for LS": (lambda: gan.ls_discriminator_loss(REAL[:0], FAKE), "scores_real"),
    "no scores for G of LS": (lambda: gan.ls_generator_loss(FAKE[:0]), "scores_fake"),
}


@pytest.mark.parametrize("call, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
