"""A judge that knows nothing, a loader of five letters, few images."""

import pytest

from cscm77.data.loaders import mnist_loaders
from cscm77.measure.judge import Judge
from cscm77.studies import choices, comparison


class Letters:
    """A loader of five batches."""

    dataset = "the data"

    def __len__(self):
        return 5

    def __iter__(self):
        return iter("abcde")


@pytest.fixture
def letters():
    return Letters()


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
