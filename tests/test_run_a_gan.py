"""run_a_gan against the brief's own loop, from its first printed line on, and what it refuses."""

import inspect

import matplotlib.pyplot as plt
import pytest
import torch
from kills import batches, digest_of, digits, shuffled, train_gan
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

import cscm77_helper as helper
import gan
from cscm77.data.loaders import mnist_loaders
from cscm77.utils import reset_seed
from cscm77_helper import initialize_weights, run_a_gan, train_vae
from gan import discriminator, discriminator_loss, generator, generator_loss, get_optimizer

sample_noise = gan.sample_noise
CROSS_ENTROPY = discriminator_loss, generator_loss
LEAST_SQUARES = gan.ls_discriminator_loss, gan.ls_generator_loss
DC = gan.build_dc_classifier, gan.build_dc_generator


def brief_gan(D, G, D_solver, G_solver, batches, epochs, losses):
    """The brief's loop, written out: the oracle of run_a_gan. Returns the losses of the steps."""
    (d_loss, g_loss), lines = losses, []
    for _ in range(epochs):
        for x, _ in batches:
            D_solver.zero_grad()
            real_data = x.view(-1, 784)
            logits_real = D(2 * (real_data - 0.5))
            fake_images = G(sample_noise(len(x), 96, x.dtype)).detach()
            d_error = d_loss(logits_real, D(fake_images))
            d_error.backward()
            D_solver.step()
            G_solver.zero_grad()
            g_error = g_loss(D(G(sample_noise(len(x), 96, x.dtype))))
            g_error.backward()
            G_solver.step()
            lines.append((d_error.item(), g_error.item()))
    return lines


@pytest.mark.parametrize("losses", [CROSS_ENTROPY, LEAST_SQUARES], ids=["FC", "LS"])
def test_run_a_gan_takes_20_steps_of_the_brief(losses, tmp_path):
    data, trained = list(batches(320, 32)), []  # 10 a pass
    for train in (lambda *gan: run_a_gan(*gan, *losses, tmp_path / "p.png", batch_size=32,
                                         num_epochs=2, loader_train=data),
                  lambda *gan: brief_gan(*gan, data, 2, losses)):
        torch.manual_seed(0)
        D, G = discriminator(), generator()
        train(D, G, get_optimizer(D), get_optimizer(G))
        trained.append([*D.parameters(), *G.parameters()])
    torch.testing.assert_close(*trained, rtol=0, atol=1e-5)


def drawn_again(*layers):
    for m in layers:
        if isinstance(m, (nn.Linear, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(m.weight.data)
    return nn.Sequential(*layers)


def plain_dc_networks():
    """The brief's DC networks, layer by layer, in the ordinary memory format."""
    D = drawn_again(
        nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 32, 5), nn.LeakyReLU(0.01), nn.MaxPool2d(2, 2),
        nn.Conv2d(32, 64, 5), nn.LeakyReLU(0.01), nn.MaxPool2d(2, 2), nn.Flatten(),
        nn.Linear(1024, 1024), nn.LeakyReLU(0.01), nn.Linear(1024, 1))
    G = drawn_again(
        nn.Linear(96, 1024), nn.ReLU(), nn.BatchNorm1d(1024), nn.Linear(1024, 6272), nn.ReLU(),
        nn.BatchNorm1d(6272), nn.Unflatten(1, (128, 7, 7)),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), nn.ReLU(), nn.BatchNorm2d(64),
        nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1), nn.Tanh(), nn.Flatten())
    return D, G


def our_dc_networks():
    return tuple(build().apply(initialize_weights) for build in DC)


def test_a_dc_gan_begins_and_goes_on_as_the_brief_s_loop_does(tmp_path, capsys):
    """In float64: in float32, Adam's first steps make much of the last digit."""
    data = list(batches(48, change=lambda x, y: (x.double(), y)))
    reset_seed(0)
    D, G = (network.double() for network in our_dc_networks())
    train_gan(D, G, save_filename=tmp_path / "p.png", loader_train=data)
    reset_seed(0)
    networks = [network.double() for network in plain_dc_networks()]
    solvers = [torch.optim.Adam(n.parameters(), lr=1e-3, betas=(0.5, 0.999)) for n in networks]
    (d_first, g_first), *_ = brief_gan(*networks, *solvers, data, 1, CROSS_ENTROPY)
    assert f"Iter: 0, D: {d_first:.4}, G:{g_first:.4}\n" in capsys.readouterr().out
    for ours, theirs in zip((D, G), networks, strict=True):
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=0,
                                   atol=1e-7)
    convolution = D[4].weight
    assert not convolution.is_contiguous()  # the speed stays
    assert convolution.is_contiguous(memory_format=torch.channels_last)


