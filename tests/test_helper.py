"""cscm77_helper.py: the two training loops against the brief's own, step by step, and what they refuse."""

import gc
import inspect
import random
import subprocess
import sys
import weakref
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from tiny import blobs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cscm77_helper as helper
import gan
import vae
from cscm77.utils import progress_bar
from cscm77_helper import evaluate_vae, one_hot, run_a_gan, show_images, train_vae
from gan import discriminator, discriminator_loss, generator, generator_loss, get_optimizer
from vae import CVAE, VAE, loss_function

TOP = Path(__file__).resolve().parent.parent


def digits(n=512):
    images, labels = blobs(n, seed=3)
    return images.float().div(255).unsqueeze(1), labels


def loader(n=512, batch_size=64, **options):
    return DataLoader(TensorDataset(*digits(n)), batch_size, **options)


def weights_of(*models):
    return [p.detach().clone() for model in models for p in model.state_dict().values()]


def assert_same(first, second):
    assert len(first) == len(second)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------- small functions


def test_hello_prints_the_line_of_the_brief(capsys):
    helper.hello_helper()
    assert capsys.readouterr().out == "Hello from cscm77_helper.py!\n"


def test_import_changes_no_setting_and_loads_no_extra_library():
    code = ("import sys, torch, random; before = torch.get_rng_state(), random.getstate(), "
            "torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.get_default_dtype()\n"
            "import cscm77_helper, vae, gan, cscm77.report.pictures\n"
            "after = torch.get_rng_state(), random.getstate(), torch.get_float32_matmul_precision(), "
            "torch.get_num_threads(), torch.get_default_dtype()\n"
            "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]\n"
            "assert not {'torchmetrics', 'ipywidgets'} & set(sys.modules), 'loaded too much'")
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_one_hot_equals_a_loop():
    labels = torch.tensor([3, 0, 9, 3])
    rows = one_hot(labels, 10)
    assert rows.dtype == torch.float32 and rows.shape == (4, 10)
    for i, label in enumerate(labels.tolist()):
        assert rows[i].tolist() == [float(c == label) for c in range(10)]


@pytest.mark.parametrize("labels, message", [
    (torch.tensor([1, 12]), "expected 0 to 9, found 1 to 12"),
    (torch.tensor([-1, 2]), "expected 0 to 9, found -1 to 2"),
    (torch.tensor([1.0]), "integers.*found torch.float32"),
    (torch.tensor([], dtype=torch.int64), r"N >= 1.*\(0,\)"),
    (torch.tensor([[1]]), r"shape \(N,\).*\(1, 1\)"),
])
def test_one_hot_refuses_other_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        one_hot(labels, 10)


def test_count_params_counts_every_tensor():
    assert helper.count_params(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))) == 3 * 2 + 2 + 2 + 2


def test_initialize_weights_is_glorot_uniform_and_leaves_other_layers():
    model = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200), nn.Unflatten(1, (2, 10, 10)),
                          nn.ConvTranspose2d(2, 3, 4), nn.Conv2d(3, 4, 3))
    model.apply(helper.initialize_weights)
    bound = (6 / (300 + 200)) ** 0.5
    assert 0.98 * bound < model[0].weight.abs().max() <= bound
    assert model[3].weight.abs().max() <= (6 / ((2 + 3) * 16)) ** 0.5
    assert model[4].weight.abs().max() <= (6 / ((3 + 4) * 9)) ** 0.5
    assert torch.equal(model[1].weight, torch.ones(200))


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28), (5, 28, 28), (1, 784)])
def test_show_images_leaves_one_new_figure_current(shape, tmp_path):
    before = plt.get_fignums()
    assert show_images(torch.rand(shape, requires_grad=True)) is None
    assert len(plt.get_fignums()) == len(before) + 1
    plt.savefig(tmp_path / "picture.jpg")
    assert (tmp_path / "picture.jpg").stat().st_size > 1000
    assert len(plt.gcf().axes) == 1  # one image, not one axes a digit


# ---------------------------------------------------------------- VAE


