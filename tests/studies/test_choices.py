"""cscm77/studies/choices.py: the trials against oracles, what a study keeps of them, the tables."""

# ruff: noqa: D103

import inspect
import json
import random
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import vae
from cscm77.data.loaders import mnist_loaders
from cscm77.measure.judge import Judge
from cscm77.measure.latents import IN_USE, kl_of_latents
from cscm77.studies import choices
from cscm77.studies.choices import (
    TRIALS,
    Trial,
    build,
    main,
    read_study,
    study_curves,
    study_table,
    train_trial,
    training_name,
)
from cscm77_helper import evaluate_vae, train_vae

TOP = Path(__file__).resolve().parents[2]
SMALL = Trial("hidden size", "8", hidden_dim=8)
GAINS = (vae.ENCODER_LABEL_GAIN, vae.DECODER_LABEL_GAIN)


@pytest.fixture
def judge(monkeypatch):
    """A judge that was never taught: how well it reads is the affair of tests/measure."""
    judge = Judge()
    judge.accuracy = 0.75
    monkeypatch.setattr(choices, "judge_of", lambda *_: judge)
    return judge


@pytest.fixture
def loaders(tiny_mnist, monkeypatch):
    """The first 256 images of each split: two steps an epoch."""
    monkeypatch.setenv("CSCM77_IMAGES", "256")
    return mnist_loaders(root=tiny_mnist, source="mnist", device="cpu")


