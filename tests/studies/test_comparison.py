"""cscm77/studies/comparison.py: each row against the loops it stands for, the table, and the committed results."""

import json
import re

import pytest
import torch

import gan
from cscm77.data.loaders import mnist_loaders
from cscm77.measure.judge import Judge
from cscm77.measure.samples import ask_for_digits, generate, measure_samples
from cscm77.studies import comparison
from cscm77.studies.comparison import GANS, REAL, VAES, comparison_table, key_of, main
from cscm77.studies.results_file import read_results
from cscm77_helper import count_params, evaluate_vae, initialize_weights, run_a_gan, train_vae
from vae import CVAE, VAE


@pytest.fixture
def judge(monkeypatch):
    """A judge that was never taught: how well it reads is the affair of tests/test_judge.py."""
    judge = Judge()
    judge.accuracy = 0.5
    monkeypatch.setattr(comparison, "judge_of", lambda *_: judge)
    return judge


@pytest.fixture
def few(judge, monkeypatch, tiny_mnist, tmp_path):
    """The command with one epoch of 256 images and 60 samples; gives the path of its file and a function to call."""
    monkeypatch.setenv("CSCM77_IMAGES", "256")
    monkeypatch.setattr(comparison, "SAMPLES", 60)
    monkeypatch.setattr(comparison, "SEEDS", (0, 1))
    path = tmp_path / "few.json"
    arguments = ["--mnist", str(tiny_mnist), "--images", "256", "--epochs", "1", "--output", str(path)]
    return path, lambda *more: main([*arguments, *more])


def test_every_model_is_trained_once_for_each_seed_and_a_second_start_trains_none(few, capsys, monkeypatch):
    path, run = few
    assert run() == 0
    made = read_results(comparison.FILE, path)
    assert list(made["results"]) == [REAL, *(key_of(name, seed) for seed in (0, 1) for name in (*VAES, *GANS))]
    assert made["provenance"]["judge's accuracy"] == 0.5
    printed = capsys.readouterr().out
    assert comparison_table(path) in printed
    monkeypatch.setattr(comparison, "_row_of_vae", lambda *_: pytest.fail("it was trained again"))
    assert run() == 0


def notebooks_gan(name, loaders, folder):
    """Train a GAN as the notebook's cells do, from seed 1; gives D, G and the averaged G."""
    torch.manual_seed(1)
    if name == "DC-GAN":
        D = gan.build_dc_classifier()
        D.apply(initialize_weights)
        G = gan.build_dc_generator()
        G.apply(initialize_weights)
        losses = gan.discriminator_loss, gan.generator_loss
    else:
        D, G = gan.discriminator(), gan.generator()
        losses = gan.ls_discriminator_loss, gan.ls_generator_loss
    history = run_a_gan(D, G, gan.get_optimizer(D), gan.get_optimizer(G), *losses, folder / "x.png", num_epochs=1,
                        loader_train=loaders.train)
    return D, G, history.G_average