def brief_vae_epochs(model, batches, epochs, cond=False):
    """The brief's loop with one Adam, written out: the oracle of train_vae."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        for x, y in batches:
            c = torch.zeros(len(y), 10)
            c[torch.arange(len(y)), y] = 1
            x_hat, mu, logvar = model(x, c) if cond else model(x)
            loss = loss_function(x_hat, x, mu, logvar)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("cond", [False, True])
def test_train_vae_takes_the_steps_of_the_brief(cond):
    ours, theirs = ((CVAE if cond else VAE)(784, hidden_dim=32) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    batches = list(loader())
    torch.manual_seed(5)
    for epoch in range(3):  # 24 steps
        train_vae(epoch, ours, batches, cond)
    torch.manual_seed(5)
    brief_vae_epochs(theirs, batches, 3, cond)
    assert_same(weights_of(ours), weights_of(theirs))


def test_train_vae_prints_the_line_of_the_brief_and_gives_a_curve(capsys):
    model, batches = VAE(784, hidden_dim=32), list(loader(512, 96))  # the last batch has 32 images
    results = [train_vae(epoch, model, batches, val_loader=batches) for epoch in range(4)]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Train Epoch: {e} \tLoss: {r.loss:.6f}" for e, r in enumerate(results)]
    assert results[-1].loss < results[0].loss and results[-1].val_loss < results[0].val_loss
    for r in results:
        assert r.loss == pytest.approx(r.reconstruction + r.kl, rel=1e-5)
    assert train_vae(4, model, batches).val_loss is None


def test_the_loss_of_an_epoch_is_the_mean_over_its_images():
    model, batches = VAE(784, hidden_dim=32), list(loader(512, 96))
    torch.manual_seed(2)
    result = train_vae(0, model, batches, learning_rate=1e-30)
    torch.manual_seed(2)
    expected = sum(loss_function(x_hat, x, mu, logvar).item() * len(x)
                   for x, _ in batches for x_hat, mu, logvar in [model(x)]) / 512
    assert result.loss == pytest.approx(expected, rel=1e-6)


def test_an_edited_loss_function_is_the_one_that_is_trained(monkeypatch, capsys):
    monkeypatch.setattr(helper, "loss_function", lambda x_hat, x, mu, logvar: 0 * mu.sum() + 7)
    result = train_vae(0, VAE(784, hidden_dim=8), list(loader(128)))
    assert result.loss == 7
    assert result.reconstruction > 100  # the parts stay what their names say


def test_one_adam_stays_with_a_model_for_all_its_epochs():
    model, batches = VAE(784, hidden_dim=16), list(loader(256))
    train_vae(0, model, batches)
    first = adam_of(model)
    train_vae(1, model, batches)
    assert adam_of(model) is first
    assert first.state[next(model.parameters())]["step"] == 8
    train_vae(0, model, batches)  # a new training
    assert adam_of(model).state[next(model.parameters())]["step"] == 4
    model.decoder[0] = nn.Linear(15, 16)
    train_vae(1, model, batches)
    assert adam_of(model).state[model.decoder[0].weight]["step"] == 4


def adam_of(model):
    return helper._runs[model].parts["Adam"]


def test_a_model_that_is_no_longer_used_is_freed():
    model = VAE(784, hidden_dim=16)
    train_vae(0, model, list(loader(128)))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_measuring_does_not_change_training():
    plain, measured = VAE(784, hidden_dim=16), VAE(784, hidden_dim=16)
    measured.load_state_dict(plain.state_dict())
    batches, random_state = list(loader(256)), random.getstate()
    for model, val_loader in ((plain, None), (measured, batches)):
        torch.manual_seed(0)
        for epoch in range(2):
            train_vae(epoch, model, batches, val_loader=val_loader)
    assert_same(weights_of(plain), weights_of(measured))
    assert random.getstate() == random_state


def test_evaluation_is_repeatable_and_leaves_mode_and_random_state():
    model, batches = VAE(784, hidden_dim=16).train(), list(loader(256, 100))
    before, state = weights_of(model), torch.get_rng_state()
    first, second = evaluate_vae(model, batches), evaluate_vae(model, batches)
    assert first == second and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(weights_of(model), before)
    assert first.loss == pytest.approx(first.reconstruction + first.kl, rel=1e-6)


def test_an_evaluation_that_fails_leaves_the_mode():
    model = VAE(784, hidden_dim=16).train()
    with pytest.raises(ValueError, match=r"found 0 to 1\.99"):
        evaluate_vae(model, [(2 * x, y) for x, y in loader(64)])
    assert model.training


def show_bars(monkeypatch):
    """Make standard output a terminal, and have bars drawn at every step, however fast the steps are."""
    def eager_bar(total, description, done=0):
        bar = progress_bar(total, description, done=done)
        bar.mininterval, bar.miniters, bar.dynamic_miniters = 0, 1, False
        return bar

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(helper, "progress_bar", eager_bar)


def test_train_vae_shows_a_bar_with_its_loss_in_a_terminal(capsys, monkeypatch):
    show_bars(monkeypatch)
    monkeypatch.setattr(helper, "READ_EVERY", 2)
    train_vae(3, VAE(784, hidden_dim=8), list(loader(512, 8)))  # 64 steps
    said = capsys.readouterr().out
    assert "Epoch 3" in said and "/64 [" in said and "loss=" in said
    assert said.splitlines()[-1].rpartition("\r")[2].startswith("Train Epoch: 3 \tLoss: ")


def test_a_stock_loader_over_shuffled_images_trains_too():
    result = train_vae(0, VAE(784, hidden_dim=16), loader(256, shuffle=True, drop_last=True))
    assert result.loss > 0


@pytest.mark.parametrize("first_nan", [0, 3, 7])
def test_a_loss_that_becomes_nan_stops_with_epoch_and_step(monkeypatch, first_nan):
    calls = []

    def sometimes_nan(*arguments):
        calls.append(1)
        return loss_function(*arguments) * (torch.nan if len(calls) == first_nan + 1 else 1)

    monkeypatch.setattr(helper, "loss_function", sometimes_nan)
    with pytest.raises(FloatingPointError, match=f"epoch 2, step {first_nan}:.*found .nan"):
        train_vae(2, VAE(784, hidden_dim=8), list(loader()))


def test_weights_that_explode_stop_the_training_with_epoch_and_step():
    with pytest.raises(FloatingPointError, match=r"epoch 0, step 1: .*found nan"):
        train_vae(0, VAE(784, hidden_dim=8), list(loader()), learning_rate=1e30)


def test_the_parts_of_the_loss_are_those_of_vae_py():
    model, x = VAE(784, hidden_dim=8), next(iter(loader(128)))[0]
    x[0], x[1] = 0, 1
    with torch.no_grad():
        model.decoder[-3].bias[:9], model.decoder[-3].bias[9:20] = 1e4, -1e4  # pixels of exactly 1 and 0
    torch.manual_seed(4)
    _, *parts = helper.negative_elbo(model, x)
    torch.manual_seed(4)
    x_hat, mu, logvar = model(x)
    assert parts[0].item() == pytest.approx(vae.reconstruction(x_hat, x).item(), rel=1e-6)
    assert parts[1].item() == pytest.approx(vae.kl_divergence(mu, logvar).item(), rel=1e-6)


def test_the_learning_rate_is_that_of_adam_and_stays():
    model, batches = VAE(784, hidden_dim=8), list(loader(128))
    train_vae(0, model, batches, learning_rate=0.01)
    assert adam_of(model).defaults["lr"] == 0.01
    with pytest.raises(ValueError, match="learning_rate: expected 0.01, as in the epochs before, found 0.001"):
        train_vae(1, model, batches)
    train_vae(0, model, batches)
    assert adam_of(model).defaults["lr"] == 0.001


def bad_batches(change):
    return [(x, y) if i < 2 else change(x, y) for i, (x, y) in enumerate(loader(256))]


BAD_TRAINING = {
    "a learning rate of 0": (lambda: train_vae(0, VAE(784), loader(), learning_rate=0), "learning_rate: .*found 0"),
    "an infinite learning rate": (lambda: train_vae(0, VAE(784), loader(), learning_rate=float("inf")),
                                  "learning_rate: expected a positive number, found inf"),
    "a negative epoch": (lambda: train_vae(-1, VAE(784), loader()), "epoch: expected a whole number.*found -1"),
    "half an epoch": (lambda: train_vae(0.5, VAE(784), loader()), "epoch.*found 0.5"),
    "no batches": (lambda: train_vae(0, VAE(784), []), "at least one batch, found none"),
    "no batches to validate on": (
        lambda: train_vae(0, VAE(784), loader(), val_loader=[]), "val_loader: expected at least one batch"),
    "a label for a VAE": (lambda: train_vae(0, VAE(784), loader(), cond=True), "cond: .*found True for VAE"),
    "no label for a CVAE": (lambda: train_vae(0, CVAE(784), loader()), "cond: .*found False for CVAE"),
    "no label for a CVAE to evaluate": (lambda: evaluate_vae(CVAE(784), loader()), "cond: .*found False for CVAE"),
    "no batches to evaluate": (lambda: evaluate_vae(VAE(784), []), "at least one batch, found none"),
    "images in bytes": (lambda: train_vae(0, VAE(784), [((255 * x).byte(), y) for x, y in loader()]), "torch.uint8"),
    "images up to 255": (lambda: train_vae(0, VAE(784), [(255 * x, y) for x, y in loader()]), r"found 0 to 2"),
    "images from -1": (lambda: train_vae(0, VAE(784), [(2 * x - 1, y) for x, y in loader()]), r"\[0, 1\], found -1 to"),
    "an image of nan": (lambda: train_vae(0, VAE(784), [(x * torch.nan, y) for x, y in loader()]), r"found nan"),
    "images of another size": (
        lambda: train_vae(0, VAE(784, hidden_dim=8), bad_batches(lambda x, y: (x[..., :20], y))),
        r"epoch 0, step 2: images.*784 pixels.*found \(64, 1, 28, 20\)"),
    "an empty batch": (
        lambda: train_vae(0, VAE(784), [(torch.zeros(0, 1, 28, 28), torch.zeros(0))]), "at least one image"),
    "a label 12": (
        lambda: train_vae(0, CVAE(784, hidden_dim=8), bad_batches(lambda x, y: (x, y + 3)), cond=True),
        "epoch 0, step 2: labels: expected 0 to 9, found 3 to 12"),
    "labels that are not whole": (
        lambda: train_vae(0, CVAE(784, hidden_dim=8), [(x, y.float()) for x, y in loader()], cond=True),
        "step 0: labels: expected integers"),
}


@pytest.mark.parametrize("call, message", BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_bad_input_of_a_vae_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- GAN


def pair(kind="fc"):
    if kind == "fc":
        return discriminator(), generator()
    return gan.build_dc_classifier(), gan.build_dc_generator()


def brief_gan(D, G, D_solver, G_solver, batches, epochs, losses):
    """The brief's loop, written out: the oracle of run_a_gan."""
    d_loss, g_loss = losses
    for _ in range(epochs):
        for x, _ in batches:
            D_solver.zero_grad()
            real_data = x.view(-1, 784)
            logits_real = D(2 * (real_data - 0.5))
            fake_images = G(gan.sample_noise(len(x), 96)).detach()
            d_loss(logits_real, D(fake_images)).backward()
            D_solver.step()
            G_solver.zero_grad()
            g_loss(D(G(gan.sample_noise(len(x), 96)))).backward()
            G_solver.step()


