"""cscm77/training/replay.py: a step that a GPU replays gives what the step itself gives."""

import copy
from contextlib import contextmanager

import pytest
import torch
from kills import batches

import cscm77_helper as helper
import gan
from cscm77.training import journal
from cscm77.training import replay as graphs
from cscm77.training.replay import WARM_UP, Replayed
from cscm77.utils import reset_seed
from vae import CVAE, VAE, loss_function

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def digits(number=32 * 20 + 7):
    """Batches of 32, and in the end one of 7."""
    return batches(number, 32)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(some, others):
    for name, value in some.items():
        assert torch.equal(value, others[name]), (name, (value - others[name]).abs().max())


def test_without_a_gpu_it_is_the_step_itself():
    calls = []
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], fused=True)
    step = Replayed(lambda *inputs: calls.append(inputs) or "result", optimizer)
    for number in range(WARM_UP + 3):
        assert step(number) == "result"
    assert calls == [(number,) for number in range(WARM_UP + 3)] and step.graph is None


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Recordings that a CPU can make; what is in `broken` makes the next one fail."""
    made, broken = [], []

    class Graph:
        def __init__(self):
            made.append(self)
            self.replays = 0

        def replay(self):
            self.replays += 1

    @contextmanager
    def recording(graph, **_):
        yield
        if broken:
            raise RuntimeError("broken off")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    for name in ("current_stream", "get_rng_state", "get_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("set_stream", "set_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, lambda _: None)
    monkeypatch.setattr(graphs, "_replace_generator", lambda _: None)
    return made, broken


def pretended_step():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1, fused=True)
    calls = []
    step = Replayed(lambda x: calls.append(x) or (x,), optimizer)
    step.possible = True  # as if the weights were on a GPU
    return step, optimizer, calls


def test_a_step_is_recorded_once_and_only_inputs_of_its_shape_are_replayed(pretended_gpu):
    made, _ = pretended_gpu
    step, _, calls = pretended_step()
    for value in range(WARM_UP + 4):
        (result,) = step(torch.full((2,), float(value)))
        assert result.tolist() == [value, value]
    assert len(made) == 1 and made[0].replays == 4 and len(calls) == WARM_UP + 1
    assert step(torch.zeros(5))[0].shape == (5,) and made[0].replays == 4


def test_after_a_recording_that_breaks_off_no_older_one_is_replayed(pretended_gpu):
    made, broken = pretended_gpu
    step, optimizer, calls = pretended_step()
    for _ in range(WARM_UP + 2):
        step(torch.zeros(2))
    optimizer.param_groups[0]["lr"] = 0.5
    broken.append(True)
    before, replays = len(calls), made[0].replays
    with pytest.warns(RuntimeWarning, match="could not be recorded as a CUDA graph.*broken off"):
        assert step(torch.ones(2))[0].tolist() == [1, 1]
    step(torch.ones(2))
    assert made[0].replays == replays
    assert len(calls) == before + 3  # the recording, and two steps as they are
    assert optimizer.param_groups[0]["capturable"] is False


# ---------------------------------------------------------------- with a GPU


def trained_vae(monkeypatch, graphs, make=VAE, cond=False, loss=loss_function, epochs=2, **options):
    monkeypatch.setenv("CSCM77_GRAPHS", graphs)
    monkeypatch.setattr(helper, "loss_function", loss)
    reset_seed(0)
    model = make(784, hidden_dim=64).to("cuda")
    results = [helper.train_vae(epoch, model, digits(), cond, **options)
               for epoch in range(epochs)]
    return weights(model), results, torch.rand(3, device="cuda")


def assert_same_vae(monkeypatch, **options):
    eager, replayed = (trained_vae(monkeypatch, graphs, **options) for graphs in "01")
    assert_same(eager[0], replayed[0])
    assert [epoch[:5] for epoch in eager[1]] == [epoch[:5] for epoch in replayed[1]]
    assert torch.equal(eager[2], replayed[2])  # the random numbers have come as far


@pytest.fixture
def recorded(monkeypatch):
    """The steps that were recorded."""
    seen, real = [], Replayed._record

    def record(self, inputs):
        real(self, inputs)
        seen.append(self.graph)

    monkeypatch.setattr(Replayed, "_record", record)
    return seen


@needs_gpu
@pytest.mark.parametrize("make, cond", [(VAE, False), (CVAE, True)])
def test_a_replayed_vae_is_the_same_to_the_last_bit(make, cond, monkeypatch, recorded):
    assert_same_vae(monkeypatch, make=make, cond=cond, val_loader=digits(50))
    assert len(recorded) == 2 and None not in recorded  # one an epoch


@needs_gpu
def test_a_loss_that_waits_for_the_device_is_taken_as_it_is(monkeypatch, recorded):
    seen = []

    def waiting(*arguments):
        loss = loss_function(*arguments)
        seen.append(loss.item())
        return loss

    assert_same_vae(monkeypatch, loss=waiting)
    assert recorded == [] and len(seen) == 2 * 2 * 21


@needs_gpu
def test_a_step_that_cannot_be_recorded_is_taken_as_it_is(monkeypatch, recorded):
    def impossible(*arguments):
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        return loss_function(*arguments)

    with pytest.warns(RuntimeWarning, match="could not be recorded"):
        assert_same_vae(monkeypatch, loss=impossible)
    assert recorded == [None, None]


@needs_gpu
def test_an_optimizer_of_another_kind_is_not_recorded(recorded):
    model = VAE(784, hidden_dim=8).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert not Replayed(None, optimizer).possible


@needs_gpu
def test_a_stopped_training_goes_on_to_the_same_last_bit(monkeypatch, tmp_path):
    whole = trained_vae(monkeypatch, "1", checkpoint=tmp_path / "whole.pt")
    reset_seed(0)
    model, real, steps = VAE(784, hidden_dim=64).to("cuda"), journal.LossLog.add, []

    def stopped(self, *arguments):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr("cscm77.training.run.SAVE_AFTER", 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal.LossLog, "add", stopped)
        helper.train_vae(0, model, digits(), checkpoint=tmp_path / "cut.pt")
    fresh = VAE(784, hidden_dim=64).to("cuda")
    results = [helper.train_vae(epoch, fresh, digits(), checkpoint=tmp_path / "cut.pt")
               for epoch in range(2)]
    assert_same(whole[0], weights(fresh))
    assert results == whole[1]


GANS = {"fc": (gan.discriminator, gan.generator, gan.discriminator_loss, gan.generator_loss),
        "ls": (gan.discriminator, gan.generator, gan.ls_discriminator_loss, gan.ls_generator_loss),
        "dc": (gan.build_dc_classifier, gan.build_dc_generator, gan.discriminator_loss,
               gan.generator_loss)}


def trained_gan(monkeypatch, graphs, name, folder):
    monkeypatch.setenv("CSCM77_GRAPHS", graphs)
    D, G, *losses = GANS[name]
    reset_seed(0)
    D, G = D().to("cuda"), G().to("cuda")
    solvers = gan.get_optimizer(D), gan.get_optimizer(G)
    history = helper.run_a_gan(
        D, G, *solvers, *losses, folder / "x.png", show_every=9, batch_size=32, num_epochs=2,
        loader_train=digits(), score=lambda G: G(torch.zeros(2, 96, device="cuda")).mean())
    return (weights(D), weights(G), weights(history.G_average), history.G_best), history


@needs_gpu
@pytest.mark.parametrize("name", GANS)
def test_a_replayed_gan_is_the_same_to_the_last_bit(name, monkeypatch, recorded, tmp_path):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    (eager, first), (replayed, second) = (
        trained_gan(monkeypatch, graphs, name, tmp_path) for graphs in "01")
    for ours, theirs in zip(eager, replayed, strict=True):
        assert_same(ours, theirs)
    assert (first.d_loss, first.g_loss, first.d_fake) == (second.d_loss, second.g_loss,
                                                          second.d_fake)
    assert torch.equal(first.strip, second.strip) and len(first.strip) == 5
    assert len(recorded) == 2 and None not in recorded


@needs_gpu
def test_the_results_of_a_step_are_the_same_in_other_hands(monkeypatch):
    """Twenty steps of the brief's own loop on the GPU."""
    monkeypatch.setenv("CSCM77_GRAPHS", "1")
    reset_seed(0)
    ours = VAE(784, hidden_dim=64).to("cuda")
    theirs = copy.deepcopy(ours)
    on_gpu = [(x.to("cuda"), labels) for x, labels in digits(32 * 20)]
    reset_seed(1)
    helper.train_vae(0, ours, on_gpu)
    reset_seed(1)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    for x, _ in on_gpu:
        x_hat, mu, logvar = theirs(x)
        optimizer.zero_grad()
        loss_function(x_hat, x, mu, logvar).backward()
        optimizer.step()
    assert_same(weights(theirs), weights(ours))


@needs_gpu
def test_another_learning_rate_is_recorded_anew(recorded):
    model = torch.nn.Linear(1, 1, bias=False).to("cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        model(x).sum().backward()
        optimizer.step()
        return (model.weight.detach(),)

    replayed, moves = Replayed(step, optimizer), []
    for lr in [0.1] * 6 + [0.01] * 3:
        optimizer.param_groups[0]["lr"] = lr
        before = model.weight.item()
        replayed(torch.ones(1, 1, device="cuda"))
        moves.append(before - model.weight.item())
    assert moves == pytest.approx([0.1] * 6 + [0.01] * 3, rel=1e-3) and len(recorded) == 2