def linears(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def changed_from_ours(init):
    ours, other = (build(Trial("", "", hidden_dim=32, init=init)).state_dict()
                   for init in ("ours", init))
    return {name for name in ours if not torch.equal(ours[name], other[name])}


# ---------------------------------------------------------------- the trials


def test_rows_called_ours_are_what_the_course_files_do():
    rows = [trial for trial in TRIALS if "(ours)" in trial.name]
    assert [trial.group for trial in rows] == ["initialisation", "hidden size", "label gain"]
    assert training_name(rows[0]) == training_name(rows[1]) == "VAE"
    assert rows[2].label_gains == GAINS and rows[2].name.startswith("{}, {} ".format(*GAINS))
    assert {t.hidden_dim for t in rows} == {inspect.signature(vae.VAE).parameters["hidden_dim"].default}
    assert inspect.signature(vae.VAE).parameters["latent_size"].default == 15
    assert "set_float32_matmul_precision('medium')" in (TOP / "variational_autoencoders.ipynb").read_text()


def test_rows_have_names_of_their_own_and_known_settings():
    assert len({(trial.group, trial.name) for trial in TRIALS}) == len(TRIALS)
    for trial in TRIALS:
        assert (trial.label_gains is not None) == (trial.model == "CVAE")
        assert build(trial._replace(hidden_dim=4)).hidden_dim == 4


def test_a_key_names_what_differs_and_nothing_of_the_table():
    assert training_name(Trial("a", "b")) == training_name(Trial("c", "d")) == "VAE"
    assert training_name(Trial("a", "b", "CVAE", 8, label_gains=(3, 1), seed=2)) == (
        "CVAE hidden_dim=8 label_gains=(3, 1) seed=2")
    assert len({training_name(trial) for trial in TRIALS}) == len({trial[2:] for trial in TRIALS}) == 29


def test_ours_is_the_model_that_the_notebook_builds():
    torch.manual_seed(3)
    expected = vae.VAE(784)
    state = torch.get_rng_state()
    model = build(Trial("", "", seed=3))
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # so that the first batch is the same too
    torch.manual_seed(3)
    expected = vae.CVAE(784)
    model = build(Trial("", "", "CVAE", label_gains=GAINS, seed=3))
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("init", ["ours", "he_uniform", "orthogonal", "glorot", "pytorch", "zero_output"])
def test_an_initialisation_leaves_the_same_random_numbers_to_the_training(init):
    build(Trial("", "", hidden_dim=16))
    expected = torch.rand(3)
    build(Trial("", "", hidden_dim=16, init=init))
    assert torch.equal(torch.rand(3), expected)


HIDDEN = {f"{network}.weight" for network in ("encoder.1", "encoder.3", "encoder.5",
                                              "decoder.0", "decoder.2", "decoder.4")}


@pytest.mark.parametrize("init, changed", [
    ("ours", set()),
    ("he_uniform", HIDDEN),
    ("orthogonal", HIDDEN | {"mu_layer.weight", "decoder.6.weight"}),
    ("glorot", HIDDEN | {"mu_layer.weight", "logvar_layer.weight", "decoder.6.weight"}),
    ("zero_output", {"decoder.6.weight"}),
    ("narrow_posterior", {"logvar_layer.bias"}),
])
def test_an_initialisation_changes_what_it_names_and_no_more(init, changed):
    assert changed_from_ours(init) == changed


def test_pytorchs_default_changes_every_layer():
    assert changed_from_ours("pytorch") == set(build(Trial("", "", hidden_dim=32)).state_dict())


def test_he_uniform_fills_its_bound():
    model = build(Trial("", "", init="he_uniform"))
    for layer in (model.encoder[1], model.encoder[5], model.decoder[0]):
        bound = (6 / layer.in_features) ** 0.5  # of a uniform with the variance 2 / inputs
        assert 0.98 * bound < layer.weight.abs().max() <= bound


def test_orthogonal_rows_or_columns_have_the_gain_as_norm():
    model = build(Trial("", "", hidden_dim=64, init="orthogonal"))
    for layer in (*linears(model.encoder), *linears(model.decoder), model.mu_layer):
        gain = 1 if layer in (model.mu_layer, model.decoder[6]) else 2**0.5
        weight = layer.weight.detach()
        short = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(short @ short.T, gain**2 * torch.eye(len(short)), atol=1e-5, rtol=0)


def test_glorot_has_its_spread_in_every_layer():
    for layer in linears(build(Trial("", "", init="glorot"))):
        expected = (2 / (layer.in_features + layer.out_features)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()


def test_pytorchs_default_fills_its_bounds():
    for layer in linears(build(Trial("", "", init="pytorch"))):
        bound = layer.in_features ** -0.5
        for values in (layer.weight, layer.bias):
            assert 0.75 * bound < values.abs().max() <= bound


def test_zero_output_and_narrow_posterior_say_what_they_do():
    x = torch.rand(5, 1, 28, 28)
    x_hat, _, logvar = build(Trial("", "", hidden_dim=16, init="zero_output"))(x)
    assert torch.equal(x_hat, torch.full_like(x, 0.5)) and not logvar.any()
    _, _, logvar = build(Trial("", "", hidden_dim=16, init="narrow_posterior"))(x)
    assert torch.equal(logvar, torch.full_like(logvar, -2))


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="init: expected ours, .*glorot.*, found 'xavier'"):
        build(Trial("", "", hidden_dim=4, init="xavier"))


@pytest.mark.parametrize("module_gain", [4, 5])
def test_label_gains_scale_the_label_columns_alone(module_gain, monkeypatch):
    monkeypatch.setattr(vae, "ENCODER_LABEL_GAIN", module_gain)
    monkeypatch.setattr(vae, "DECODER_LABEL_GAIN", module_gain + 1)
    one, more = (build(Trial("", "", "CVAE", 32, label_gains=gains)) for gains in ((1, 1), (8, 3)))
    for layer, inputs, gain in (("encoder.1", 784, 8.0), ("decoder.0", 15, 3.0)):
        a, b = (model.get_submodule(layer).weight for model in (one, more))
        torch.testing.assert_close(b[:, inputs:].norm(dim=0) / a[:, inputs:].norm(dim=0), torch.full((10,), gain))
        assert torch.equal(a[:, :inputs], b[:, :inputs])
        assert a[:, inputs:].std().item() == pytest.approx(a[:, :inputs].std().item(), rel=0.15)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("trial", [
    Trial("", "", hidden_dim=16), Trial("", "", hidden_dim=16, precision="highest", seed=1),
    Trial("", "", "CVAE", 16, label_gains=GAINS)])
def test_a_trial_is_the_notebooks_loop_bit_for_bit(trial, loaders):
    row = train_trial(trial, loaders, 2, tested=True)
    torch.set_float32_matmul_precision(trial.precision)
    try:
        cond = trial.model == "CVAE"
        torch.manual_seed(trial.seed)
        model = getattr(vae, trial.model)(784, hidden_dim=16)
        entries = [train_vae(epoch, model, loaders.train, cond=cond, val_loader=loaders.val) for epoch in range(2)]
        test = evaluate_vae(model, loaders.test, cond)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert row["train_loss"] == round(entries[-1].loss, 6)
    assert row["val_losses"] == [round(entry.val_loss, 3) for entry in entries]
    assert row["test"] == {name: round(value, 6) for name, value in test._asdict().items()}
    assert row["test"]["loss"] == pytest.approx(row["test"]["reconstruction"] + row["test"]["kl"], abs=1e-4)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())


def test_only_where_asked_are_test_images_looked_at(loaders):
    assert train_trial(SMALL, loaders._replace(test=None), 1).keys() == choices.STUDY.measures


