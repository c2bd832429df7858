"""cscm77/training/journal.py: what a training leaves, against the steps that it was taken from."""

import math

import kills
import pytest
import torch
from kills import SEED, batches, digest_of, train_gan, train_gan_to_the_end
from torch import nn
from trainings import SMALL

import cscm77_helper as helper
import gan
from cscm77.training import journal
from cscm77_helper import averaged_vae, train_vae
from vae import CVAE, VAE


def run(num_epochs=2, **options):
    """A generator and its history, after 4 steps an epoch."""
    torch.manual_seed(0)
    D, G = (build() for build in SMALL)
    return G, train_gan(D, G, num_epochs=num_epochs, loader_train=batches(64), **options)


@pytest.mark.parametrize("probability", [torch.sigmoid, lambda scores: 2 * scores])
def test_probabilities_are_those_of_the_scores_that_the_loss_was_taken_on(probability):
    seen = []

    def loss(real, fake):
        seen.append((probability(real).mean().item(), probability(fake).mean().item()))
        return gan.discriminator_loss(real, fake)

    _, history = run(discriminator_loss=loss, probability=probability)
    assert history.d_real == pytest.approx([real for real, _ in seen])
    assert history.d_fake == pytest.approx([fake for _, fake in seen])
    assert len(seen) == 8


def test_the_strip_is_drawn_from_the_same_noise_at_the_steps_that_are_shown():
    G, history = run(show_every=7)  # at steps 0 and 7, the last
    assert history.strip.shape == (2, helper.STRIP_SAMPLES, 784)
    torch.manual_seed(0)
    noise = gan.sample_noise(helper.STRIP_SAMPLES, 96)
    with torch.no_grad():
        torch.testing.assert_close(history.strip[1], G.eval()(noise))
    assert not torch.equal(history.strip[0], history.strip[1])


def test_the_best_generator_is_that_of_the_highest_score():
    scores, states = iter([0.3, 0.9, 0.5]), []

    def score(G):
        assert not G.training and not torch.is_grad_enabled()
        states.append({name: value.clone() for name, value in G.state_dict().items()})
        torch.rand(5)  # these are not the training's
        return next(scores)

    G, history = run(3, score=score)
    assert history.scores == [0.3, 0.9, 0.5] and G.training
    assert all(torch.equal(value, states[1][name]) for name, value in history.G_best.items())
    unscored, plain = run(3)
    assert digest_of(G.state_dict()) == digest_of(unscored.state_dict())
    assert plain.scores == [] and digest_of(plain.G_best) == digest_of(unscored.state_dict())


def test_scores_and_the_best_generator_are_taken_up_from_the_checkpoint(path):
    def a_score_of(values):
        values = iter(values)
        return lambda G: next(values)

    _, whole = run(3, score=a_score_of([0.3, 0.9, 0.5]))
    run(2, score=a_score_of([0.3, 0.9]), checkpoint=path)
    _, resumed = run(3, score=a_score_of([0.5]), checkpoint=path)
    for name in ("scores", "strip", "d_real", "d_fake", "G_best"):
        assert digest_of(getattr(resumed, name)) == digest_of(getattr(whole, name))


def test_a_score_that_is_no_number_stops_with_its_epoch():
    with pytest.raises(FloatingPointError, match="epoch 0: expected a finite score, found nan"):
        run(score=lambda G: math.nan)


@pytest.mark.parametrize("make, cond", [(VAE, False), (CVAE, True)])
def test_an_epoch_keeps_what_became_of_the_first_validation_images(make, cond):
    model, validation = make(784, hidden_dim=16), list(batches(30))
    strip = [train_vae(epoch, model, batches(), cond, val_loader=validation).reconstructed
             for epoch in range(3)]
    x, labels = validation[0]
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(*helper.vae_inputs(model, x[:10], labels[:10], cond))[0].flatten(1)
    assert torch.equal(strip[2], expected) and strip[2].shape == (helper.STRIP_SAMPLES, 784)
    assert not torch.equal(strip[1], strip[2])


def test_without_validation_images_nothing_is_kept_of_them():
    epoch = train_vae(0, VAE(784, hidden_dim=16), batches())
    assert epoch.val_loss is None and epoch.reconstructed is None


