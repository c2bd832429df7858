"""cscm77/studies/comparison.py: rows against the notebooks' loops, the table, the committed one."""

import json
import re

import pytest
import torch

import gan
from cscm77.measure.latents import importance_weighted_loss
from cscm77.measure.samples import ask_for_digits, generate, measure_samples
from cscm77.studies import comparison
from cscm77.studies.comparison import GANS, REAL, VAES, comparison_table, main, training_name
from cscm77.studies.results_file import read_results
from cscm77.utils import arithmetic
from cscm77_helper import (
    averaged_vae,
    count_params,
    evaluate_vae,
    initialize_weights,
    run_a_gan,
    train_vae,
)
from vae import CVAE, VAE

SAMPLES_ALONE = [name for name in comparison.COLUMNS if name not in ("-ELBO", "bound", "accuracy")]


@pytest.fixture
def few(judge, few_images, monkeypatch, tiny_mnist, tmp_path):
    """The command with one epoch of 256 images and 60 samples: the path of its file, a function."""
    monkeypatch.setattr(comparison, "SAMPLES", 60)
    monkeypatch.setattr(comparison, "SEEDS", (0, 1))
    path = tmp_path / "few.json"
    arguments = ["--mnist", str(tiny_mnist), "--images", "256", "--epochs", "1",
                 "--output", str(path)]
    return path, lambda *more: main([*arguments, *more])


def test_every_model_is_trained_once_for_each_seed(few, capsys, monkeypatch):
    path, run = few
    trained = []

    def note(model, seed, *_):
        trained.append(training_name(model, seed))
        return {"error": f"training {len(trained)} of this test"}

    for row_of in ("_row_of_vae", "_row_of_gan"):
        monkeypatch.setattr(comparison, row_of, note)
    assert run() == 0
    names = [training_name(model, seed) for seed in (0, 1) for model in (*VAES, *GANS)]
    assert trained == names
    before = read_results(comparison.STUDY, path)
    assert list(before["results"]) == [REAL, *names]
    assert before["provenance"]["judge's accuracy"] == 0.75
    assert comparison_table(path) in capsys.readouterr().out
    assert run() == 0 and trained == names


def notebooks_gan(name, loaders, folder):
    """Train a GAN as the notebook's cells do, from seed 1; returns D, G, the averaged G."""
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
    history = run_a_gan(D, G, gan.get_optimizer(D), gan.get_optimizer(G), *losses,
                        folder / "x.png", num_epochs=1, loader_train=loaders.train)
    return D, G, history.G_average


@pytest.fixture
def medium():
    """The notebooks' precision."""
    with arithmetic("medium"):
        yield


def test_the_rows_are_those_of_the_notebooks_loops(few, judge, few_images, tmp_path, medium):
    path, run = few
    run()
    results = read_results(comparison.STUDY, path)["results"]
    loaders = few_images
    real = judge.read(loaders.test.dataset.images)
    for name in ("LS-GAN", "DC-GAN"):
        D, *generators = notebooks_gan(name, loaders, tmp_path)
        torch.manual_seed(1)
        noise, row = gan.sample_noise(60, 96), results[training_name(name, 1)]
        for kind, network in zip(("quality", "averaged"), generators, strict=True):
            quality = measure_samples(judge.read(generate(network, noise, low=-1)), real)
            assert row[kind].pop("classes") == quality.classes
            assert list(row[kind].values()) == pytest.approx(quality.numbers(), abs=2e-6)
        assert row["parameters"] == count_params(D) + count_params(generators[0])
    for name, make in (("VAE", VAE), ("CVAE", CVAE)):
        torch.manual_seed(1)
        model, cond = make(784), name == "CVAE"
        train_vae(0, model, loaders.train, cond=cond)
        for kind, network in (("quality", model), ("averaged", averaged_vae(model))):
            row = results[training_name(name, 1)][kind]
            loss = evaluate_vae(network, loaders.test, cond).loss
            assert row["-ELBO"] == pytest.approx(loss, abs=1e-4)
            bound = importance_weighted_loss(network, loaders.test, (100,), cond)[100]
            assert row["bound"] == pytest.approx(bound, abs=1e-4) and row["bound"] < row["-ELBO"]
            assert row["-ELBO"] != results[training_name(name, 0)][kind]["-ELBO"]
            assert ("accuracy" in row) == cond
    images, asked = ask_for_digits(network.decoder, 15, each=6, seed=1)
    right = (judge.read(images).labels == asked).double().mean().item()
    assert row["accuracy"] == pytest.approx(right, abs=1e-4)


