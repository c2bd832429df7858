"""MNIST files -> tensors on the device -> batches, without any work per image.

Where there is no MNIST, stand-in digits take its place.

Axes: N images, B images in a batch. Pixels are float32 in [0, 1], exactly what torchvision's
`ToTensor` makes of the files' bytes. They stay bytes until a batch is asked for: a quarter of the
memory, and no slower.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from cscm77.checks import check_batch, check_batch_size, check_between, check_images
from cscm77.data.mnist import (
    FILES,
    MNISTUnavailable,
    SearchedFolder,
    Unusable,
    keep,
    read_kept,
    read_mnist,
)
from cscm77.files import reason_of
from cscm77.utils import default_device

MNIST_FOLDER = Path(__file__).resolve().parents[2] / "MNIST_data"  # beside the notebooks
STROKES_FOLDER = "strokes-v1"  # in the data folder; count up when strokes.py draws other digits
TRAINING_IMAGES = 60_000
SOURCES = ("auto", "mnist", "strokes")
BANNER_WIDTH = 100


class Loaders(NamedTuple):
    """The three splits of a data set, a `DataLoader` each."""

    train: DataLoader
    val: DataLoader
    test: DataLoader


class Digits(Dataset):
    """Images and labels held on one device.

    A `DataLoader` asks `__getitems__` for the samples of a whole batch. With `gather` as its
    `collate_fn` they are fetched by one indexing operation; torch's own sees a list of samples.

    Args:
        pixels: bytes, (N, 28, 28) uint8.
        labels: digits 0 to 9, (N,).
        name: of the data, for titles and tables.
        device: where the tensors are kept.
    """

    def __init__(self, pixels, labels, name, device):
        """Move bytes and labels to the device."""
        self.pixels = pixels.to(device).unsqueeze(1)  # (N, 1, 28, 28)
        self.labels = labels.to(device, torch.int64)  # (N,)
        self.name = name
        # A tensor, since CUDA divides by a plain number less exactly than ToTensor does.
        self._white = torch.tensor(255.0, dtype=torch.float32, device=device)

    @property
    def images(self):
        """All images, (N, 1, 28, 28) float32 in [0, 1], made anew."""
        return self._in_unit_range(self.pixels)

    def _in_unit_range(self, pixels):
        return pixels.to(torch.float32).div_(self._white)

    def __len__(self):
        """N."""
        return len(self.labels)

    def __getitem__(self, index):
        """The image (1, 28, 28) and the label () at an index."""
        return self._in_unit_range(self.pixels[index]), self.labels[index]

    def __getitems__(self, indices):
        """The samples at a list of B indices, as `Samples`."""
        return Samples(self, indices)

    def batch(self, indices):
        """The images (B, 1, 28, 28) and labels (B,) at a list of B indices."""
        rows = torch.tensor(indices)
        rows = torch.where(rows < 0, rows + len(self), rows)  # -1 is the last, as in a list
        rows = rows.to(self.labels.device, non_blocking=True)  # a GPU is not waited for
        pixels, labels = (values.index_select(0, rows) for values in (self.pixels, self.labels))
        return self._in_unit_range(pixels), labels


class Samples:
    """Samples (image, label) at some indices of `Digits`: a list whose items are fetched late."""

    def __init__(self, digits, indices):
        self.digits, self.indices = digits, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, place):
        return self.digits[self.indices[place]]

    def __iter__(self):
        return zip(*self.gathered(), strict=True)

    def gathered(self):
        """All of them at once: images (B, 1, 28, 28), labels (B,)."""
        return self.digits.batch(self.indices)


def gather(samples):
    """A batch of samples: those of `Digits` at once, any others as torch does it."""
    return samples.gathered() if isinstance(samples, Samples) else default_collate(samples)


class _Arrays(NamedTuple):
    """All of a data set as it lies on disk: its name, where it came from, and bytes."""

    name: str
    origin: str
    training: tuple[torch.Tensor, torch.Tensor]  # (60000, 28, 28), (60000,)
    test: tuple[torch.Tensor, torch.Tensor]  # (10000, 28, 28), (10000,)


def mnist_loaders(batch_size=128, num_val=5000, root=None, source="auto", device=None):
    """The training, validation and test loaders of MNIST, or of stand-ins where it cannot be had.

    Training batches come in the order of `DataLoader(MNIST, batch_size, shuffle=True,
    drop_last=True)` under the same seed. The other two keep the order of the files and the last
    partial batch, and leave torch's global random generator alone. The environment variable
    CSCM77_IMAGES=N keeps the first N images of every split, and CSCM77_SOURCE names the source that
    "auto" stands for.

    Args:
        batch_size: N of every training batch; the last partial batch of an epoch is dropped.
        num_val: how many of the 60,000 training images, the last ones, are kept for validation;
            with 0 the validation loader is empty: its length is 0, and a loop over it does nothing.
        root: folder of the files; else the environment variable MNIST_DIR, else MNIST_data beside
            the notebooks. What is missing is fetched, into the root or into MNIST_data.
        source: "mnist" (or an error), "strokes" (stand-in digits drawn from pen strokes), or "auto"
            (MNIST, and under a banner stand-in digits where it cannot be had).
        device: where the images are kept; "cuda" where there is one, else "cpu", when not given.

    Returns:
        Loaders(train, val, test) of (images (N, 1, 28, 28) in [0, 1], labels (N,)); each has a
        `Digits` as `dataset`.

    Raises:
        ValueError: a setting that makes no sense, with the expected and the found value.
        MNISTUnavailable: MNIST cannot be had, and the source is "mnist".
    """
    limit = _image_limit()
    check_between("num_val", num_val, 0, TRAINING_IMAGES - 1)
    at_hand = min(TRAINING_IMAGES - num_val, limit)
    check_between("batch_size", batch_size, 1, at_hand, ", the training images at hand")
    batch_size = int(batch_size)  # numpy's too, which DataLoader refuses
    source, device = _chosen_source(source), _usable_device(device)
    data = _arrays(source, _searched_folders(root), device)
    splits = _splits(data, num_val, limit, device)
    sizes = "{:,} training, {:,} validation and {:,} test images".format(*map(len, splits))
    print(f"{data.name}: {sizes} on {device}, from {data.origin}")
    train, *held_out = splits
    return Loaders(
        DataLoader(train, batch_size, shuffle=True, drop_last=True, collate_fn=gather),
        *(DataLoader(part, batch_size, collate_fn=gather, generator=torch.Generator())
          for part in held_out))


def _splits(data, num_val, limit, device):
    """The training, validation and test `Digits`, of at most `limit` images each."""
    (images, labels), border = data.training, len(data.training[1]) - num_val
    parts = [(images[:border], labels[:border]), (images[border:], labels[border:]), data.test]
    return [Digits(images[:limit], labels[:limit], data.name, device) for images, labels in parts]


def _image_limit():
    text = os.environ.get("CSCM77_IMAGES", "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"CSCM77_IMAGES: expected a positive whole number, found {text!r}")
    return int(text or TRAINING_IMAGES)


def _chosen_source(source):
    name, default = "source", os.environ.get("CSCM77_SOURCE")
    if source == "auto" and default:
        name, source = "CSCM77_SOURCE", default
    if source not in SOURCES:
        raise ValueError(f"{name}: expected one of {', '.join(SOURCES)}, found {source!r}")
    return source


def _usable_device(device):
    if device is None:
        return default_device()
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises each of these
        raise ValueError(f"device: expected 'cpu', or 'cuda' where there is one, found {device!r} "
                         f"({reason_of(error)})") from None


def _searched_folders(root):
    """The folders to search for the files; the last one is where our own files go."""
    if root is not None:
        return [SearchedFolder("the root argument", Path(root).expanduser())]
    folders = [SearchedFolder(MNIST_FOLDER.name, MNIST_FOLDER)]
    if os.environ.get("MNIST_DIR"):
        folders.insert(0, SearchedFolder("MNIST_DIR", Path(os.environ["MNIST_DIR"]).expanduser()))
    return folders


def _arrays(source, folders, device):
    """The data set that a source stands for."""
    if source != "strokes":
        try:
            files, origin = read_mnist(folders)
            return _as_arrays("MNIST", origin, files)
        except MNISTUnavailable as error:
            if source == "mnist":
                raise
            print(_banner(error))
    return _stand_ins(folders[-1], device)


def _banner(error):
    """Words that nobody can miss: what follows is not MNIST."""
    line = "#" * BANNER_WIDTH
    return "\n".join([
        line, "THESE ARE STAND-IN DIGITS, NOT MNIST".center(BANNER_WIDTH).rstrip(), line,
        "Every picture and number from here on is of digits drawn from pen strokes.", str(error),
        'To stop with an error instead of going on with stand-ins: mnist_loaders(source="mnist"),',
        "or the environment variable CSCM77_SOURCE=mnist.", line])


def _stand_ins(home, device):
    """The stand-in digits: those kept from the last time, or else new ones, which are then kept."""
    paths = {want.name: home.path / STROKES_FOLDER / want.name for want in FILES}
    try:
        files = {name: read_kept(path) for name, path in paths.items()}
        return _as_arrays("stand-in digits", f"pen strokes kept in {home.label}", files)
    except (OSError, Unusable):
        return _draw_stand_ins(paths, device)


def _draw_stand_ins(paths, device):
    from cscm77.data.strokes import stand_in_digits  # only where there is no MNIST

    print("Drawing the stand-in digits; this takes a few seconds, once.")
    drawn = stand_in_digits(seed=0, device=device)
    training, test = ((images.cpu(), labels.cpu()) for images, labels in drawn)
    try:
        for path, values in zip(paths.values(), (*training, *test), strict=True):
            keep(path, _to_idx(values))
    except OSError as error:
        print(f"They cannot be kept in {path.parent} ({reason_of(error)}), "
              "and are drawn again at the next start.")
    return _Arrays("stand-in digits", "pen strokes", training, test)


def _as_arrays(name, origin, files):
    images, labels, test_images, test_labels = (_from_idx(files[want.name]) for want in FILES)
    return _Arrays(name, origin, (images, labels), (test_images, test_labels))


def _from_idx(data):
    """The uint8 values of a file of MNIST's idx format.

    That is 0, 0, type 8 = bytes, the number of axes; the size of each; the values.

    Raises:
        Unusable: it is no such file, or of another length than its header says.
    """
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    start = 4 + 4 * axes
    shape = [int.from_bytes(data[i:i + 4], "big") for i in range(4, start, 4)]
    if not axes or len(data) != start + math.prod(shape):
        raise Unusable(f"expected an idx file of bytes, found {len(data):,} bytes "
                       f"beginning {data[:16].hex(' ')}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).view(shape)


def _to_idx(values):
    """A file of MNIST's idx format with whole numbers 0 to 255."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    pixels = values.to(torch.uint8).contiguous().numpy().tobytes()
    return bytes((0, 0, 8, values.ndim)) + sizes + pixels


