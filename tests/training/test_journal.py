"""cscm77/training/journal.py: what a training leaves beside its networks, against the steps that it was taken from."""

import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import cscm77_helper as helper
import gan
from cscm77_helper import run_a_gan, train_vae, vae_strip
from vae import CVAE, VAE


def digits(number=64, size=16):
    rng = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(torch.rand(number, 1, 28, 28, generator=rng), torch.arange(number) % 10), size)


def run(folder, losses=(gan.discriminator_loss, gan.generator_loss), num_epochs=2, show_every=3, **options):
    torch.manual_seed(0)
    D, G = gan.discriminator(), gan.generator()
    history = run_a_gan(D, G, gan.get_optimizer(D), gan.get_optimizer(G), *losses, folder / "x.png", show_every, 16,
                        num_epochs=num_epochs, loader_train=digits(), **options)
    return D, G, history


@pytest.mark.parametrize("probability", [torch.sigmoid, lambda scores: 2 * scores])
def test_probabilities_are_those_of_the_scores_that_the_loss_was_taken_on(probability, tmp_path):
    seen = []

    def loss(real, fake):
        seen.append((probability(real).mean().item(), probability(fake).mean().item()))
        return gan.discriminator_loss(real, fake)

    _, _, history = run(tmp_path, (loss, gan.generator_loss), probability=probability)
    assert [history.d_real, history.d_fake] == [pytest.approx(values) for values in zip(*seen, strict=True)]
    assert len(seen) == 8


def test_the_strip_is_drawn_from_the_same_noise_at_the_steps_that_are_shown(tmp_path):
    _, G, history = run(tmp_path, show_every=7)  # at steps 0 and 7, the last
    assert history.strip.shape == (2, helper.STRIP_SAMPLES, 784)
    torch.manual_seed(0)
    noise = gan.sample_noise(helper.STRIP_SAMPLES, 96)
    with torch.no_grad():
        torch.testing.assert_close(history.strip[1], G.eval()(noise))
    assert not torch.equal(history.strip[0], history.strip[1])


def test_the_best_generator_is_that_of_the_highest_score(tmp_path):
    scores, states = iter([0.3, 0.9, 0.5]), []

    def score(G):
        assert not G.training and not torch.is_grad_enabled()
        states.append({name: value.clone() for name, value in G.state_dict().items()})
        torch.rand(5)  # these are not the training's
        return next(scores)

    _, G, history = run(tmp_path, num_epochs=3, score=score)
    assert history.scores == [0.3, 0.9, 0.5] and G.training
    assert all(torch.equal(value, states[1][name]) for name, value in history.G_best.items())
    _, unscored, plain = run(tmp_path, num_epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(G.parameters(), unscored.parameters(), strict=True))
    assert plain.scores == [] and all(torch.equal(v, plain.G_best[k]) for k, v in unscored.state_dict().items())


def test_scores_and_the_best_generator_are_taken_up_from_the_checkpoint(tmp_path):
    def a_score_of(values):
        values = iter(values)
        return lambda G: next(values)

    path = tmp_path / "run.pt"
    _, _, whole = run(tmp_path, num_epochs=3, score=a_score_of([0.3, 0.9, 0.5]))
    run(tmp_path, num_epochs=2, score=a_score_of([0.3, 0.9]), checkpoint=path)
    _, _, resumed = run(tmp_path, num_epochs=3, score=a_score_of([0.5]), checkpoint=path)
    assert resumed.scores == whole.scores and torch.equal(resumed.strip, whole.strip)
    assert (resumed.d_real, resumed.d_fake) == (whole.d_real, whole.d_fake)
    assert all(torch.equal(value, whole.G_best[name]) for name, value in resumed.G_best.items())


def test_a_score_that_is_no_number_stops_with_its_epoch(tmp_path):
    with pytest.raises(FloatingPointError, match="epoch 0: expected a finite score, found nan"):
        run(tmp_path, score=lambda G: math.nan)


@pytest.mark.parametrize("make, cond", [(VAE, False), (CVAE, True)])
def test_a_vae_s_strip_has_the_same_validation_images_after_each_epoch(make, cond, tmp_path):
    validation = list(digits(30, 16))

    def trained(epochs, checkpoint=None):
        torch.manual_seed(0)
        model = make(784, hidden_dim=16)
        for epoch in range(epochs):
            train_vae(epoch, model, digits(), cond=cond, val_loader=validation, checkpoint=checkpoint)
        return model, vae_strip(model)

    model, strip = trained(3)
    assert strip.shape == (3, helper.STRIP_SAMPLES, 784)
    x, labels = next(iter(digits(30, 16)))
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(*helper.vae_inputs(model, x[:10], labels[:10], cond))[0]
    torch.testing.assert_close(strip[2], expected.flatten(1))
    trained(2, tmp_path / "run.pt")
    _, resumed = trained(3, tmp_path / "run.pt")
    torch.testing.assert_close(resumed, strip)


def test_without_validation_images_there_is_no_strip():
    model = VAE(784, hidden_dim=16)
    for _ in range(2):
        with pytest.raises(ValueError, match="trained with a val_loader"):
            vae_strip(model)
        train_vae(0, model, digits())
