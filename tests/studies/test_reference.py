"""cscm77/studies/reference.py: the brief's data and picture, a step's own products, the clock."""

# ruff: noqa: D103

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from cscm77.studies import benchmark, reference
from cscm77.studies.reference import ProductRecorder, WatchedBatches, intervals


def test_the_briefs_data_are_torchvisions_and_ours(tiny_mnist, loaders):
    brief, ours = loaders["reference"], loaders["ours"]
    theirs = MNIST(tiny_mnist, transform=ToTensor())
    for index in (0, 77, 511):
        image, label = theirs[index]
        for made in (brief.dataset[index], ours.dataset[index]):
            assert torch.equal(made[0], image) and made[1] == label
    assert len(brief) == len(ours) == 4


def test_the_brief_draws_an_axis_for_each_digit():
    reference.show_images_as_axes(torch.rand(5, 784))
    assert [(len(ax.images), ax.axison) for ax in plt.gcf().axes] == 5 * [(1, False)]


# ---------------------------------------------------------------- the floor: a step's own products


def products_of(network, x):
    with ProductRecorder() as recorder:
        network(x).sum().backward()
    return recorder.products


def shapes_of(product):
    return [tuple(value.shape) for value in product.args if isinstance(value, torch.Tensor)]


def names_and_shapes(products):
    return [(product.func.overloadpacket.__name__, shapes_of(product)) for product in products]


def test_recorded_products_are_those_that_one_writes_by_hand():
    N, D, H, C = 4, 5, 3, 2
    network = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, C))
    x = torch.rand(N, D)
    products = products_of(network, x)
    assert names_and_shapes(products) == [
        ("addmm", [(H,), (N, D), (D, H)]),
        ("addmm", [(C,), (N, H), (H, C)]),
        ("mm", [(N, C), (C, H)]),  # into the hidden layer
        ("mm", [(C, N), (N, H)]),  # into the weights
        ("mm", [(H, N), (N, D)]),
    ]
    assert products[0].args[2].stride() == (1, D)  # the weights, transposed
    made = [product() for product in products]
    assert torch.equal(made[0], network[0](x))
    assert torch.equal(made[4], network[0].weight.grad)
    assert not any(result.requires_grad for result in made[2:])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_recorded_convolutions_keep_their_memory_format(memory_format):
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3))
    products = products_of(network.to(memory_format=memory_format), torch.rand(4, 2, 6, 6))
    assert names_and_shapes(products) == [
        ("convolution", [(4, 2, 6, 6), (3, 2, 3, 3), (3,)]),
        ("convolution", [(4, 3, 4, 4), (3, 2, 3, 3), (2,)]),
        ("convolution_backward", [(4, 2, 6, 6), (4, 3, 4, 4), (3, 2, 3, 3)]),
        ("convolution_backward", [(4, 3, 4, 4), (4, 2, 6, 6), (3, 2, 3, 3)])]
    assert all(product.args[1].is_contiguous(memory_format=memory_format)
               for product in products[:2])
    assert reference.time_products(products, 1) > 0


# Forward one product a layer; backward two, and one for a layer whose inputs need no gradient.
VAE_STEP = 9 + 2 * 9 - 1
FC_STEP = (3 + 2 * 3 + 2 * 5) + (3 + 3 + 3 + 5)  # D on G's and on real images; then G through D
DC_STEP = (4 + 2 * 4 + 2 * 6) + (4 + 4 + 4 + 5)  # one call makes all gradients of a convolution


@pytest.mark.parametrize("model, calls", [
    ("vae", VAE_STEP), ("fc-gan", FC_STEP), ("dc-gan", DC_STEP)])
def test_the_products_of_our_loops_are_those_of_one_step_and_nothing_else(model, calls, loaders):
    batches = WatchedBatches(loaders["ours"], 4, record=True)
    benchmark.train(model, "ours", batches)
    products = batches.recorder.products
    assert len(products) == calls
    rows = {shape[0] for product in products for shape in shapes_of(product)
            if len(shape) == 4}
    assert 10 not in rows  # no samples are drawn


def test_a_loop_that_looks_a_batch_ahead_is_recorded_for_one_step_too(letters):
    letters[:] = [torch.eye(2)]
    batches = WatchedBatches(letters, 4, record=True)  # one batch, begun again
    assert len(list(batches)) == len(batches) == 4 and batches.recorder.products == []
    ahead, following = itertools.tee(batches)
    next(ahead)
    for x, _ in itertools.zip_longest(following, ahead):
        x @ x
    assert len(batches.recorder.products) == 1


def test_products_are_timed_after_a_warm_up(ticks):
    made = []
    products = [lambda: made.append("first"), lambda: made.append("second")]
    assert reference.time_products(products, 3) == 2**4  # the median of 2**3, 2**4 and 2**5
    assert made == ["first", "second"] * (reference.WARM_UP + 3)


def test_on_a_gpu_the_products_are_one_graph(monkeypatch):
    done = []
    graph = SimpleNamespace(replay=lambda: done.append("replayed"))
    monkeypatch.setattr(reference, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("waited"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    reference.recorded(lambda: done.append("made"))()
    assert done == ["made"] * reference.WARM_UP + ["waited", "made", "replayed"]


# ---------------------------------------------------------------- the clock


@pytest.mark.parametrize("steps, batches", [(3, "abc"), (7, "abcdeab")])
def test_intervals_reach_from_request_to_request(steps, batches, ticks, letters):
    timed = WatchedBatches(letters, steps)
    assert len(timed) == steps and timed.dataset == "the data"
    assert "".join(timed) == batches
    assert intervals(timed.asked) == [2, 4, 8, 16, 32, 64, 128][:steps]
