"""cscm77/studies/choices.py, trials.py: the trials against oracles, what an interruption leaves, what is refused, the tables."""

import inspect
import json
import os
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
from cscm77.studies import choices as study
from cscm77.studies import choices as trials
from cscm77.studies import results_file
from cscm77.studies.choices import TRIALS, Trial, build, key_of, main, read_study, study_table, train_trial
from cscm77_helper import evaluate_vae, train_vae

TOP = Path(__file__).resolve().parents[2]
FEW = (  # quick ones, in two tables that share their first row
    Trial("hidden size", "8", hidden_dim=8),
    Trial("hidden size", "12", hidden_dim=12),
    Trial("precision", "medium, seed 0", hidden_dim=8),
    Trial("precision", "highest, seed 0", hidden_dim=8, precision="highest"),
    Trial("label gain", "2", model="CVAE", hidden_dim=8, label_gains=(2, 2)),
)
GAINS = (vae.ENCODER_LABEL_GAIN, vae.DECODER_LABEL_GAIN)
DISTINCT = [key_of(trial) for trial in (*FEW[:2], *FEW[3:])]


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """The first 256 images of each split: two steps an epoch. Set here, so that what main sets is put back too."""
    monkeypatch.setenv("CSCM77_IMAGES", "256")


@pytest.fixture(autouse=True)
def untrained_judge(monkeypatch):
    """A judge that was never taught: how well it reads is the affair of tests/test_judge.py."""
    judge = Judge()
    judge.accuracy = 0.5
    monkeypatch.setattr(study, "judge_of", lambda *_: judge)


@pytest.fixture
def loaders(tiny_mnist):
    return mnist_loaders(root=tiny_mnist, source="mnist", device="cpu")


@pytest.fixture
def few(monkeypatch, tiny_mnist, tmp_path):
    """The command with few trials of one epoch on tiny data: give it options, get its status."""
    monkeypatch.setattr(study, "TRIALS", FEW)
    output = ["--mnist", str(tiny_mnist), "--images", "256", "--output", str(tmp_path / "few.json")]
    return lambda *options: main([*output, "--epochs", "1", *options])


@pytest.fixture
def trained(monkeypatch):
    """The keys of the trials that are trained from here on."""
    keys = []

    def train_and_note(trial, *arguments, **options):
        keys.append(key_of(trial))
        return train_trial(trial, *arguments, **options)

    monkeypatch.setattr(study, "train_trial", train_and_note)
    return keys


