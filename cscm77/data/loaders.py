"""MNIST files -> tensors on the device -> batches, without any work per image.

Axes: N images, B images in a batch. Pixels are float32 in [0, 1], exactly as `ToTensor` makes them;
they stay bytes until a batch is asked for: a quarter of the memory, and no slower.
"""

import os
import struct
from collections import namedtuple
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from cscm77.checks import check_batch, check_batch_size, check_images, check_whole
from cscm77.data.mnist import FILES, MNISTUnavailable, md5_of, read_mnist
from cscm77.files import beside, reason_of, remove_unfinished, write_whole
from cscm77.utils import default_device

MNIST_FOLDER = Path(__file__).resolve().parents[2] / "MNIST_data"  # beside the notebooks
STROKES_FOLDER = "strokes-v1"  # in the data folder; count up when other digits are drawn
TRAINING_IMAGES = 60_000
SOURCES = ("auto", "mnist", "strokes")
Loaders = namedtuple("Loaders", "train val test")  # the splits of a data set, a `DataLoader` each


class Digits(Dataset):
    """Images (N, 28, 28), as bytes, and labels (N,), 0 to 9, on one device; a name for titles."""

    def __init__(self, pixels, labels, name, device):
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
        return len(self.labels)

    def __getitem__(self, index):
        """The image (1, 28, 28) and the label () at an index."""
        return self._in_unit_range(self.pixels[index]), self.labels[index]

    def __getitems__(self, indices):
        """The images (B, 1, 28, 28) and labels (B,) at B indices, taken at once for `gather`."""
        rows = torch.tensor(indices)
        rows = torch.where(rows < 0, rows + len(self), rows)  # -1 is the last, as in a list
        rows = rows.to(self.labels.device, non_blocking=True)  # a GPU is not waited for
        pixels, labels = (values.index_select(0, rows) for values in (self.pixels, self.labels))
        return TensorDataset(self._in_unit_range(pixels), labels)  # passes for a list of samples


def gather(samples):
    """A batch of samples: tensors of our own as they are, any others as torch does it."""
    return samples.tensors if isinstance(samples, TensorDataset) else default_collate(samples)


def mnist_loaders(batch_size=128, num_val=5000, root=None, source="auto", device=None):
    """The training, validation and test loaders of MNIST, or of stand-ins where it cannot be had.

    Training batches come in the order of `DataLoader(MNIST, batch_size, shuffle=True,
    drop_last=True)` under the same seed. The other two keep the order of the files and the last
    partial batch, and leave torch's global random generator alone. CSCM77_IMAGES=N in the
    environment keeps the first N images of every split; CSCM77_SOURCE names what "auto" stands for.
    Returns Loaders(train, val, test) of (images (N, 1, 28, 28) in [0, 1], labels (N,)); their
    `dataset` is a `Digits`. No MNIST, where it was to be that, is an `MNISTUnavailable`.

    Args:
        batch_size: N of every training batch.
        num_val: how many of the 60,000 training images, the last, are for validation; may be 0.
        root: folder of the files; else the environment variable MNIST_DIR, else MNIST_data beside
            the notebooks. What is missing is fetched, into the root or into MNIST_data.
        source: "mnist" (or an error), "strokes" (stand-in digits drawn from pen strokes) or "auto":
            MNIST, and stand-in digits where it cannot be had.
        device: where the images are kept; else "cuda" where there is one, or "cpu".
    """
    limit = os.environ.get("CSCM77_IMAGES") or str(TRAINING_IMAGES)
    limit = check_whole("CSCM77_IMAGES", int(limit) if limit.isdecimal() else limit)
    num_val = check_whole("num_val", num_val, 0, TRAINING_IMAGES - 1)
    batch_size = check_whole("batch_size", batch_size, 1, min(TRAINING_IMAGES - num_val, limit))
    source, device = _chosen_source(source), _usable_device(device)
    name, origin, (images, labels, *test) = _arrays(source, _searched_folders(root), device)
    border = len(labels) - num_val
    splits = (images[:border], labels[:border]), (images[border:], labels[border:]), test
    train, val, test = (Digits(x[:limit], y[:limit], name, device) for x, y in splits)
    print(f"{name}: {len(train):,} training, {len(val):,} validation and {len(test):,} test images "
          f"on {device}, from {origin}")
    return Loaders(
        DataLoader(train, batch_size, shuffle=True, drop_last=True, collate_fn=gather),
        *(DataLoader(part, batch_size, collate_fn=gather, generator=torch.Generator())
          for part in (val, test)))


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
    """The folders to search, as (words for it, path); the last one is where our own files go."""
    if root is not None:
        return [("the root argument", Path(root).expanduser())]
    named = os.environ.get("MNIST_DIR")
    shared = [("MNIST_DIR", Path(named).expanduser())] if named else []
    return [*shared, (MNIST_FOLDER.name, MNIST_FOLDER)]


