"""Small data in the place of MNIST, in its file format: soft spots to learn, noise to compare."""

import gzip
import os
import struct
from pathlib import Path

import torch

from cscm77.data import loaders, mnist

TINY_TRAIN, TINY_TEST = 6000, 500
NOISE_TRAIN, NOISE_TEST = 60, 25
NAMES = [want.name for want in mnist.FILES]


def blobs(number, seed):
    """Pictures that a network can tell apart: digit d is a soft spot at the d-th of ten places."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 10
    angle = labels * 0.628 + 0.1 * torch.randn(number, generator=rng)
    centre = 13.5 + 7 * torch.stack((angle.sin(), angle.cos()), dim=1)  # (N, 2)
    axis = torch.arange(28.0)
    down, right = ((axis - at[:, None]) ** 2 for at in centre.unbind(1))  # (N, 28) each
    squared = down[:, :, None] + right[:, None]
    return (255 * torch.exp(-squared / 12)).to(torch.uint8), labels


def noise(number, seed):
    """Random pictures and labels."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 256, (number, 28, 28), generator=rng, dtype=torch.uint8),
            torch.randint(0, 10, (number,), generator=rng))


def idx(values):
    """The bytes of a file in MNIST's format: type 8, number of axes, size of each, values."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def in_place_of_mnist(monkeypatch, train, test):
    """Let two sets (images, labels) pass for MNIST: the four files {name: bytes}."""
    files = dict(zip(NAMES, map(idx, (*train, *test)), strict=True))
    table = tuple(mnist.DataFile(name, len(raw), mnist.md5_of(raw)) for name, raw in files.items())
    for module in (mnist, loaders):
        monkeypatch.setattr(module, "FILES", table)
    monkeypatch.setattr(loaders, "TRAINING_IMAGES", len(train[1]))
    return files


def place(files, folder, gz=False):
    """Write files {name: bytes} into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(raw) if gz else raw)


def tree(folder):
    """All files below a folder: {relative path: bytes}."""
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*") if path.is_file()}


def failing(number):
    """A function of the system that fails in this way."""
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def load(**options):
    """Loaders of the 60 + 25 pictures of noise that stand in the place of MNIST."""
    return loaders.mnist_loaders(**{"batch_size": 8, "num_val": 10, "device": "cpu", **options})


def assert_is_mnist(splits):
    images, labels = noise(NOISE_TRAIN, 1)
    parts = (images[:50], labels[:50]), (images[50:], labels[50:]), noise(NOISE_TEST, 2)
    for loader, (pictures, answers) in zip(splits, parts, strict=True):
        assert loader.dataset.name == "MNIST"
        assert torch.equal(loader.dataset.images, pictures[:, None].float() / 255)
        assert torch.equal(loader.dataset.labels, answers)
