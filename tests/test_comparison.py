"""cscm77/comparison.py: each row against the loops it stands for, the table, and the committed results."""

import json
import re

import pytest
import torch

import gan
from cscm77 import comparison
from cscm77.comparison import AVERAGED, GANS, REAL, VAES, comparison_table, key_of, main
from cscm77.data import mnist_loaders
from cscm77.evaluation import generate, measure_samples
from cscm77.judge import Judge
from cscm77.results_file import read_results
from cscm77_helper import count_params, evaluate_vae, run_a_gan, train_vae
from vae import VAE


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


def test_the_rows_are_those_of_the_notebooks_loops(few, judge, tiny_mnist, tmp_path):
    path, run = few
    run()
    results = read_results(comparison.FILE, path)["results"]
    loaders = mnist_loaders(root=tiny_mnist, source="mnist", device="cpu")
    real = judge.read(loaders.test.dataset.images)
    torch.set_float32_matmul_precision("medium")
    try:
        torch.manual_seed(1)
        vae = VAE(784)
        train_vae(0, vae, loaders.train)
        torch.manual_seed(1)
        D, G = gan.discriminator(), gan.generator()
        history = run_a_gan(D, G, gan.get_optimizer(D), gan.get_optimizer(G), gan.ls_discriminator_loss,
                            gan.ls_generator_loss, tmp_path / "x.png", num_epochs=1, loader_train=loaders.train)
        torch.manual_seed(1)
        noise = gan.sample_noise(60, 96)
        images = [generate(network, noise, low=-1) for network in (G, history.G_average)]
        expected = [measure_samples(judge.read(some), real) for some in images]
        elbo = evaluate_vae(vae, loaders.test).loss
    finally:
        torch.set_float32_matmul_precision("highest")
    row = results[key_of("LS-GAN", 1)]
    for kind, quality in zip(("quality", "averaged"), expected, strict=True):
        assert row[kind].pop("classes") == quality.classes
        assert list(row[kind].values()) == pytest.approx(quality.numbers(), abs=2e-6)
    assert row["parameters"] == count_params(D) + count_params(G)
    assert results[key_of("VAE", 1)]["-ELBO"] == pytest.approx(elbo, abs=1e-4)
    assert results[key_of("VAE", 0)]["-ELBO"] != results[key_of("VAE", 1)]["-ELBO"]


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
    assert re.search(r"^VAE +1\.50 ± 0\.71 .* 100\.5 ± 0\.7 +1,000 +1\.0$", lines[3])
    assert re.search(r"^training images +0\.25 .* - +- +-$", lines[4])
    assert lines[5] == "VAE: epoch 0, step 3: found nan"


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
    assert AVERAGED.startswith(", ")
