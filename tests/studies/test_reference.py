"""cscm77/studies/reference.py: the brief's data and picture, a step's own products, the clock."""

# ruff: noqa: D103

import itertools
import sys
from contextlib import nullcontext
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from cscm77.data.loaders import mnist_loaders
from cscm77.studies import benchmark, reference
from cscm77.studies.reference import (
    ProductRecorder,
    RecordedBatches,
    TimedBatches,
    intervals,
    multiply_again,
    time_products,
)


@pytest.fixture
def ours(tiny_mnist, monkeypatch):
    """Four batches of the first 512 training images."""
    monkeypatch.setenv("CSCM77_IMAGES", "512")
    return mnist_loaders(root=tiny_mnist, source="mnist").train


@pytest.fixture
def ticks(monkeypatch):
    """A clock that shows 1, 3, 7, 15 ... seconds: what begins at the n-th look takes 2**n."""
    shown = itertools.accumulate(2**n for n in itertools.count())
    monkeypatch.setattr(reference.time, "perf_counter", lambda: next(shown))


# ---------------------------------------------------------------- the brief's data and picture


def test_the_briefs_data_are_torchvisions_and_ours(tiny_mnist, ours):
    theirs = MNIST(tiny_mnist, transform=ToTensor())
    loader = reference.reference_loader(ours.dataset.pixels[:, 0], ours.dataset.labels)
    for index in (0, 77, 511):
        image, label = loader.dataset[index]
        assert torch.equal(image, theirs[index][0]) and label == theirs[index][1]
        assert torch.equal(image, ours.dataset[index][0]) and label == ours.dataset[index][1]
    assert len(loader) == len(ours) == 4


def test_the_brief_draws_an_axis_for_each_digit():
    reference.show_images_as_axes(torch.rand(5, 784))
    axes = plt.gcf().axes
    assert len(axes) == 5
    assert all(len(ax.images) == 1 and not ax.axison for ax in axes)


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
    assert [tuple(result.shape) for result in made] == [(N, H), (N, C), (N, H), (C, H), (H, D)]
    assert torch.equal(made[0], network[0](x))
    assert torch.equal(made[4], network[0].weight.grad)
    assert not any(result.requires_grad for result in made[2:])


def test_recorded_convolutions_keep_their_memory_format():
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3))
        network.to(memory_format=memory_format)
        products = products_of(network, torch.rand(4, 2, 6, 6))
        assert names_and_shapes(products) == [
            ("convolution", [(4, 2, 6, 6), (3, 2, 3, 3), (3,)]),
            ("convolution", [(4, 3, 4, 4), (3, 2, 3, 3), (2,)]),
            ("convolution_backward", [(4, 2, 6, 6), (4, 3, 4, 4), (3, 2, 3, 3)]),
            ("convolution_backward", [(4, 3, 4, 4), (4, 2, 6, 6), (3, 2, 3, 3)]),
        ]
        for product in products[:2]:
            assert product.args[1].is_contiguous(memory_format=memory_format)
        multiply_again(products)


# Forward one product a layer; backward two, and one for a layer whose inputs need no gradient.
VAE_STEP = 9 + 2 * 9 - 1
FC_STEP = (3 + 2 * 3 + 2 * 5) + (3 + 3 + 3 + 5)  # D on G's and on real images; then G through D
DC_STEP = (4 + 2 * 4 + 2 * 6) + (4 + 4 + 4 + 5)  # one call makes all gradients of a convolution


@pytest.mark.parametrize("model, calls", [
    ("vae", VAE_STEP), ("fc-gan", FC_STEP), ("dc-gan", DC_STEP)])
def test_the_products_of_our_loops_are_those_of_one_step_and_nothing_else(model, calls, ours):
    batches = RecordedBatches(ours)
    benchmark.train(model, "ours", batches)
    assert len(batches.products) == calls
    shapes = sum(map(shapes_of, batches.products), [])
    rows = {shape[0] for shape in shapes if len(shape) == 4}
    assert 10 not in rows  # no samples are drawn


def test_a_loop_that_looks_a_batch_ahead_is_recorded_for_one_step_too():
    class Loader(list):
        dataset = "the data"

    batches = RecordedBatches(Loader([torch.eye(2)]))  # one batch, begun again
    assert len(list(batches)) == len(batches) == 4 and batches.products == []
    ahead, following = itertools.tee(batches)
    next(ahead)
    for x, _ in itertools.zip_longest(following, ahead):
        x @ x
    assert len(batches.products) == 1


def test_products_are_timed_after_a_warm_up(ticks, monkeypatch):
    made = []
    monkeypatch.setattr(reference, "multiply_again", made.append)
    assert time_products("products", repeats=3) == 2**4  # the median of 2**3, 2**4 and 2**5
    assert made == ["products"] * (reference.WARM_UP + 3)


def test_on_a_gpu_the_products_are_one_graph(monkeypatch):
    done = []

    class Graph:
        def replay(self):
            done.append("replayed")

    monkeypatch.setattr(reference, "default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("waited"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    reference.recorded(lambda: done.append("made"))()
    assert done == ["made"] * reference.WARM_UP + ["waited", "made", "replayed"]


# ---------------------------------------------------------------- the clock, and memory


@pytest.mark.parametrize("steps, batches", [(None, "abcde"), (3, "abc"), (9, "abcde")])
def test_intervals_reach_from_request_to_request(steps, batches, ticks, letters):
    timed = TimedBatches(letters, steps)
    assert len(timed) == len(batches) and timed.dataset == "the data"
    assert "".join(timed) == batches
    assert intervals(timed.asked) == [2, 4, 8, 16, 32][:len(batches)]


def test_peak_memory_counts_what_is_held():
    held = torch.ones(25_000_000)  # 0.1 GiB
    assert 0.1 < reference.peak_memory() < 64 and held.sum() > 0


def test_peak_memory_without_the_file_of_linux(monkeypatch):
    def no_file(path):
        raise FileNotFoundError(path)

    pytest.importorskip("resource")
    monkeypatch.setattr(Path, "read_text", no_file)
    assert 0.01 < reference.peak_memory() < 64
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert reference.peak_memory() is None