def test_losses_that_are_waiting_are_averaged_over_images_and_a_bad_one_is_named():
    log = journal.LossLog()
    with pytest.raises(ValueError, match="the loader: expected at least one batch, found none"):
        log.means()
    for size, loss in ((3, 1.0), (1, 5.0)):
        log.add(0, size, torch.tensor(loss), torch.tensor(2 * loss))
    assert log.means() == [2.0, 4.0] and len(log) == 2
    log.add(7, 1, torch.tensor(1.0), torch.tensor(torch.inf))
    with pytest.raises(FloatingPointError, match=r"epoch 7, step 2: .*found \[1.0, inf\]; a small"):
        log.read()


# ---------------------------------------------------------------- averaged weights


def small_generator():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def walk(generator, steps):
    """Change a generator's weights and statistics at random; yields after each step."""
    for _ in range(steps):
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(torch.randn_like(p))
        generator.train()(torch.randn(8, 3))
        yield


def test_the_average_is_the_formula_in_float64():
    generator = small_generator()  # a decay of 0.95 is reached after 14 updates: 0.95 ** 8 = 0.66
    average, expected = journal.averaged(generator, 0.95), {}
    for update, _ in enumerate(walk(generator, 30)):
        average.update_parameters(generator)
        decay = min((1 + update) / (10 + update), 0.95 ** journal.AVERAGE_EVERY) if update else 0.0
        for name, value in generator.state_dict().items():
            old = expected.get(name, value.double())
            expected[name] = decay * old + (1 - decay) * value.double()
    found = average.module.state_dict()
    count = found["1.num_batches_tracked"]
    assert count == 30 and count.dtype == torch.int64
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_a_gan_averages_every_eighth_step_and_trains_as_without(monkeypatch):
    seen, real = [], helper.generator_step

    def step(D, G, *arguments):
        result = real(D, G, *arguments)
        seen.append({name: value.clone() for name, value in G.state_dict().items()})
        return result

    def train():
        torch.manual_seed(SEED)
        return train_gan_to_the_end(None, SMALL, lambda: kills.shuffled(20, 4), 4)[0]  # 10 steps

    monkeypatch.setattr(helper, "generator_step", step)
    _, G, *_, average, best = train()
    assert len(seen) == 10 and digest_of(best) == digest_of(G) == digest_of(seen[9])
    for name, value in average.items():
        expected = seen[8][name]
        if value.is_floating_point():
            expected = 2 / 11 * seen[0][name] + 9 / 11 * expected
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(journal.AveragedModel, "update_parameters", lambda *_: None)
    assert digest_of(train()[1]) == digest_of(G)


def test_the_history_s_generators_are_no_part_of_the_one_that_is_trained(path):
    G, history = run(checkpoint=path)
    before = digest_of(history.G_best), digest_of(history.G_average.state_dict())
    with torch.no_grad():
        for p in G.parameters():
            p.zero_()
    assert (digest_of(history.G_best), digest_of(history.G_average.state_dict())) == before
    assert history.G_average(gan.sample_noise(2, 96)).shape == (2, 784)
    assert not history.G_average.training


@pytest.mark.parametrize("make, cond", [(VAE, False), (CVAE, True)])
def test_a_vae_averages_every_eighth_step_of_an_epoch_and_trains_as_without(
        make, cond, monkeypatch):
    seen, real = [], helper.vae_step

    def step(model, *arguments):
        losses = real(model, *arguments)
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return losses

    def trained():
        torch.manual_seed(0)
        model = make(784, hidden_dim=16)
        for epoch in range(2):  # of 10 steps
            train_vae(epoch, model, batches(160), cond)
        return model

    monkeypatch.setattr(helper, "vae_step", step)
    model = trained()
    average = averaged_vae(model)
    assert type(average) is make and not average.training and model.training
    states = [{name: value.double() for name, value in seen[n].items()} for n in (0, 8, 10, 18)]
    for name, value in average.state_dict().items():
        expected = states[0][name]
        for updates, state in enumerate(states[1:], 1):
            expected = torch.lerp(state[name], expected, (1 + updates) / (10 + updates))
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        average.mu_layer.weight.zero_()  # a copy: the next one is as before
    assert averaged_vae(model).mu_layer.weight.abs().max() > 0
    monkeypatch.setattr(journal.AveragedModel, "update_parameters", lambda *_: None)
    assert digest_of(trained().state_dict()) == digest_of(model.state_dict())


def test_a_model_that_was_not_trained_has_no_average():
    with pytest.raises(ValueError, match="model: expected one that train_vae has trained"):
        averaged_vae(VAE(784, hidden_dim=8))
