"""cscm77/report/explorer.py, driven through its controls; test_browser.py uses a browser."""

import io

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gan
from cscm77.data.loaders import Digits
from cscm77.report import explorer
from cscm77.report.explorer import GANExplorer, VAEExplorer
from cscm77.report.pictures import tile
from vae import CVAE, VAE

KL = torch.tensor([0.0, 5, 1, 4, 0, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0])


@pytest.fixture
def digits():
    pictures = torch.randint(256, (20, 28, 28), dtype=torch.uint8)
    return Digits(pictures, torch.arange(20) % 10, "MNIST", "cpu")


@pytest.fixture
def explored(digits):
    return VAEExplorer(VAE(784, hidden_dim=16), digits, KL)


def assert_shows(explorer, images):
    shown = plt.imread(io.BytesIO(explorer.image.value))[..., 0]  # (height, width): it is grey
    assert shown == pytest.approx(tile(images), abs=0.01)


def assert_drawn(explorer, latents):
    assert_shows(explorer, explorer.model.decoder(latents))


def test_the_most_used_latents_have_sliders(explored):
    assert explored.latents == [1, 3, 5, 6, 2]
    assert [slider.description for slider in explored.sliders][:2] == ["latent 1", "latent 3"]
    assert all((slider.min, slider.max) == (-3, 3) for slider in explored.sliders)
    assert explored.digit not in explored.page.children[1].children


def test_a_slider_moves_its_latent_alone_where_another_lies_outside_its_slider_too(explored):
    explored.z[0, 1] = 4.2
    explored._follow()
    for latent, slider in zip(explored.latents[1:], explored.sliders[1:], strict=True):
        expected = explored.z.clone()
        slider.value = expected[0, latent] = 2.5
        assert torch.equal(explored.z, expected)
        assert_drawn(explored, expected)
    assert explored.sliders[0].value == 3 and explored.z[0, 1].item() == pytest.approx(4.2)


def test_resample_draws_from_the_prior_and_the_sliders_follow(explored):
    before, state = explored.z.clone(), torch.get_rng_state()
    explored.resample.click()
    assert not torch.equal(explored.z, before) and torch.equal(torch.get_rng_state(), state)
    shown = [slider.value for slider in explored.sliders]
    assert shown == pytest.approx(explored.z[0, explored.latents].tolist(), abs=0.051)
    assert_drawn(explored, explored.z)


def test_a_morph_goes_from_one_image_to_another(explored, digits):
    explored.first.value, explored.second.value = 4, 7
    with torch.no_grad():
        mu, _ = explored.model.encode(digits.images)
    for share in (0, 0.5, 1):
        explored.morph.value = share
        torch.testing.assert_close(explored.z[0], torch.lerp(mu[4], mu[7], share))
    assert_drawn(explored, explored.z)


def test_a_cvae_has_a_choice_of_digits(digits):
    explored = VAEExplorer(CVAE(784, hidden_dim=16), digits, KL)
    assert explored.digit in explored.page.children[1].children
    explored.digit.value = 7
    label = torch.eye(10)[7][None]
    assert_drawn(explored, torch.cat((explored.z, label), 1))
    explored.second.value, explored.morph.value = 13, 1.0
    assert explored.digit.value == 3 and torch.equal(explored.label, torch.eye(10)[3][None])
    explored.morph.value = 0.4  # between two labels, until a new sample is drawn
    explored.resample.click()
    assert torch.equal(explored.label, torch.eye(10)[explored.digit.value][None])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_of_other_classes_in_double_precision_is_explored(double_by_default, wrapped):
    model = CVAE(784, num_classes=26, hidden_dim=16)
    pictures = torch.randint(256, (30, 28, 28), dtype=torch.uint8)
    letters = TensorDataset(pictures.unsqueeze(1) / torch.tensor(255.0), torch.arange(30) % 26)
    with torch.autocast("cpu", torch.bfloat16):
        explored = VAEExplorer(nn.DataParallel(model) if wrapped else model, letters, KL.tolist())
    assert len(explored.digit.options) == 26
    explored.digit.value = 25
    assert_drawn(explored, torch.cat((explored.z, torch.eye(26)[25:]), 1))
    explored.second.value, explored.morph.value = 24, 1.0
    assert explored.digit.value == 24 and explored.z.dtype == torch.float64


def test_what_is_drawn_does_not_depend_on_the_default_precision(digits, double_by_default):
    model, shown = VAE(784, hidden_dim=16).float(), []
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        shown.append((VAEExplorer(model, digits, KL).image.value,
                      GANExplorer({"G": gan.generator().float()}).ends))
    assert shown[0][0] == shown[1][0] and torch.equal(shown[0][1], shown[1][1])


def test_a_gan_walks_between_two_noises():
    generators = {"FC-GAN": gan.generator(), "DC-GAN": gan.build_dc_generator()}
    explored = GANExplorer(generators)
    pictures = [explored.image.value]
    for control, value in ((explored.walk, 1.0), (explored.name, "DC-GAN")):
        control.value = value
        pictures.append(explored.image.value)
    explored.resample.click()
    assert len({*pictures, explored.image.value}) == 4
    assert_shows(explored, (generators["DC-GAN"].eval()(explored.ends[1]) + 1) / 2)
    assert generators["FC-GAN"].training


def test_a_gan_explorer_opens_on_the_generator_that_is_named():
    generators = {name: gan.generator() for name in ("FC-GAN", "LS-GAN")}
    assert [GANExplorer(generators, opens_on=name).name.value for name in (None, "LS-GAN")] == [
        "FC-GAN", "LS-GAN"]
    with pytest.raises(ValueError, match="opens_on: expected one of FC-GAN, LS-GAN, found 'VAE'"):
        GANExplorer(generators, opens_on="VAE")


def test_nothing_stacks_up(explored, monkeypatch):
    shown = []
    monkeypatch.setattr(explorer, "display", shown.append)
    image = explored.image
    explored.show()
    for value in torch.linspace(-3, 3, 50).tolist():
        explored.sliders[0].value = value
    assert plt.get_fignums() == [] and explored.image is image and len(shown) == 1
