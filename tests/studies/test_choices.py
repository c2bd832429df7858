"""cscm77/studies/choices.py: the trials against oracles, what a study keeps of them, the tables."""

# ruff: noqa: D103

import inspect
import json
import random
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import vae
from cscm77.measure.latents import kl_of_latents
from cscm77.studies import choices
from cscm77.studies.choices import STUDY, TRIALS, Trial, build, main, train_trial, training_name
from cscm77.studies.results_file import BATCH_SIZE, EPOCHS, ResultsError, read_results
from cscm77.utils import arithmetic
from cscm77_helper import averaged_vae, evaluate_vae, train_vae

TOP = Path(__file__).resolve().parents[2]
SMALL = Trial("hidden size", "8", hidden_dim=8)
GAINS = (vae.ENCODER_LABEL_GAIN, vae.DECODER_LABEL_GAIN)
VAE_TRIALS = [trial for trial in TRIALS if trial.model not in choices.GAN_TRIALS]


def linears(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def same_weights(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---------------------------------------------------------------- the trials


def test_rows_called_ours_are_what_the_course_files_do():
    rows = [trial for trial in TRIALS if "(ours)" in trial.name]
    of_group = {trial.group: trial for trial in reversed(rows)}  # of the first seed
    assert set(of_group) == {"initialisation", "hidden size", "label gain"}
    names = {training_name(of_group[group]) for group in ("initialisation", "hidden size")}
    assert names == {"VAE"}
    gain = of_group["label gain"]
    assert gain.label_gains == GAINS and gain.name.startswith("{}, {} ".format(*GAINS))
    defaults = inspect.signature(vae.VAE).parameters
    assert {trial.hidden_dim for trial in rows} == {defaults["hidden_dim"].default}
    assert {trial.latent_size for trial in rows} == {defaults["latent_size"].default} == {15}
    notebook = (TOP / "variational_autoencoders.ipynb").read_text(encoding="utf-8")
    assert "set_float32_matmul_precision('medium')" in notebook


def test_rows_have_names_of_their_own_and_known_settings():
    assert len({(trial.group, trial.name) for trial in TRIALS}) == len(TRIALS)
    for trial in VAE_TRIALS:
        assert (trial.label_gains is not None) == (trial.model == "CVAE")
        assert build(trial._replace(hidden_dim=4)).hidden_dim == 4


def test_a_training_s_name_has_what_differs_and_nothing_of_the_table():
    assert training_name(Trial("a", "b")) == training_name(Trial("c", "d")) == "VAE"
    assert training_name(Trial("a", "b", "CVAE", 8, label_gains=(3, 1), seed=2)) == (
        "CVAE hidden_dim=8 label_gains=(3, 1) seed=2")
    assert len({training_name(t) for t in TRIALS}) == len({t[2:] for t in TRIALS}) == 71


@pytest.mark.parametrize("make, gains", [(vae.VAE, None), (vae.CVAE, GAINS)])
def test_ours_is_the_model_that_the_notebook_builds(make, gains):
    torch.manual_seed(3)
    expected, state = make(784), torch.get_rng_state()
    assert same_weights(build(Trial("", "", make.__name__, label_gains=gains, seed=3)), expected)
    assert torch.equal(torch.get_rng_state(), state)  # so that the first batch is the same too


HIDDEN = {f"{network}.weight" for network in ("encoder.1", "encoder.3", "encoder.5",
                                              "decoder.0", "decoder.2", "decoder.4")}
HEADS = {"mu_layer.weight", "logvar_layer.weight"}
OUTPUT = "decoder.6.weight"
EVERY = set(vae.VAE(784, hidden_dim=4).state_dict())


@pytest.mark.parametrize("init, changed", [
    ("ours", set()), ("he_uniform", HIDDEN), ("orthogonal", {*HIDDEN, "mu_layer.weight", OUTPUT}),
    ("glorot", {*HIDDEN, *HEADS, OUTPUT}), ("pytorch", EVERY), ("zero_output", {OUTPUT}),
    ("narrow_posterior", {"logvar_layer.bias"})])
def test_an_initialisation_changes_what_it_names_and_no_random_number_after_it(init, changed):
    ours = build(Trial("", "", hidden_dim=32)).state_dict()
    expected = torch.rand(3)
    other = build(Trial("", "", hidden_dim=32, init=init)).state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert {name for name in ours if not torch.equal(ours[name], other[name])} == changed


@pytest.mark.parametrize("init, gain, least", [("he_uniform", 6, 0.98), ("pytorch", 1, 0.75)])
def test_a_uniform_initialisation_fills_its_bound(init, gain, least):
    model = build(Trial("", "", init=init))
    for layer in (model.encoder[1], model.encoder[5], model.decoder[0]):
        bound = (gain / layer.in_features) ** 0.5  # He's has the variance 2 / inputs
        assert least * bound < layer.weight.abs().max() <= bound


def test_orthogonal_rows_or_columns_have_the_gain_as_norm():
    model = build(Trial("", "", hidden_dim=64, init="orthogonal"))
    for layer in (*linears(model.encoder), *linears(model.decoder), model.mu_layer):
        gain = 1 if layer in (model.mu_layer, model.decoder[6]) else 2**0.5
        weight = layer.weight.detach()
        short = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(short @ short.T, gain**2 * torch.eye(len(short)),
                                   atol=1e-5, rtol=0)


def test_glorot_has_its_spread_in_every_layer():
    for layer in linears(build(Trial("", "", init="glorot"))):
        expected = (2 / (layer.in_features + layer.out_features)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert not layer.bias.any()


def test_zero_output_and_narrow_posterior_say_what_they_do():
    x = torch.rand(5, 1, 28, 28)
    x_hat, _, logvar = build(Trial("", "", hidden_dim=16, init="zero_output"))(x)
    assert torch.equal(x_hat, torch.full_like(x, 0.5)) and not logvar.any()
    _, _, logvar = build(Trial("", "", hidden_dim=16, init="narrow_posterior"))(x)
    assert torch.equal(logvar, torch.full_like(logvar, -2))


@pytest.mark.parametrize("module_gain", [4, 5])
def test_label_gains_scale_the_label_columns_alone(module_gain, monkeypatch):
    monkeypatch.setattr(vae, "ENCODER_LABEL_GAIN", module_gain)
    monkeypatch.setattr(vae, "DECODER_LABEL_GAIN", module_gain + 1)
    one, more = (build(Trial("", "", "CVAE", 32, label_gains=gains)) for gains in ((1, 1), (8, 3)))
    for layer, inputs, gain in (("encoder.1", 784, 8.0), ("decoder.0", 15, 3.0)):
        a, b = (model.get_submodule(layer).weight for model in (one, more))
        ratios = b[:, inputs:].norm(dim=0) / a[:, inputs:].norm(dim=0)
        torch.testing.assert_close(ratios, torch.full((10,), gain))
        assert torch.equal(a[:, :inputs], b[:, :inputs])
        assert a[:, inputs:].std().item() == pytest.approx(a[:, :inputs].std().item(), rel=0.15)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("trial", [
    Trial("", "", hidden_dim=16), Trial("", "", hidden_dim=16, precision="highest", seed=1),
    Trial("", "", "CVAE", 16, label_gains=GAINS)])
def test_a_trial_is_the_notebooks_loop_bit_for_bit(trial, few_images, judge):
    loaders, cond = few_images, trial.model == "CVAE"
    groups = {choices.TESTED, choices.AVERAGING}
    row = train_trial(trial, loaders, 2, (lambda: judge) if cond else pytest.fail, groups)
    with arithmetic(trial.precision):
        torch.manual_seed(trial.seed)
        model = getattr(vae, trial.model)(784, hidden_dim=16)
        epochs = [train_vae(epoch, model, loaders.train, cond=cond, val_loader=loaders.val)
                  for epoch in range(2)]
        test = evaluate_vae(model, loaders.test, cond)
        average = evaluate_vae(averaged_vae(model), loaders.val, cond)
        kl = kl_of_latents(model, loaders.val, cond)
    assert row["train_loss"] == round(epochs[-1].loss, 6)
    assert row["val_losses"] == [round(epoch.val_loss, 3) for epoch in epochs]
    assert row["test"] == {name: round(value, 6) for name, value in test._asdict().items()}
    parts = row["test"]["reconstruction"] + row["test"]["kl"]
    assert row["test"]["loss"] == pytest.approx(parts, abs=1e-4)
    assert row["averaged"] == round(average.loss, 3)
    assert row["averages"].keys() == choices.AVERAGES.keys()
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["latents_in_use"] == sum(nats > 0.01 for nats in kl.tolist())
    if cond:  # how often it draws what it is asked for
        assert [0 <= a < 0.3 for a in row["accuracy"]] == [True, True]
        assert row["judge's accuracy"] == 0.75
    assert ("accuracy" in row) == cond


@pytest.mark.parametrize("every, updates", [(1, 20), (8, 3)])
def test_an_average_beside_a_training_is_the_formula_in_float64(every, updates):
    model, expected = nn.Linear(3, 2), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with choices.averages_of(model, {"one": (0.8, every)}) as averages:
        for step in range(20):
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            weight, n = model.weight.detach().double(), step // every
            if step % every == 0:
                decay = min((1 + n) / (10 + n), 0.8 ** every) if n else 0
                expected = weight.lerp(expected, decay) if n else weight
    optimizer.step()  # not seen any more
    average = averages["one"]
    assert average.n_averaged == updates
    torch.testing.assert_close(average.module.weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_only_where_asked_are_test_images_looked_at(few_images):
    row = train_trial(SMALL, few_images._replace(test=None), 1, None)
    assert row.keys() == STUDY.measures("VAE")


@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_prints_nothing_and_leaves_the_process_as_it_was(fails, few_images, monkeypatch,
                                                                 capsys):
    def at(*arguments, **options):
        seen.append(torch.get_float32_matmul_precision())
        if fails:
            raise RuntimeError("on the way")
        return train_vae(*arguments, **options)

    seen = []
    monkeypatch.setattr(choices, "train_vae", at)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="on the way") if fails else nullcontext():
        train_trial(SMALL, few_images, 1, None)
    assert seen == ["medium"]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_float32_matmul_precision()) == before[1:]
    assert "Train Epoch" not in capsys.readouterr().out


# ---------------------------------------------------------------- the command


def test_the_command_trains_each_distinct_trial_once_and_prints_every_table(
        judge, few_images, tiny_mnist, tmp_path, monkeypatch, capsys):
    few = (SMALL, SMALL._replace(name="12", hidden_dim=12),
           SMALL._replace(group="precision", name="medium, seed 0"),
           SMALL._replace(group="precision", name="highest, seed 0", precision="highest"),
           Trial("label gain", "2", model="CVAE", hidden_dim=8, label_gains=(2, 2)))
    monkeypatch.setattr(choices, "TRIALS", few)
    monkeypatch.setattr(choices, "GROUPS", ["hidden size", "precision", "label gain"])
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
    results = read_results(STUDY, path)["results"]
    assert list(results) == [training_name(trial) for trial in (*few[:2], *few[3:])]
    assert ["test" in row for row in results.values()] == [True, False, True, False]
    assert results["VAE hidden_dim=12"] == {"error": "epoch 0, step 7: the loss is nan"}
    printed = capsys.readouterr().out
    losses = r"validation loss \d+\.\d\d, averaged \d+\.\d\d"
    assert re.search(rf"^1/4 hidden size: 8: {losses}$", printed, re.M)
    assert "2/4 hidden size: 12: epoch 0, step 7: the loss is nan\n" in printed
    for group in ("hidden size", "precision", "label gain"):
        assert choices.study_table(group, path) in printed
    assert choices.study_table("label gain", path).endswith("75.00% of the test images right")
    assert main([*arguments, "--epochs", "1"]) == 0  # trains none: `failing` is at its end


def test_the_command_line_s_own_settings_are_those_of_the_committed_study():
    assert (STUDY.command, EPOCHS, BATCH_SIZE) == ("python -m cscm77.studies.choices", 10, 128)
    assert STUDY.path == TOP / "cscm77" / "studies" / "study.json"


# ---------------------------------------------------------------- tables


MADE_FROM = {"data": "MNIST", "training images": 55000, "epochs": 10}


def row(val_loss, test=None, **more):
    made = {"train_loss": 101.126, "val_losses": [150.0, val_loss], "averaged": val_loss - 2,
            "latents_in_use": 14, "parameters": 1288414, **more}
    return made if test is None else {**made, "test": {"loss": test}}


def write_study(path, results):
    path.write_text(json.dumps({"provenance": MADE_FROM, "results": results}))
    return path


def test_a_table_of_validation_losses(tmp_path):
    path = write_study(tmp_path / "s.json", {
        "VAE hidden_dim=128": row(109.994), "VAE": row(102.306),
        "VAE hidden_dim=512": {"error": "nan at step 3"}})
    assert choices.study_table("hidden size", path).splitlines() == [
        "MNIST, 55,000 training images, 10 epochs, seed 0; validation -ELBO in nats per image",
        "hidden size  last weights  averaged  training  latents in use  parameters",
        "128                109.99    107.99    101.13            14.0   1,288,414",
        "256                     -         -         -               -           -",
        "400 (ours)         102.31    100.31    101.13            14.0   1,288,414",
        "512                     -         -         -               -           -",
        "800                     -         -         -               -           -",
        "256: not trained yet",
        "512: nan at step 3",
        "800: not trained yet",
    ]


def test_the_table_of_averages_has_a_column_a_model(tmp_path):
    averages = dict.fromkeys(choices.AVERAGES, 100.0) | {"0.995, every 8 steps": 99.5}
    path = write_study(tmp_path / "s.json", {"VAE": row(102.306, averages=averages)})
    lines = choices.study_table("averaging", path).splitlines()
    assert lines[1] == "averaging                VAE  CVAE"
    assert lines[2] == "last weights          102.31     -"
    assert lines[9] == "0.995, every 8 steps   99.50     -" and len(lines) == 12


def test_the_table_of_precisions_sets_them_below_each_other(tmp_path):
    path = write_study(tmp_path / "s.json", {
        "VAE": row(0.0, 102.5), "VAE seed=1": row(0.0, 103.0), "VAE seed=2": row(0.0, 102.0),
        "VAE precision=highest": row(0.0, 102.25),
        "VAE precision=highest seed=1": {"error": "nan"}})
    assert choices.study_table("precision", path).splitlines() == [
        "MNIST, 55,000 training images, 10 epochs, seeds 0, 1, 2 (mean and sd of several); "
        "in nats per image",
        "precision     test -ELBO",
        "medium     102.50 ± 0.50",
        "highest           102.25",
        "highest, seed 1: nan",
        "highest, seed 2: not trained yet",
    ]


def test_a_table_of_nothing_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m cscm77\.studies\.choices makes it"):
        choices.study_table("precision", tmp_path / "none.json")


@pytest.mark.parametrize("name, lost", [("VAE", "val_losses"), ("FC-GAN", "quality")])
def test_a_row_that_lost_a_measure_of_its_kind_is_refused_in_words(tmp_path, name, lost):
    whole = dict.fromkeys(STUDY.measures(name), 1.0)
    path = write_study(tmp_path / "s.json", {name: whole})
    assert read_results(STUDY, path)["results"] == {name: whole}
    write_study(path, {name: {key: whole[key] for key in whole if key != lost}})
    with pytest.raises(ResultsError, match="damaged file .entries are missing.; .* --fresh"):
        choices.study_table("hidden size", path)


def test_curves_are_those_of_what_is_trained(tmp_path):
    path = write_study(tmp_path / "s.json", {
        "VAE": row(102.0), "VAE hidden_dim=512": {"error": "nan"}})
    assert choices.study_curves("hidden size", path) == {"400 (ours)": [150.0, 102.0]}


# ---------------------------------------------------------------- the committed results


def test_the_committed_study_holds_every_trial_of_all_of_mnist():
    made = read_results(STUDY, STUDY.path)
    expected = {**MADE_FROM, "validation images": 5000, "test images": 10000, "batch": 128}
    assert {field: made["provenance"][field] for field in expected} == expected
    assert set(made["results"]) == {training_name(trial) for trial in TRIALS}
    for trial in TRIALS:
        result = made["results"][training_name(trial)]
        if trial in VAE_TRIALS:
            assert "error" in result or len(result["val_losses"]) == 10
        else:
            assert "error" in result or result["quality"].keys() == result["averaged"].keys()
        for group, key in ((choices.TESTED, "test"), (choices.AVERAGING, "averages")):
            assert trial.group != group or key in result, trial


def test_the_committed_study_agrees_with_the_committed_notebook():
    """Within the nat that another machine may make; other code would be further off."""
    notebook = (TOP / "variational_autoencoders.ipynb").read_text(encoding="utf-8")
    printed = re.findall(r"Train Epoch: 9 \\tLoss: ([0-9.]+)", notebook)
    losses = [float(loss) for loss in printed]
    assert len(losses) == 2  # the VAE's and the CVAE's
    results, cvae = read_results(STUDY, STUDY.path)["results"], f"CVAE label_gains={GAINS}"
    assert min(results[cvae]["accuracy"]) >= 0.97
    assert [results[name]["train_loss"] for name in ("VAE", cvae)] == pytest.approx(losses, abs=1)