CROSS_ENTROPY, LEAST_SQUARES = (discriminator_loss, generator_loss), (gan.ls_discriminator_loss, gan.ls_generator_loss)


@pytest.mark.parametrize("kind, losses", [("fc", CROSS_ENTROPY), ("fc", LEAST_SQUARES), ("dc", CROSS_ENTROPY)],
                         ids=["FC", "LS", "DC"])
def test_run_a_gan_takes_20_steps_of_the_brief(kind, losses, tmp_path):
    batches = list(loader(320, 32))  # 10 a pass
    trained = []
    for run in ("ours", "brief's"):
        torch.manual_seed(0)
        D, G = pair(kind)
        solvers = get_optimizer(D), get_optimizer(G)
        torch.manual_seed(1)
        if run == "ours":
            run_a_gan(D, G, *solvers, *losses, tmp_path / "p.png", batch_size=32, num_epochs=2, loader_train=batches)
        else:
            brief_gan(D, G, *solvers, batches, 2, losses)
        trained.append(weights_of(D, G))
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_d_step_moves_d_alone_and_a_g_step_g_alone():
    D, G = pair()
    solvers = get_optimizer(D), get_optimizer(G)
    real, noise = torch.rand(8, 784) * 2 - 1, gan.sample_noise(8, 96)
    before_d, before_g = weights_of(D), weights_of(G)
    helper.discriminator_step(D, G, solvers[0], discriminator_loss, real, noise)
    assert all(not torch.equal(a, b) for a, b in zip(before_d, weights_of(D), strict=True))
    assert_same(before_g, weights_of(G))
    assert all(p.grad is None for p in G.parameters())

    before_d = weights_of(D)
    D.zero_grad()
    helper.generator_step(D, G, solvers[1], generator_loss, noise)
    assert all(not torch.equal(a, b) for a, b in zip(before_g, weights_of(G), strict=True))
    assert_same(before_d, weights_of(D))
    assert all(p.grad is None and p.requires_grad for p in D.parameters())