def test_latents_in_use_equals_torchs_kl(loaders):
    model = build(Trial("", "", hidden_dim=16))
    with torch.no_grad():
        model.mu_layer.weight[:6] *= 0.01  # six latents that say next to nothing
        mu, logvar = model.encode(loaders.val.dataset.images)
        kl = torch.distributions.kl_divergence(torch.distributions.Normal(mu, (logvar / 2).exp()),
                                               torch.distributions.Normal(0.0, 1.0)).mean(0)
    assert (kl_of_latents(model, loaders.val) > IN_USE).sum() == (kl > 0.01).sum()
    assert 0 < (kl > 0.01).sum() <= 9


def test_latents_in_use_of_a_cvae_see_the_labels(loaders):
    model = build(Trial("", "", "CVAE", 16, label_gains=(1, 1)))
    digits = loaders.val.dataset
    with torch.no_grad():
        mu, _ = model.encode(digits.images, nn.functional.one_hot(digits.labels, 10).float())
    expected = (mu.square().mean(0) / 2 > 0.01).sum()  # the KL where the log-variance is 0
    assert (kl_of_latents(model, loaders.val, cond=True) > IN_USE).sum() == expected > 0
    nn.init.zeros_(model.mu_layer.weight)
    assert (kl_of_latents(model, loaders.val, cond=True) > IN_USE).sum() == 0


def test_a_judge_says_how_often_a_cvae_draws_what_it_is_asked_for(loaders):
    judge = Judge()
    judge.accuracy = 0.75
    trial = Trial("", "", "CVAE", 8, label_gains=(1, 1))
    row = train_trial(trial, loaders, 1, judge=lambda: judge)
    assert 0 <= row["accuracy"] < 0.3 and row["judge's accuracy"] == 0.75
    never = partial(pytest.fail, "a VAE needs no judge")
    assert "accuracy" not in train_trial(SMALL, loaders, 1, judge=never)


def test_a_trial_prints_nothing_and_leaves_the_state_of_the_process(loaders, capsys):
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), torch.get_float32_matmul_precision()
    train_trial(SMALL, loaders, 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_float32_matmul_precision()) == before[1:]
    assert "Train Epoch" not in capsys.readouterr().out


