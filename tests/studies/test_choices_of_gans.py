"""cscm77/studies/choices.py, the trials of the GANs: each against what it says, and the table."""

# ruff: noqa: D103

import json

import pytest
import torch
from torch import nn

import gan
from cscm77.studies import choices, comparison
from cscm77.studies.choices import STUDY, Trial
from cscm77.utils import arithmetic
from cscm77_helper import generator_step, initialize_weights, run_a_gan


def same_weights(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("model, make_d, make_g, first_weights", [
    ("FC-GAN", gan.discriminator, gan.generator, nn.Identity()),
    ("DC-GAN", gan.build_dc_classifier, gan.build_dc_generator, initialize_weights)])
def test_ours_are_the_gans_of_the_notebook(model, make_d, make_g, first_weights):
    torch.manual_seed(3)
    expected = [make().apply(first_weights) for make in (make_d, make_g)]
    state = torch.get_rng_state()
    networks, solvers, losses = choices.build_gan(Trial("", "", model, seed=3), "cpu")
    assert all(map(same_weights, networks, expected))
    assert torch.equal(torch.get_rng_state(), state)
    assert losses == (gan.discriminator_loss, gan.generator_loss)
    for solver, network in zip(solvers, expected, strict=True):
        [group], [ours] = solver.param_groups, gan.get_optimizer(network).param_groups
        assert {**group, "params": 0} == {**ours, "params": 0}
        assert {layer.negative_slope for layer in networks[0] if hasattr(layer, "negative_slope")
                } == {gan.LEAK}


@pytest.mark.parametrize("model, changes, of", [
    ("FC-GAN", {"learning_rate": 3e-4}, lambda D, G, solver: solver.param_groups[0]["lr"]),
    ("FC-GAN", {"beta1": 0.0}, lambda D, G, solver: solver.param_groups[0]["betas"][0]),
    ("FC-GAN", {"beta1": 0.9}, lambda D, G, solver: solver.param_groups[0]["betas"][0]),
    ("FC-GAN", {"leak": 0.2}, lambda D, G, solver: D[1].negative_slope),
    ("FC-GAN", {"noise_size": 32}, lambda D, G, solver: G[0].in_features),
    ("DC-GAN", {"batch_norm": False}, lambda D, G, solver: any(
        isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in G))])
def test_a_change_of_a_gan_is_what_it_says(model, changes, of):
    (D, G), solvers, _ = choices.build_gan(Trial("", "", model, **changes), "cpu")
    assert {of(D, G, solver) for solver in solvers} == set(changes.values())
    assert G(torch.zeros(2, changes.get("noise_size", 96))).shape == (2, 784)


@pytest.mark.parametrize("init, sd", [("glorot", (2 / (1024 + 1024)) ** 0.5),
                                      ("pytorch", (1 / (3 * 1024)) ** 0.5)])
def test_first_weights_of_a_gan_have_their_spread(init, sd):
    (_, G), _, _ = choices.build_gan(Trial("", "", "FC-GAN", init=init), "cpu")
    assert G[2].weight.std().item() == pytest.approx(sd, rel=0.01)


def test_a_target_below_one_is_the_formula_in_float64():
    _, _, (d_loss, g_loss) = choices.build_gan(Trial("", "", "FC-GAN", real_target=0.9), "cpu")
    real, fake = torch.randn(2, 7, 1)
    p, q = real.double().sigmoid(), fake.double().sigmoid()
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log()).mean() - (1 - q).log().mean()
    assert d_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-6)
    assert g_loss is gan.generator_loss


def test_with_two_steps_of_d_every_second_step_of_g_is_taken():
    (D, G), solvers, (_, loss) = choices.build_gan(Trial("", "", "FC-GAN", d_steps=2), "cpu")
    moved = []
    for noise in torch.rand(4, 3, 96):
        before = G[0].weight.clone()
        generator_step(D, G, solvers[1], loss, noise)
        moved.append(not torch.equal(G[0].weight, before))
    assert moved == [False, True, False, True]


def test_a_gan_s_trial_is_the_notebooks_loop_bit_for_bit(few_images, judge, tmp_path, capsys,
                                                            monkeypatch):
    monkeypatch.setattr(comparison, "SAMPLES", 300)
    trial = Trial("", "", "FC-GAN", leak=0.2, noise_size=8, seed=2)
    row = choices.train_gan_trial(trial, few_images, 2, lambda: judge)
    assert capsys.readouterr().out == ""
    with arithmetic("medium"):
        networks, solvers, losses = choices.build_gan(trial, "cpu")
        history = run_a_gan(*networks, *solvers, *losses, tmp_path / "p.png", 100, noise_size=8,
                            num_epochs=2, loader_train=few_images.train)
        measured = choices.measured_against(few_images.val, judge)
        torch.manual_seed(2)
        noise = gan.sample_noise(300, 8)
        for G, key in ((networks[1], "quality"), (history.G_average, "averaged")):
            with torch.no_grad():
                samples = (G.eval()(noise) + 1) / 2
            assert row[key]["frechet"] == pytest.approx(measured(samples)[0]["frechet"], rel=1e-4)


def test_the_table_of_a_gan_has_its_averaged_samples_and_their_spread_over_seeds(tmp_path):
    averaged = {"frechet": 120.04, "coverage": 0.6, "uniformity": 0.1,
                "classes": [100] + 9 * [1100]}
    path, row = tmp_path / "s.json", {"quality": {"frechet": 220.0}, "averaged": averaged}
    row["parameters"] = 7
    second = row | {"averaged": averaged | {"frechet": 122.04}}
    made_from = {"data": "MNIST", "training images": 55000, "epochs": 10}
    path.write_text(json.dumps({"provenance": made_from, "results": {
        "FC-GAN": row, "FC-GAN seed=2": second, "FC-GAN seed=1": {"error": "not finite"},
        "FC-GAN leak=0.2": row}}))
    table = choices.study_table("FC-GAN", path)
    lines = {line[:14].strip(): line[14:].split() for line in table.splitlines()}
    assert table.splitlines()[0].endswith("images (DC-GAN: a fifth of the epochs)")
    assert lines["ours"] == "220.0 121.0 ± 1.4 0.600 0.100 1.0%".split()
    assert lines["leak 0.2"] == "220.0 120.0 0.600 0.100 1.0%".split()
    assert lines["beta1 0"] == ["-"] * 5 and "ours, seed 1: not finite" in table
    assert choices.study_values("FC-GAN", "frechet", path) == {
        "ours": [120.04, 122.04], "leak 0.2": [120.04]}
    assert STUDY.summary(row).endswith("averaged 120.04")