def test_weights_that_the_user_froze_stay_frozen():
    D, G = pair()
    D[0].weight.requires_grad_(False)
    helper.generator_step(D, G, get_optimizer(G), generator_loss, gan.sample_noise(4, 96))
    assert [p.requires_grad for p in D.parameters()] == [False] + [True] * 5


def test_both_steps_have_the_same_form():
    steps = helper.discriminator_step, helper.generator_step
    signatures = [list(inspect.signature(step).parameters) for step in steps]
    assert signatures[0][:2] == signatures[1][:2] == ["D", "G"] and signatures[0][-1] == signatures[1][-1] == "noise"


def small_run(tmp_path, **options):
    D, G = pair()
    settings = {"batch_size": 64, "num_epochs": 1, "loader_train": loader(), "save_filename": tmp_path / "fc.jpg",
                "D_solver": get_optimizer(D), "G_solver": get_optimizer(G), **options}
    return run_a_gan(D, G, discriminator_loss=discriminator_loss, generator_loss=generator_loss, **settings)


def test_run_a_gan_has_the_arguments_of_the_brief_in_their_order():
    parameters = inspect.signature(run_a_gan).parameters
    assert list(parameters)[:11] == ["D", "G", "D_solver", "G_solver", "discriminator_loss", "generator_loss",
                                     "save_filename", "show_every", "batch_size", "noise_size", "num_epochs"]
    assert [p.default for p in parameters.values()][7:11] == [250, 128, 96, 10]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[11:])
    assert list(inspect.signature(train_vae).parameters)[:4] == ["epoch", "model", "train_loader", "cond"]


