"""A judge that knows nothing, a loader of five letters, few images, a clock that doubles."""

import itertools

import pytest

from cscm77.data.loaders import mnist_loaders
from cscm77.measure.judge import Judge
from cscm77.studies import choices, comparison, reference


@pytest.fixture
def letters():
    class Loader(list):
        dataset = "the data"

    return Loader("abcde")


@pytest.fixture
def loaders(tiny_mnist, monkeypatch):
    """The brief's loader and ours, of four batches; settings that a command makes are undone."""
    monkeypatch.setenv("CSCM77_IMAGES", "512")
    monkeypatch.setattr(reference, "WORKERS", 0)  # processes that load take a while to start
    ours = mnist_loaders(root=tiny_mnist, source="mnist").train
    return {"reference": reference.reference_loader(ours.dataset), "ours": ours}


@pytest.fixture
def ticks(monkeypatch):
    """A clock that shows 1, 3, 7, 15 ... seconds: what begins at the n-th look takes 2**n."""
    shown = itertools.accumulate(2**n for n in itertools.count())
    monkeypatch.setattr(reference.time, "perf_counter", lambda: next(shown))


@pytest.fixture
def judge(monkeypatch):
    """A judge that was never taught: how well it reads is the affair of tests/measure."""
    judge = Judge()
    judge.accuracy = 0.75
    for module in (choices, comparison):
        monkeypatch.setattr(module, "judge_of", lambda *_: judge)
    return judge


@pytest.fixture
def few_images(tiny_mnist, monkeypatch):
    """The first 256 images of each split: two steps an epoch. What a command sets is undone."""
    monkeypatch.setenv("CSCM77_IMAGES", "256")
    return mnist_loaders(root=tiny_mnist, source="mnist", device="cpu")
