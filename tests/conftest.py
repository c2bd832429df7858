"""What every test file uses: no display, tiny data, and real MNIST where MNIST_DIR is set."""

import errno
import os

import matplotlib
import matplotlib.pyplot
import pytest
import torch
from tiny import TINY_TEST, TINY_TRAIN, blobs, in_place_of_mnist, place

from cscm77.data import loaders
from cscm77.studies import benchmark, reference

matplotlib.use("agg")
torch.set_num_threads(1)  # the models here are tiny: threads would wait for each other

REAL_MNIST = os.environ.get("MNIST_DIR")


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A folder in torchvision's layout of 6,000 + 500 pictures, MNIST for the loaders."""
    files = in_place_of_mnist(monkeypatch, blobs(TINY_TRAIN, seed=0), blobs(TINY_TEST, seed=1))
    place(files, tmp_path / "tiny" / "MNIST" / "raw")
    return tmp_path / "tiny"


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    """Tests begin without the settings that a user may have made, and with one seed."""
    for name in ("MNIST_DIR", "CSCM77_IMAGES", "CSCM77_RESULTS", "CSCM77_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Tests run on the CPU, on a machine with a GPU too; those of the GPU ask for it by name."""
    for module in (benchmark, reference, loaders):
        monkeypatch.setattr(module, "default_device", lambda: torch.device("cpu"))


@pytest.fixture(autouse=True)
def close_figures():
    """Free the figures that a test drew."""
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def real_mnist():
    """The folder of real MNIST; tests that need it are skipped where MNIST_DIR is not set."""
    if not REAL_MNIST:
        pytest.skip("MNIST_DIR is not set")
    return REAL_MNIST


@pytest.fixture
def two_threads():
    """Both cores, for the tests that train on all of a data set."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def double_by_default():
    """New tensors are in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def full_disk(monkeypatch):
    """No file can be finished."""
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