def test_run_a_gan_prints_shows_saves_and_remembers(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(helper, "show_and_close", lambda fig: (drawn.append(fig), plt.close(fig)))
    history = small_run(tmp_path / "new" / "folder", num_epochs=2, show_every=6)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [f"Iter: {i}, D: {history.d_loss[i]:.4}, G:{history.g_loss[i]:.4}" for i in (0, 6, 12)]
    assert len(history.d_loss) == len(history.g_loss) == 16
    assert len(drawn) == 3 and (tmp_path / "new" / "folder" / "fc.jpg").is_file()
    assert len(plt.get_fignums()) == 1  # the last picture, left current


def test_run_a_gan_shows_a_bar_with_its_losses_in_a_terminal(tmp_path, capsys, monkeypatch):
    show_bars(monkeypatch)
    small_run(tmp_path, num_epochs=3)
    said = capsys.readouterr().out
    assert "/24 [" in said and "D=" in said and "G=" in said


def test_the_saved_picture_names_the_data(tmp_path, tiny_mnist, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", str(tiny_mnist))
    small_run(tmp_path, loader_train=None)
    assert plt.gcf().axes[0].get_title() == "MNIST, 1,000 images, 1 epochs"


def test_a_stock_loader_and_partial_batches(tmp_path):
    history = small_run(tmp_path, loader_train=loader(200, 64, shuffle=True))  # 64, 64, 64 and 8 images
    assert len(history.d_loss) == 3


def test_without_a_loader_mnist_is_used(tmp_path, tiny_mnist, monkeypatch, capsys):
    monkeypatch.setenv("MNIST_DIR", str(tiny_mnist))
    history = small_run(tmp_path, loader_train=None)
    assert len(history.d_loss) == (6000 - 5000) // 64
    assert "1,000 training" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["taken/fc.jpg", "fc.nosuchformat"])
def test_a_picture_that_cannot_be_saved_loses_nothing(tmp_path, capsys, name):
    (tmp_path / "taken").write_text("a file where the folder should be")
    history = small_run(tmp_path, save_filename=tmp_path / name)
    assert len(history.d_loss) == 8
    assert "was not saved" in capsys.readouterr().out
    assert len(plt.get_fignums()) == 1  # it is shown nevertheless


def test_a_save_filename_that_is_none_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(helper, "discriminator_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(TypeError):
        small_run(tmp_path, save_filename=None)


def test_no_epochs_train_nothing(tmp_path):
    history = small_run(tmp_path, num_epochs=0)
    assert (history.d_loss, history.g_loss) == ([], [])
    assert not (tmp_path / "fc.jpg").exists()


def test_a_gan_loss_that_becomes_nan_stops_with_epoch_and_step(tmp_path):
    D, G = pair()
    with torch.no_grad():
        D[0].weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="epoch 0, step 0:.*nan"):
        run_a_gan(D, G, get_optimizer(D), get_optimizer(G), discriminator_loss, generator_loss, tmp_path / "x.jpg",
                  batch_size=64, loader_train=loader())


def test_a_nan_between_two_readings_is_found_at_its_step(tmp_path):
    calls = []

    def sometimes_nan(scores):
        calls.append(1)
        return generator_loss(scores) * (torch.nan if len(calls) == 14 else 1)

    D, G = pair()
    with pytest.raises(FloatingPointError, match="epoch 1, step 13:.*nan"):
        run_a_gan(D, G, get_optimizer(D), get_optimizer(G), discriminator_loss, sometimes_nan, tmp_path / "x.jpg",
                  batch_size=64, num_epochs=2, loader_train=loader())


BAD_GANS = {
    "negative epochs": ({"num_epochs": -1}, "num_epochs.*at least 0, found -1"),
    "batches all too small": ({"batch_size": 128}, "128 images, found none, the largest batch of the loader has 64"),
    "an empty loader": ({"loader_train": []}, "found none, the largest batch of the loader has 0"),
    "no batch": ({"batch_size": 0}, "batch_size.*at least 1, found 0"),
    "no samples ever": ({"show_every": 0}, "show_every.*at least 1, found 0"),
    "noise of another width": ({"noise_size": 10}, r"noise.*\(N, 96\).*found \(64, 10\)"),
    "images in bytes": ({"loader_train": [((255 * x).byte(), y) for x, y in loader()]}, "torch.uint8"),
    "images from -1": ({"loader_train": [(2 * x - 1, y) for x, y in loader()]}, r"\[0, 1\], found -1 to"),
    "images of another size": ({"loader_train": [(x[..., :20], y) for x, y in loader()]}, r"\(N, 784\).*\(64, 560\)"),
    "an optimizer of another network": ({"D_solver": get_optimizer(discriminator())}, "D_solver.*D's parameters"),
}


@pytest.mark.parametrize("options, message", BAD_GANS.values(), ids=BAD_GANS)
def test_bad_input_of_a_gan_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small_run(tmp_path, **options)