class FirstBatch:
    """A loader's first batch alone."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        yield next(iter(self.loader))


@pytest.mark.parametrize("make, losses, line", [
    (lambda: (discriminator(), generator()), CROSS_ENTROPY, "Iter: 0, D: 1.37, G:0.6857"),
    (lambda: (discriminator(), generator()), LEAST_SQUARES, "Iter: 0, D: 0.4407, G:0.4583"),
    (our_dc_networks, CROSS_ENTROPY, "Iter: 0, D: 1.342, G:2.158"),
], ids=["FC", "LS", "DC"])
def test_the_first_line_on_all_of_mnist_is_that_of_the_brief(make, losses, line, real_mnist,
                                                             tmp_path, capsys):
    train = mnist_loaders(128, num_val=0, root=real_mnist).train
    reset_seed(0)
    D, G = make()
    run_a_gan(D, G, get_optimizer(D), get_optimizer(G), *losses, tmp_path / "p.png", num_epochs=1,
              loader_train=FirstBatch(train))
    assert line in capsys.readouterr().out.splitlines()


# ---------------------------------------------------------------- the two steps


def states_of(*networks):
    return [digest_of(network.state_dict()) for network in networks]


def test_a_d_step_moves_d_alone_and_a_g_step_g_alone():
    D, G = discriminator(), generator()
    D[0].bias.requires_grad_(False)  # what the user froze stays frozen
    real, noise = torch.rand(8, 784) * 2 - 1, sample_noise(8, 96)
    d_0, g_0 = states_of(D, G)
    helper.discriminator_step(D, G, get_optimizer(D), discriminator_loss, real, noise)
    d_1, g_1 = states_of(D, G)
    assert d_1 != d_0 and g_1 == g_0 and all(p.grad is None for p in G.parameters())
    D.zero_grad()
    helper.generator_step(D, G, get_optimizer(G), generator_loss, noise)
    d_2, g_2 = states_of(D, G)
    assert d_2 == d_1 and g_2 != g_1 and all(p.grad is None for p in D.parameters())
    assert [p.requires_grad for p in D.parameters()] == [True, False] + [True] * 4


def test_both_steps_have_the_same_form():
    steps = helper.discriminator_step, helper.generator_step
    (d_first, *_, d_last), (g_first, *_, g_last) = (inspect.signature(s).parameters for s in steps)
    assert d_first == g_first == "D" and d_last == g_last == "noise"


# ---------------------------------------------------------------- what it prints, shows and saves


def small_run(tmp_path, D=None, G=None, **options):
    D, G = D or discriminator(), G or generator()
    return train_gan(D, G, **{"batch_size": 64, "loader_train": batches(256, 64),
                              "save_filename": tmp_path / "fc.jpg", **options})


def test_run_a_gan_has_the_arguments_of_the_brief_in_their_order():
    parameters = inspect.signature(run_a_gan).parameters
    assert list(parameters)[:11] == [
        "D", "G", "D_solver", "G_solver", "discriminator_loss", "generator_loss", "save_filename",
        "show_every", "batch_size", "noise_size", "num_epochs"]
    assert [p.default for p in parameters.values()][7:11] == [250, 128, 96, 10]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[11:])
    assert list(inspect.signature(train_vae).parameters)[:4] == ["epoch", "model", "train_loader",
                                                                 "cond"]


def test_run_a_gan_prints_shows_saves_and_remembers(tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(helper.GrowingRows, "add", lambda rows, images: shown.append(images.shape))
    history = small_run(tmp_path / "new" / "folder", num_epochs=2, show_every=3)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [f"Iter: {i}, D: {history.d_loss[i]:.4}, G:{history.g_loss[i]:.4}"
                     for i in (0, 3, 6)]
    assert len(history.d_loss) == len(history.g_loss) == 8
    assert shown == [(16, 784)] * 3 and (tmp_path / "new" / "folder" / "fc.jpg").is_file()
    assert len(plt.get_fignums()) == 1  # the last picture, left current


def test_the_title_names_the_data_and_the_epochs_that_g_has_had(tmp_path, tiny_mnist, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", str(tiny_mnist))
    for asked, had in ((1, 1), (3, 3), (2, 3), (0, 3)):  # 15 steps of 64 images each
        history = small_run(tmp_path, num_epochs=asked, loader_train=None,
                            checkpoint=tmp_path / "run.pt")
        title = " ".join(plt.gcf().axes[0].get_title().split())  # in as many lines as it needs
        assert title == f"MNIST, 1,000 images, {had} epochs"
        assert len(history.d_loss) == 15 * had


@pytest.mark.parametrize("name", ["taken/fc.jpg", "fc.nosuchformat"])
def test_a_picture_that_cannot_be_saved_loses_nothing(tmp_path, capsys, name):
    (tmp_path / "taken").write_text("a file where the folder should be")
    assert len(small_run(tmp_path, save_filename=tmp_path / name).d_loss) == 4
    assert "was not saved" in capsys.readouterr().out
    assert len(plt.get_fignums()) == 1  # it is shown nevertheless


def test_no_epochs_train_nothing(tmp_path):
    assert small_run(tmp_path, num_epochs=0)[:2] == ([], [])
    assert not (tmp_path / "fc.jpg").exists()


def test_of_a_pass_only_a_last_shorter_batch_is_left_out(tmp_path):
    assert len(small_run(tmp_path, loader_train=batches(200, 64)).d_loss) == 3  # 64, 64, 64 and 8


# ---------------------------------------------------------------- networks and numbers of users


def normalised(how):
    """Small networks with spectral normalisation; both have been called, as in a notebook."""
    D = nn.Sequential(how(nn.Linear(784, 8)), nn.LeakyReLU(), nn.Linear(8, 1))
    G = nn.Sequential(nn.Linear(96, 8), nn.ReLU(), how(nn.Linear(8, 784)), nn.Tanh())
    D(G(sample_noise(2, 96)))
    return D, G


@pytest.mark.parametrize("how", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_spectral_norm_trains_is_averaged_and_resumes(how, tmp_path):
    ends = []
    for name, number in (("whole", 2), ("run", 1), ("run", 2)):
        torch.manual_seed(0)
        D, G = normalised(how)
        history = small_run(tmp_path, D, G, num_epochs=number, loader_train=list(batches(256, 64)),
                            checkpoint=tmp_path / f"{name}.pt", score=lambda G: 1.0)
        ends.append(digest_of([D.state_dict(), G.state_dict(), history.d_loss,
                               history.G_average.state_dict()]))
    assert ends[0] == ends[2] != ends[1]
    noise = sample_noise(4, 96)
    average = history.G_average(noise)
    assert average.shape == (4, 784) and (average - G.eval()(noise)).abs().max() > 0
    G.load_state_dict(history.G_best)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # going, but still in use
def test_a_scripted_generator_trains_and_resumes(tmp_path):
    for number in (1, 2):
        history = small_run(tmp_path, G=torch.jit.script(generator()), num_epochs=number,
                            checkpoint=tmp_path / "run.pt")
    assert len(history.d_loss) == 8 and history.G_average(sample_noise(2, 96)).shape == (2, 784)


# ---------------------------------------------------------------- refused


BAD_GANS = {
    "negative epochs": ({"num_epochs": -1}, "num_epochs.*at least 0, found -1"),
    "True for a number": ({"num_epochs": True}, "num_epochs.*found True"),
    "larger batches": ({"batch_size": 32}, "batch_size: .*of 32 images.*found one of 64"),
    "smaller batches": ({"batch_size": 128}, "batch_size: .*of 128 images.*found one of 64"),
    "what is left over": ({"batch_size": 28, "loader_train": batches(228, 100)},
                          "batch_size: .*of 28 images.*found one of 100"),
    "an empty loader": ({"loader_train": []}, "loader_train: expected at least one batch"),
    "a data set": ({"loader_train": TensorDataset(*digits(9))}, "loader_train: .*the data set"),
    "no batch": ({"batch_size": 0}, "batch_size.*at least 1, found 0"),
    "no samples ever": ({"show_every": 0}, "show_every.*at least 1, found 0"),
    "noise of another width": ({"noise_size": 10}, r"noise.*\(N, 96\).*found \(\d+, 10\)"),
    "images from -1": ({"loader_train": batches(80, 64, lambda x, y: (2 * x - 1, y))},
                       r"\[0, 1\], found -1 to"),
    "images of another size": ({"loader_train": batches(80, 64, lambda x, y: (x[..., :20], y))},
                               r"\(N, 784\).*\(64, 560\)"),
    "another network's optimizer": ({"D_solver": get_optimizer(discriminator())},
                                    "D_solver.*D's parameters"),
    "no whole optimizer": (lambda D, G: {"D_solver": torch.optim.Adam(D[:2].parameters())},
                           "D_solver.*misses 4 of 6 .2.weight first"),
    "an optimizer of both": (lambda D, G: {
        "D_solver": torch.optim.Adam([*D.parameters(), *G.parameters()])}, "6 other tensors"),
}


@pytest.mark.parametrize("options, message", BAD_GANS.values(), ids=BAD_GANS)
def test_bad_input_of_a_gan_is_named_before_anything_is_trained(tmp_path, options, message):
    D, G = discriminator(), generator()
    before = states_of(D, G)
    with pytest.raises(ValueError, match=message):
        small_run(tmp_path, D, G, **(options(D, G) if callable(options) else options))
    assert states_of(D, G) == before and not (tmp_path / "fc.jpg").exists()


def test_one_image_is_no_batch_to_normalise_by(tmp_path):
    def trained(**networks):
        return small_run(tmp_path, batch_size=1, loader_train=shuffled(3, 1), **networks)

    refusal = r"batch_size: expected at least 2, .*BatchNorm1d.*found 1"
    with pytest.raises(ValueError, match=refusal):
        trained(D=gan.build_dc_classifier(), G=gan.build_dc_generator())
    assert len(trained().d_loss) == 3  # without one it works


def test_a_save_filename_that_is_none_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(helper, "discriminator_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(TypeError):
        small_run(tmp_path, save_filename=None)