@pytest.fixture
def medium():
    """The notebooks' precision."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def test_the_rows_are_those_of_the_notebooks_loops(few, judge, tiny_mnist, tmp_path, medium):
    path, run = few
    run()
    results = read_results(comparison.FILE, path)["results"]
    loaders = mnist_loaders(root=tiny_mnist, source="mnist", device="cpu")
    real = judge.read(loaders.test.dataset.images)
    for name in ("LS-GAN", "DC-GAN"):
        D, *generators = notebooks_gan(name, loaders, tmp_path)
        torch.manual_seed(1)
        noise, row = gan.sample_noise(60, 96), results[key_of(name, 1)]
        for kind, network in zip(("quality", "averaged"), generators, strict=True):
            quality = measure_samples(judge.read(generate(network, noise, low=-1)), real)
            assert row[kind].pop("classes") == quality.classes
            assert list(row[kind].values()) == pytest.approx(quality.numbers(), abs=2e-6)
        assert row["parameters"] == count_params(D) + count_params(generators[0])


def test_a_vae_s_row_has_its_bound_and_a_cvae_s_how_often_it_draws_what_it_is_asked_for(few, judge, tiny_mnist, medium):
    path, run = few
    run()
    results = read_results(comparison.FILE, path)["results"]
    loaders = mnist_loaders(root=tiny_mnist, source="mnist", device="cpu")
    for name, make in (("VAE", VAE), ("CVAE", CVAE)):
        torch.manual_seed(1)
        model, cond = make(784), name == "CVAE"
        train_vae(0, model, loaders.train, cond=cond)
        row = results[key_of(name, 1)]
        assert row["-ELBO"] == pytest.approx(evaluate_vae(model, loaders.test, cond).loss, abs=1e-4)
        assert row["-ELBO"] != results[key_of(name, 0)]["-ELBO"]
        assert ("accuracy" in row) == cond
    images, asked = ask_for_digits(model.decoder, 15, each=6, seed=1)
    assert row["accuracy"] == pytest.approx((judge.read(images).labels == asked).double().mean().item(), abs=1e-4)


def test_the_table_has_mean_and_standard_deviation(tmp_path, monkeypatch):
    def row(frechet, **more):
        quality = dict.fromkeys(comparison.COLUMNS, 0.5) | {"frechet": frechet, "classes": [1] * 10}
        return {"quality": quality, "minutes": 1.0, "parameters": 1000, **more}

    results = {key_of("VAE", 0): row(1.0, **{"-ELBO": 100.0}), key_of("VAE", 1): row(2.0, **{"-ELBO": 101.0}),
               key_of("VAE", 2): {"error": "epoch 0, step 3: found nan"},
               REAL: {"quality": row(0.25)["quality"], "minutes": 0}}
    path = tmp_path / "made.json"
    provenance = {"data": "MNIST", "training images": 55000, "epochs": 10, "judge's accuracy": 0.9946}
    path.write_text(json.dumps({"provenance": provenance, "results": results}))
    lines = comparison_table(path).splitlines()
    assert lines[0].startswith("MNIST, 55,000 training images, 10 epochs, seeds 0, 1, 2")
    assert "10,000 samples" in lines[1] and "99.46%" in lines[1]
    assert re.search(r"^VAE +1\.50 ± 0\.71 ", lines[3]) and re.search(r"^training images +0\.25 ", lines[4])
    assert re.search(r"^VAE .* 100\.5 ± 0\.7 +- +1,000 +1\.0$", lines[7])
    assert re.search(r"^training images .* - +- +- +-$", lines[8])
    assert lines[10] == "VAE: epoch 0, step 3: found nan" and lines[11] == "CVAE, seed 0: not trained yet"
    assert max(map(len, lines)) < 115


def test_without_results_it_says_which_command_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m cscm77\.comparison makes it"):
        comparison_table(tmp_path / "none.json")


# ---------------------------------------------------------------- the committed results


@pytest.fixture
def committed():
    if not comparison.RESULTS.exists():
        pytest.skip("no comparison on all of MNIST is committed yet")
    return read_results(comparison.FILE, comparison.RESULTS)


def test_the_committed_comparison_is_whole(committed):
    expected = {"data": "MNIST", "training images": 55000, "test images": 10000, "epochs": 10, "batch": 128}
    assert {field: committed["provenance"][field] for field in expected} == expected
    assert set(committed["results"]) == {REAL, *(key_of(n, s) for n in (*VAES, *GANS) for s in comparison.SEEDS)}
    assert committed["provenance"]["judge's accuracy"] >= 0.992


def test_in_it_the_dc_gan_is_better_than_the_fully_connected_one_and_forgets_no_digit(committed):
    results = committed["results"]
    for seed in comparison.SEEDS:
        fully_connected, convolutional = (results[key_of(name, seed)]["quality"] for name in ("FC-GAN", "DC-GAN"))
        assert convolutional["frechet"] < fully_connected["frechet"]
        assert min(convolutional["classes"]) > 100  # of 10,000
    for name in GANS:
        coverage = [[results[key_of(name, seed)][kind]["coverage"] for seed in comparison.SEEDS]
                    for kind in ("quality", "averaged")]
        assert sum(coverage[0]) < sum(coverage[1]), name  # what the averaged generator is for