def test_the_precision_is_set_and_put_back_after_an_error_too(loaders, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(f"at {torch.get_float32_matmul_precision()}")

    monkeypatch.setattr(choices, "train_vae", fail)
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(RuntimeError, match="at medium"):
        train_trial(SMALL, loaders, 1)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


# ---------------------------------------------------------------- the command


def test_the_command_trains_each_distinct_trial_once_and_prints_every_table(
        judge, tiny_mnist, tmp_path, monkeypatch, capsys):
    few = (SMALL, SMALL._replace(name="12", hidden_dim=12),
           SMALL._replace(group="precision", name="medium, seed 0"),
           SMALL._replace(group="precision", name="highest, seed 0", precision="highest"),
           Trial("label gain", "2", model="CVAE", hidden_dim=8, label_gains=(2, 2)))
    monkeypatch.setattr(choices, "TRIALS", few)
    monkeypatch.setenv("CSCM77_IMAGES", "256")  # set here, so that what main sets is put back too
    path = tmp_path / "few.json"
    failing = iter([None, FloatingPointError("epoch 0, step 7: the loss is nan"), None, None])

    def train_or_fail(*arguments, **options):
        error = next(failing)
        if error:
            raise error
        return train_vae(*arguments, **options)

    monkeypatch.setattr(choices, "train_vae", train_or_fail)
    arguments = ["--mnist", str(tiny_mnist), "--images", "256", "--output", str(path)]
    assert main([*arguments, "--epochs", "1"]) == 0
    results = read_study(path)["results"]
    assert list(results) == [training_name(trial) for trial in (*few[:2], *few[3:])]
    assert ["test" in row for row in results.values()] == [True, False, True, False]
    assert results["VAE hidden_dim=12"] == {"error": "epoch 0, step 7: the loss is nan"}
    printed = capsys.readouterr().out
    assert re.search(r"^1/4 hidden size: 8: validation loss \d+\.\d\d, 0\.\d min$", printed, re.M)
    assert "2/4 hidden size: 12: epoch 0, step 7: the loss is nan\n" in printed
    for group in ("hidden size", "precision", "label gain"):
        assert study_table(group, path) in printed
    assert study_table("label gain", path).endswith("75.00% of the test images right")
    assert main([*arguments, "--epochs", "1"]) == 0  # trains none: there is nothing left of `failing`


def test_the_command_line_s_own_settings_are_those_of_the_committed_study():
    study = choices.STUDY
    assert (study.command, study.epochs, study.batch_size) == (
        "python -m cscm77.studies.choices", 10, 128)
    assert study.path == TOP / "cscm77" / "studies" / "study.json"


# ---------------------------------------------------------------- tables


def row(val_loss, test=None):
    made = {"train_loss": 101.126, "val_losses": [150.0, val_loss], "latents_in_use": 14, "parameters": 1288414,
            "minutes": 0.64}
    return made if test is None else {**made, "test": {"loss": test, "reconstruction": test - 24, "kl": 24.0}}


def write_study(path, results):
    made_from = {"data": "MNIST", "training images": 55000, "epochs": 10}
    path.write_text(json.dumps({"provenance": made_from, "results": results}))
    return path


def test_a_table_of_validation_losses(tmp_path):
    path = write_study(tmp_path / "s.json", {
        "VAE hidden_dim=128": row(109.994), "VAE": row(102.306), "VAE hidden_dim=512": {"error": "nan at step 3"}})
    assert study_table("hidden size", path).splitlines() == [
        "MNIST, 55,000 training images, 10 epochs, seed 0; validation -ELBO in nats per image",
        "hidden size  validation  training  latents in use  parameters  minutes",
        "128              109.99    101.13              14   1,288,414      0.6",
        "256                   -         -               -           -        -",
        "400 (ours)       102.31    101.13              14   1,288,414      0.6",
        "512                   -         -               -           -        -",
        "256: not trained yet",
        "512: nan at step 3",
    ]


def test_the_table_of_precisions_sets_them_side_by_side(tmp_path):
    path = write_study(tmp_path / "s.json", {
        "VAE": row(0.0, 102.5), "VAE seed=1": row(0.0, 103.0), "VAE seed=2": row(0.0, 102.0),
        "VAE precision=highest": row(0.0, 102.25), "VAE precision=highest seed=1": row(0.0, 103.5),
        "VAE precision=highest seed=2": row(0.0, 101.0)})
    assert study_table("precision", path).splitlines() == [
        "MNIST, 55,000 training images, 10 epochs, seeds 0, 1, 2; test -ELBO in nats per image",
        "precision  medium  highest  difference",
        "seed 0     102.50   102.25       +0.25",
        "seed 1     103.00   103.50       -0.50",
        "seed 2     102.00   101.00       +1.00",
        "mean       102.50   102.25       +0.25",
    ]


def test_a_precision_with_a_seed_missing_has_no_mean(tmp_path):
    path = write_study(tmp_path / "s.json", {
        "VAE": row(0.0, 102.5), "VAE seed=1": row(0.0, 103.0), "VAE seed=2": row(0.0),
        "VAE precision=highest": row(0.0, 102.25), "VAE precision=highest seed=1": {"error": "nan"}})
    assert study_table("precision", path).splitlines()[2:] == [
        "seed 0     102.50   102.25       +0.25",
        "seed 1     103.00        -           -",
        "seed 2          -        -           -",
        "mean            -        -           -",
        "highest, seed 1: nan",
        "highest, seed 2: not trained yet",
    ]


def test_a_table_of_nothing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: expected .*found no file; python -m cscm77\.study makes"):
        study_table("precision", tmp_path / "none.json")
    path = write_study(tmp_path / "s.json", {})
    with pytest.raises(ValueError, match="group: expected one of initialisation, hidden size, latent size, "
                                         "learning rate, precision, label gain, found 'colour'"):
        study_table("colour", path)


# ---------------------------------------------------------------- the committed results


needs_results = pytest.mark.skipif(not choices.RESULTS.exists(), reason="no study of all of MNIST is committed yet")


@needs_results
def test_the_committed_study_holds_every_trial_of_all_of_mnist():
    made = read_study()
    expected = {"data": "MNIST", "training images": 55000, "validation images": 5000, "test images": 10000,
                "epochs": 10, "batch": 128}
    assert {field: made["provenance"][field] for field in expected} == expected
    assert set(made["results"]) == {training_name(trial) for trial in TRIALS}
    assert all(len(row.get("val_losses", [])) == 10 for row in made["results"].values() if "error" not in row)
    for trial in TRIALS:
        assert trial.group != choices.TESTED or "test" in made["results"][training_name(trial)], trial


@needs_results
def test_the_committed_study_agrees_with_the_committed_notebook():
    """Within the nat that another machine may make: a study of other code than the notebook's would be further off."""
    notebook = (TOP / "variational_autoencoders.ipynb").read_text(encoding="utf-8")
    losses = [float(loss) for loss in re.findall(r"Train Epoch: 9 \\tLoss: ([0-9.]+)", notebook)]
    assert len(losses) == 2  # the VAE's and the CVAE's
    results = read_study()["results"]
    assert results[f"CVAE label_gains={GAINS}"]["accuracy"] >= 0.97
    found = [results[key]["train_loss"] for key in ("VAE", f"CVAE label_gains={GAINS}")]
    assert found == pytest.approx(losses, abs=1)
