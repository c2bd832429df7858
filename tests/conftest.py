"""What every test file uses: no display, tiny data, and real MNIST where MNIST_DIR is set."""

import os
import struct

import matplotlib
import matplotlib.pyplot
import pytest
import torch

matplotlib.use("agg")
torch.set_num_threads(1)  # the models here are tiny: threads would wait for each other, above all beside another job

REAL_MNIST = os.environ.get("MNIST_DIR")
TINY_TRAIN, TINY_TEST = 6000, 500


def blobs(number, seed):
    """Draw pictures that a network can tell apart: digit d is a soft spot at the d-th of ten places."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 10
    angle = labels * 0.628 + 0.1 * torch.randn(number, generator=rng)
    centre = 13.5 + 7 * torch.stack((angle.sin(), angle.cos()), dim=1)  # (N, 2)
    axis = torch.arange(28.0)
    squared = (axis.view(1, 28, 1) - centre[:, :1, None]) ** 2 + (axis.view(1, 1, 28) - centre[:, 1:, None]) ** 2
    return (255 * torch.exp(-squared / 12)).to(torch.uint8), labels


def write_idx(path, tensor):
    header = struct.pack(">HBB", 0, 8, tensor.ndim) + struct.pack(f">{tensor.ndim}I", *tensor.shape)
    path.write_bytes(header + tensor.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory):
    """A folder in torchvision's layout with 6,000 + 500 pictures of blobs."""
    folder = tmp_path_factory.mktemp("tiny")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, number, seed in (("train", TINY_TRAIN, 0), ("t10k", TINY_TEST, 1)):
        images, labels = blobs(number, seed)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch):
    """Tests begin without the settings that a user may have made, and with one seed."""
    for name in ("MNIST_DIR", "CSCM77_IMAGES", "CSCM77_RESULTS", "CSCM77_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)


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