def stop_at(call, monkeypatch, error=KeyboardInterrupt):
    """Let the training of an epoch fail at its call-th time; gives the way back."""
    calls = []

    def train_or_stop(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise error
        return train_vae(*arguments, **options)

    monkeypatch.setattr(trials, "train_vae", train_or_stop)
    return lambda: monkeypatch.setattr(trials, "train_vae", train_vae)


def without_minutes(path):
    return re.sub(r'"minutes": [0-9.]+', "", path.read_text())


def linears(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def weights(trial):
    return build(trial).state_dict()


def changed_from_ours(init):
    first, second = weights(Trial("", "", hidden_dim=32)), weights(Trial("", "", hidden_dim=32, init=init))
    return {name for name in first if not torch.equal(first[name], second[name])}


# ---------------------------------------------------------------- the trials


def test_rows_called_ours_are_what_the_course_files_do():
    rows = [trial for trial in TRIALS if "(ours)" in trial.name]
    assert [trial.group for trial in rows] == ["initialisation", "hidden size", "label gain"]
    assert key_of(rows[0]) == key_of(rows[1]) == "VAE"
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
    assert key_of(Trial("a", "b")) == key_of(Trial("c", "d")) == "VAE"
    assert key_of(Trial("a", "b", "CVAE", 8, label_gains=(3, 1), seed=2)) == (
        "CVAE hidden_dim=8 label_gains=(3, 1) seed=2")
    assert len({key_of(trial) for trial in TRIALS}) == len({trial[2:] for trial in TRIALS}) == 29


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
    assert train_trial(FEW[0], loaders._replace(test=None), 1).keys() == trials.MEASURES


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
    assert "accuracy" not in train_trial(FEW[0], loaders, 1, judge=never)


def test_a_trial_prints_nothing_and_leaves_the_state_of_the_process(loaders, capsys):
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), torch.get_float32_matmul_precision()
    train_trial(FEW[0], loaders, 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.get_float32_matmul_precision()) == before[1:]
    assert "Train Epoch" not in capsys.readouterr().out


def test_the_precision_is_set_and_put_back_after_an_error_too(loaders, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(f"at {torch.get_float32_matmul_precision()}")

    monkeypatch.setattr(trials, "train_vae", fail)
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(RuntimeError, match="at medium"):
        train_trial(FEW[0], loaders, 1)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]


# ---------------------------------------------------------------- the command and its file


def test_the_command_trains_each_distinct_trial_once_and_prints_every_table(few, trained, tmp_path, capsys):
    assert few() == 0
    assert trained == DISTINCT
    made = read_study(tmp_path / "few.json")
    assert list(made["results"]) == DISTINCT
    assert ["test" in row for row in made["results"].values()] == [True, False, True, False]
    assert made["provenance"] == {
        "data": "MNIST", "training images": 256, "validation images": 256, "test images": 256, "epochs": 1,
        "batch": 128, "torch": torch.__version__, "processor": made["provenance"]["processor"], "threads": 1}
    printed = capsys.readouterr().out
    assert re.search(r"^2/4 hidden size: 12: validation loss \d+\.\d\d, 0\.\d min$", printed, flags=re.MULTILINE)
    for group in ("hidden size", "precision", "label gain"):
        assert study_table(group, tmp_path / "few.json") in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.json", "tiny"]


@pytest.mark.parametrize("call", [1, 2, 4])
def test_ctrl_c_keeps_what_is_finished_and_the_next_start_trains_the_rest(call, few, trained, tmp_path, monkeypatch,
                                                                         capsys):
    path = tmp_path / "few.json"
    assert few() == 0
    expected = without_minutes(path)
    path.unlink()
    trained.clear()

    let_go = stop_at(call, monkeypatch)
    assert few() == 130
    assert capsys.readouterr().err.strip() == (
        f"Stopped; what is finished is kept in {path}, and the same command goes on from there.")
    assert list(read_study(path)["results"]) == DISTINCT[:call - 1]
    assert torch.get_float32_matmul_precision() == "highest"
    let_go()
    trained.clear()
    assert few() == 0
    assert trained == DISTINCT[call - 1:]
    assert without_minutes(path) == expected
    trained.clear()
    assert few() == 0
    assert trained == []


def test_a_row_taken_out_is_trained_again_in_its_place_and_rows_of_other_trials_stay(few, trained, tmp_path):
    path = tmp_path / "few.json"
    assert few() == 0
    made = read_study(path)
    row = made["results"].pop(DISTINCT[1])
    made["results"] = {"VAE of old": row, **made["results"]}
    path.write_text(json.dumps(made))
    trained.clear()
    assert few() == 0
    assert trained == DISTINCT[1:2]
    assert list(read_study(path)["results"]) == [*DISTINCT, "VAE of old"]


def test_a_loss_that_is_not_finite_is_a_row_and_the_study_goes_on(few, tmp_path, monkeypatch, capsys):
    stop_at(2, monkeypatch, FloatingPointError("epoch 0, step 7: the loss is nan"))
    assert few() == 0
    results = read_study(tmp_path / "few.json")["results"]
    assert list(results) == DISTINCT
    assert results[DISTINCT[1]] == {"error": "epoch 0, step 7: the loss is nan"}
    table = study_table("hidden size", tmp_path / "few.json").splitlines()
    assert table[-1] == "12: epoch 0, step 7: the loss is nan"
    assert table[3].split() == ["12", *"-----"]
    assert "2/4 hidden size: 12: epoch 0, step 7: the loss is nan\n" in capsys.readouterr().out


@pytest.mark.parametrize("field, value", [
    ("data", "stand-in digits"), ("training images", 55000), ("validation images", 5000), ("test images", 10000),
    ("epochs", 10), ("batch", 64), ("torch", "1.0"), ("processor", "abacus"), ("threads", 64)])
def test_results_of_other_conditions_are_not_added_to(field, value, few, trained, tmp_path, capsys):
    path = tmp_path / "few.json"
    assert few() == 0
    made = read_study(path)
    found, made["provenance"][field] = made["provenance"][field], value
    path.write_text(json.dumps(made))
    before = path.read_bytes()
    trained.clear()
    assert few() == 1
    message = capsys.readouterr().err
    assert f"({field}: expected {value!r} as there, found {found!r}); --fresh begins anew" in message
    assert trained == [] and path.read_bytes() == before


def test_a_file_without_results_binds_nobody(few, tmp_path, trained):
    (tmp_path / "few.json").write_text(json.dumps(
        {"provenance": {"data": "MNIST", "training images": 9, "epochs": 10}, "results": {}}))
    assert few() == 0 and trained == DISTINCT


def test_fresh_begins_anew_and_keeps_the_old_file(few, trained, tmp_path):
    path = tmp_path / "few.json"
    assert few("--fresh") == 0  # with nothing there yet
    old = path.read_bytes()
    assert few("--epochs", "2") == 1
    trained.clear()
    assert few("--epochs", "2", "--fresh") == 0
    assert trained == DISTINCT
    assert (tmp_path / "few.json.old").read_bytes() == old
    assert read_study(path)["provenance"]["epochs"] == 2
    assert all(len(row["val_losses"]) == 2 for row in read_study(path)["results"].values())


@pytest.mark.parametrize("content", [
    b"", b'{"provenance": {', b"\xff\xfe\x00", b"[]", b"null", b"3", b'{"results": {}}',
    b'{"provenance": [], "results": {}}', b'{"provenance": {"data": "MNIST"}, "results": {}}',
    b'{"provenance": {"data": "MNIST", "training images": 5, "epochs": 1}, "results": []}',
    b'{"provenance": {"data": "MNIST", "training images": 5, "epochs": 1}, "results": {"VAE": ["error"]}}',
    b'{"provenance": {"data": "MNIST", "training images": 5, "epochs": 1}, "results": {"VAE": {"minutes": 1}}}'])
def test_a_damaged_file_is_named_and_left_alone(content, few, trained, tmp_path, capsys):
    path = tmp_path / "few.json"
    path.write_bytes(content)
    assert few() == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{path}: expected results of python -m cscm77.studies.choices, found another or a damaged file (")
    assert "--fresh" in message and "Traceback" not in message
    assert path.read_bytes() == content and trained == []
    assert few("--fresh") == 0


def test_a_place_that_cannot_be_written_is_named_before_anything_is_trained(few, trained, tmp_path, capsys):
    missing = tmp_path / "missing" / "few.json"
    assert few("--output", str(missing)) == 1
    assert capsys.readouterr().err.startswith(f"{missing}: cannot be written (No such file")
    assert few("--output", str(tmp_path)) == 1
    assert "Is a directory" in capsys.readouterr().err
    assert trained == [] and [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(few, tmp_path, monkeypatch, capsys):
    path, replace, calls = tmp_path / "few.json", os.replace, []

    def full_at_the_third(*names):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        replace(*names)

    monkeypatch.setattr(os, "replace", full_at_the_third)
    assert few() == 1
    assert capsys.readouterr().err == f"{path}: cannot be written (No space left on device)\n"
    assert list(read_study(path)["results"]) == DISTINCT[:1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.json", "tiny"]


@pytest.mark.parametrize("options, message", [
    (["--images", "127"], "--images: expected a whole number of at least 128, found 127"),
    (["--images", "many"], "argument --images: invalid int value: 'many'"),
    (["--epochs", "0"], "--epochs: expected a whole number of at least 1, found 0"),
    (["--fast"], "unrecognized arguments: --fast"),
])
def test_a_bad_command_line_is_named(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_options_left_out_mean_the_committed_study():
    options = results_file.parse(study.FILE, "", [], study.RESULTS, study.EPOCHS, study.BATCH_SIZE)
    assert (options.output, options.epochs, options.images) == (TOP / "cscm77" / "study.json", 10, None)


def test_mnist_that_is_missing_and_a_bad_setting_are_named_without_a_traceback(few, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("cscm77.data.mnist.mirrors", list)
    assert few("--mnist", str(tmp_path / "nowhere")) == 1
    assert "train-images-idx3-ubyte" in capsys.readouterr().err
    monkeypatch.setenv("CSCM77_SOURCE", "paper")
    assert main(["--output", str(tmp_path / "few.json")]) == 1
    assert capsys.readouterr().err == "CSCM77_SOURCE: expected one of auto, mnist, strokes, found 'paper'\n"


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


needs_results = pytest.mark.skipif(not study.RESULTS.exists(), reason="no study of all of MNIST is committed yet")


@needs_results
def test_the_committed_study_holds_every_trial_of_all_of_mnist():
    made = read_study()
    expected = {"data": "MNIST", "training images": 55000, "validation images": 5000, "test images": 10000,
                "epochs": 10, "batch": 128}
    assert {field: made["provenance"][field] for field in expected} == expected
    assert set(made["results"]) == {key_of(trial) for trial in TRIALS}
    assert all(len(row.get("val_losses", [])) == 10 for row in made["results"].values() if "error" not in row)
    for trial in TRIALS:
        assert trial.group != trials.TESTED or "test" in made["results"][key_of(trial)], trial


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
