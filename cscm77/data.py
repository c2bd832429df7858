"""MNIST files -> tensors on the device -> batches, without any work per image.

Axes: N images. Pixels are float32 in [0, 1], exactly what torchvision's `ToTensor` makes of the files' bytes.
"""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import MNIST

from cscm77.utils import default_device

MNIST_FOLDER = Path(__file__).resolve().parent.parent / "MNIST_data"  # beside the notebooks
TRAINING_IMAGES = 60_000


class Loaders(NamedTuple):
    """The three splits of a data set, a `DataLoader` each."""

    train: DataLoader
    val: DataLoader
    test: DataLoader


class Digits(Dataset):
    """Images and labels held on one device.

    A `DataLoader` asks `__getitems__` for a whole batch at once, which is one indexing operation.

    Args:
        images: bytes, (N, 28, 28) uint8.
        labels: digits 0 to 9, (N,).
        name: of the data, for titles and tables.
        device: where the tensors are kept.
    """

    def __init__(self, images, labels, name, device):
        self.images = images.to(device).unsqueeze(1).to(torch.float32).div_(255)  # (N, 1, 28, 28)
        self.labels = labels.to(device, torch.int64)  # (N,)
        self.name = name

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]

    def __getitems__(self, indices):
        indices = torch.tensor(indices, device=self.labels.device)
        return self.images[indices], self.labels[indices]


def mnist_loaders(batch_size=128, num_val=5000, root=None, source="auto", device=None):
    """Give the training, validation and test loaders of MNIST.

    Batches come in the order of `DataLoader(MNIST, batch_size, shuffle=True, drop_last=True)` under the same seed.
    The environment variable CSCM77_IMAGES=N keeps the first N images of every split.

    Args:
        batch_size: N of every training batch; the last partial batch of an epoch is dropped.
        num_val: how many of the 60,000 training images, the last ones, are kept for validation.
        root: folder of the files; else the environment variable MNIST_DIR, else MNIST_data beside the notebooks.
        source: "auto" or "mnist".
        device: where the images are kept; "cuda" where there is one, else "cpu", when not given.

    Returns:
        Loaders(train, val, test) of (images (N, 1, 28, 28) in [0, 1], labels (N,)).

    Raises:
        ValueError: a batch_size, num_val or source that makes no sense.
    """
    if source not in ("auto", "mnist"):
        raise ValueError(f"source: expected 'auto' or 'mnist', found {source!r}")
    if not 0 <= num_val < TRAINING_IMAGES:
        raise ValueError(f"num_val: expected 0 to {TRAINING_IMAGES - 1}, found {num_val}")
    device = torch.device(device) if device is not None else default_device()
    folder, found_by = _data_folder(root)
    training, test = (MNIST(folder, train=train, download=True) for train in (True, False))
    limit = _image_limit()
    num_train = len(training) - num_val

    def split(part, start, stop):
        stop = min(stop, start + limit) if limit else stop
        return Digits(part.data[start:stop], part.targets[start:stop], "MNIST", device)

    train = split(training, 0, num_train)
    val = split(training, num_train, len(training))
    held_out = split(test, 0, len(test))
    if not 1 <= batch_size <= len(train):
        raise ValueError(f"batch_size: expected 1 to {len(train)}, the training images at hand, found {batch_size}")
    print(f"MNIST: {len(train):,} training, {len(val):,} validation, {len(held_out):,} test images "
          f"on {device}, from {found_by}")
    return Loaders(
        DataLoader(train, batch_size, shuffle=True, drop_last=True, collate_fn=_as_it_is),
        *(DataLoader(part, batch_size, collate_fn=_as_it_is, generator=torch.Generator()) for part in (val, held_out)))


def _data_folder(root):
    if root is not None:
        return Path(root), "the root argument"
    if os.environ.get("MNIST_DIR"):
        return Path(os.environ["MNIST_DIR"]), "MNIST_DIR"
    return MNIST_FOLDER, MNIST_FOLDER.name


def _image_limit():
    text = os.environ.get("CSCM77_IMAGES", "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"CSCM77_IMAGES: expected a positive whole number, found {text!r}")
    return int(text) if text else None


def _as_it_is(batch):
    return batch