def test_the_table_has_mean_and_standard_deviation(tmp_path, monkeypatch):
    def row(frechet, **more):
        quality = {"frechet": frechet, "classes": [1] * 10, **more}
        return {"quality": dict.fromkeys(SAMPLES_ALONE, 0.5) | quality, "parameters": 1000}

    results = {"VAE, seed 0": row(1.0, **{"-ELBO": 100.0}),
               "VAE, seed 1": row(2.0, **{"-ELBO": 101.0}),
               "VAE, seed 2": {"error": "epoch 0, step 3: found nan"},
               REAL: {"quality": row(0.25)["quality"]}}
    path = tmp_path / "made.json"
    provenance = {"data": "MNIST", "training images": 55000, "epochs": 10,
                  "judge's accuracy": 0.9946}
    path.write_text(json.dumps({"provenance": provenance, "results": results}))
    lines = comparison_table(path).splitlines()
    assert lines[0].startswith("MNIST, 55,000 training images, 10 epochs, seeds 0, 1, 2")
    assert "10,000 samples" in lines[1] and "99.46%" in lines[1]
    assert re.search(r"^VAE +1\.50 ± 0\.71 ", lines[3])
    assert re.search(r"^training images +0\.25 ", lines[4])
    assert re.search(r"^VAE .* 100\.5 ± 0\.7 +- +- +1,000$", lines[7])
    assert re.search(r"^training images .* - +- +- +-$", lines[8])
    assert lines[10:12] == ["VAE, seed 2: epoch 0, step 3: found nan",
                            "CVAE, seed 0: not trained yet"]
    assert max(map(len, lines)) < 115
    assert comparison.comparison_values("VAE", "frechet", path) == [1.0, 2.0]
    assert comparison.comparison_values("VAE, averaged", "frechet", path) == []


def test_without_results_it_says_which_command_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m cscm77\.studies\.comparison makes it"):
        comparison_table(tmp_path / "none.json")


# ---------------------------------------------------------------- the committed results


@pytest.fixture
def committed():
    return read_results(comparison.STUDY, comparison.STUDY.path)


def test_the_committed_comparison_is_whole(committed):
    expected = {"data": "MNIST", "training images": 55000, "test images": 10000, "epochs": 10,
                "batch": 128}
    assert {field: committed["provenance"][field] for field in expected} == expected
    names = {training_name(m, seed) for m in (*VAES, *GANS) for seed in comparison.SEEDS}
    assert set(committed["results"]) == {REAL, *names}
    assert committed["provenance"]["judge's accuracy"] >= 0.992


def test_in_it_the_dc_gan_is_better_than_the_fully_connected_one_and_forgets_no_digit(committed):
    results = committed["results"]
    for seed in comparison.SEEDS:
        fully_connected, convolutional = (results[training_name(model, seed)]["quality"]
                                          for model in ("FC-GAN", "DC-GAN"))
        assert convolutional["frechet"] < fully_connected["frechet"]
        assert min(convolutional["classes"]) > 100  # of 10,000
    for model in GANS:
        rows = [results[training_name(model, seed)] for seed in comparison.SEEDS]
        coverage, of_average = (sum(row[samples]["coverage"] for row in rows)
                                for samples in ("quality", "averaged"))
        assert coverage < of_average, model  # what the averaged generator is for
    for model in VAES:
        for bound in ("-ELBO", "bound"):
            last, average = (comparison.comparison_values(model + ending, bound)
                             for ending in ("", ", averaged"))
            assert max(average) < min(last), (model, bound)