def _arrays(source, folders, device):
    """The data's name, where they came from, and the bytes of the four `FILES` as tensors."""
    if source != "strokes":
        try:
            files, origin = read_mnist(folders)
            return "MNIST", origin, [_from_idx(data) for data in files]
        except MNISTUnavailable as error:
            if source == "mnist":
                raise
            print(_banner(error))
    return "stand-in digits", *_stand_ins(folders[-1], device)


def _banner(error):
    line, title = "#" * 100, "THESE ARE STAND-IN DIGITS, NOT MNIST"
    return "\n".join([
        line, title.center(len(line)).rstrip(), line,
        "Every picture and number from here on is of digits drawn from pen strokes.", str(error),
        'To stop with an error instead of going on with stand-ins: mnist_loaders(source="mnist"),',
        "or the environment variable CSCM77_SOURCE=mnist.", line])


def _stand_ins(home, device):
    """Where the stand-ins come from, and they: those kept from the last time, else new ones."""
    words, folder = home[0], home[1] / STROKES_FOLDER
    try:
        return (f"pen strokes kept in {words}", [_read_kept(folder / want.name) for want in FILES])
    except (OSError, ValueError):
        return "pen strokes", _draw_stand_ins(folder, device)


def _draw_stand_ins(folder, device):
    from cscm77.data.strokes import stand_in_digits  # only where there is no MNIST

    print("Drawing the stand-in digits; this takes a few seconds, once.")
    drawn = [values.cpu() for part in stand_in_digits(seed=0, device=device) for values in part]
    try:
        for want, values in zip(FILES, drawn, strict=True):
            path, data = folder / want.name, _to_idx(values)
            md5_line = f"{md5_of(data)}  {path.name}\n"  # as `md5sum -c` reads it
            for target, content in ((path, data), (beside(path, ".md5"), md5_line)):
                remove_unfinished(target)
                write_whole(target, content)
    except OSError as error:
        print(f"They cannot be kept in {folder} ({reason_of(error)}), "
              "and are drawn again at the next start.")
    return drawn


def _read_kept(path):
    data = path.read_bytes()
    if not beside(path, ".md5").read_text(errors="replace").startswith(md5_of(data)):
        raise ValueError(f"{path}: damaged")
    return _from_idx(data)


def _from_idx(data):
    axes = data[3]  # MNIST's format: 0, 0, type 8 = bytes, number of axes; size of each; values
    shape = struct.unpack_from(f">{axes}I", data, offset=4)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def _to_idx(values):
    header = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def checked_batches(loader):
    """Yield (floating-point images in [0, 1], labels); other batches, or none: a ValueError."""
    batch, ours = None, isinstance(getattr(loader, "dataset", None), Digits)
    known = ours and getattr(loader, "collate_fn", None) in (gather, default_collate)
    for batch in loader:
        check_batch(batch)
        images, labels = batch
        if not known:  # to look at the values of our own would be to wait for a GPU
            check_images(images)
        yield images, labels
    if batch is None:
        raise ValueError("the loader: expected at least one batch, found none")


def full_batches(loader, batch_size):
    """Yield the `checked_batches` of batch_size images, reading none ahead.

    A short last one is passed over; another size, or none of that size, is a ValueError.
    """
    size, taken = batch_size, 0
    for images, labels in checked_batches(loader):
        check_batch_size(batch_size, size)  # of the batch before: it was not the last
        size = len(images)
        if size == batch_size:
            taken += 1
            yield images, labels
    if taken == 0 or size > batch_size:
        check_batch_size(batch_size, size)