# ---------------------------------------------------------------- batches for a training


def checked_batches(loader):
    """Yield (images, labels), each looked at first: its form, and of others' images the values too.

    Args:
        loader: batches of (images in [0, 1], labels).

    Raises:
        ValueError: no batch at all, one that is no such pair, or images that are not
            floating-point, or outside [0, 1], or none.
    """
    known = _gives_our_images(loader)
    batch = None
    for batch in loader:
        check_batch(batch)
        images, labels = batch
        if not known:
            check_images(images)
        yield images, labels
    if batch is None:
        raise ValueError("the loader: expected at least one batch, found none")


def _gives_our_images(loader):
    """Whether a loader's images are those of `Digits` as they are: nothing waits for a GPU then."""
    ours = isinstance(getattr(loader, "dataset", None), Digits)
    return ours and getattr(loader, "collate_fn", None) in (gather, default_collate)


def full_batches(loader, batch_size):
    """Yield the batches of batch_size images; only the last of the loader may be shorter.

    That one is passed over, and nothing is read ahead to know it.

    Args:
        loader: batches of (images in [0, 1], labels).
        batch_size: N.

    Raises:
        ValueError: batches of another size, or none of that size, or as in `checked_batches`.
    """
    size, taken = batch_size, 0
    for images, labels in checked_batches(loader):
        check_batch_size(batch_size, size)  # of the batch before: it was not the last
        size = len(images)
        if size >= batch_size:
            check_batch_size(batch_size, size)
            taken += 1
            yield images, labels
    if taken == 0:
        check_batch_size(batch_size, size)
