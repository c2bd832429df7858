"""cscm77/data/loaders.py: the batches, our data in other hands, what is refused, the stand-ins."""

import itertools
import multiprocessing
import random
from pathlib import Path

import mirror
import numpy
import pytest
import torch
from tiny import NAMES, NOISE_TEST, NOISE_TRAIN, assert_is_mnist, load, noise, place, tree
from torch.utils.data import ConcatDataset, DataLoader, Subset, WeightedRandomSampler, random_split
from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.transforms import ToTensor

from cscm77.checks import check_loader
from cscm77.data import loaders as data
from cscm77.data import mnist
from cscm77.data.loaders import Digits, checked_batches, full_batches, gather

TRAIN_IMAGES, TRAIN_LABELS, _, TEST_LABELS = NAMES


def assert_equal(batches, others):
    for (x, y), (their_x, their_y) in zip(batches, others, strict=True):
        assert x.dtype == their_x.dtype and torch.equal(x, their_x)
        assert y.dtype == their_y.dtype and torch.equal(y, their_y)


def assert_is_stand_in(loaders):
    assert {loader.dataset.name for loader in loaders} == {"stand-in digits"}
    images, labels = noise(NOISE_TEST, 4)
    assert torch.equal(loaders.test.dataset.images, images[:, None].float() / 255)
    assert torch.equal(loaders.test.dataset.labels, labels)


@pytest.fixture
def loaders(files, tmp_path):
    """The loaders of the 60 + 25 pictures."""
    place(files, tmp_path / "MNIST" / "raw")
    return load(root=tmp_path)


@pytest.fixture
def digits():
    """Ten `Digits`, without any file."""
    return Digits(*noise(10, 1), "MNIST", "cpu")


# Batches ------------------------------------------------------------------------------------------

def assert_in_the_order_of_the_stock_loader(ours, folder, images, batches):
    stock = Subset(MNIST(folder, transform=ToTensor()), range(images))
    epochs = []
    for loader in ours, DataLoader(stock, ours.batch_size, shuffle=True, drop_last=True):
        assert len(loader) == images // ours.batch_size
        torch.manual_seed(0)
        taken = [*itertools.islice(itertools.chain(loader, loader), batches)]
        epochs.append([*taken, (torch.rand(3), torch.rand(3))])
    assert_equal(*epochs)


@pytest.mark.parametrize("num_val", [0, 10])
def test_batches_come_in_the_order_of_the_stock_loader(files, tmp_path, num_val):
    place(files, tmp_path / "MNIST" / "raw")
    ours = load(root=tmp_path, num_val=num_val).train
    assert_in_the_order_of_the_stock_loader(ours, tmp_path, NOISE_TRAIN - num_val, None)


def test_real_mnist_in_the_order_of_the_stock_loader(real_mnist, tmp_path):
    files, _ = mnist.read_mnist([("here", Path(real_mnist))])  # in whatever layout
    place(dict(zip(NAMES, files, strict=True)), tmp_path / "MNIST" / "raw")
    ours = data.mnist_loaders(root=real_mnist, device="cpu", source="mnist").train
    assert_in_the_order_of_the_stock_loader(ours, tmp_path, 55_000, batches=5)


def test_making_loaders_draws_no_random_number(files, tmp_path, strokes):
    place(files, tmp_path)
    before = torch.get_rng_state(), random.getstate()
    for source in ("mnist", "strokes", "strokes"):
        load(root=tmp_path, source=source)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


def test_validation_and_test_keep_their_order_and_leave_the_generator_alone(loaders):
    before = torch.get_rng_state()
    for loader, (_, labels), sizes in ((loaders.val, noise(NOISE_TRAIN, 1), [8, 2]),
                                       (loaders.test, noise(NOISE_TEST, 2), [8, 8, 8, 1])):
        batches = [y for _, y in loader]
        assert [len(y) for y in batches] == sizes
        assert torch.equal(torch.cat(batches), labels[-sum(sizes):])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_pixels_are_the_same_on_a_gpu(loaders, tmp_path):
    for here, there in zip(loaders, load(root=tmp_path, device="cuda"), strict=True):
        assert there.dataset.images.is_cuda and there.dataset.labels.is_cuda
        assert torch.equal(here.dataset.images, there.dataset.images.cpu())
        assert [x.shape for x, _ in here] == [x.shape for x, _ in there]


def test_another_default_dtype_and_numpys_numbers_change_nothing(
        files, tmp_path, double_by_default):
    place(files, tmp_path)
    again = load(root=tmp_path, batch_size=numpy.int64(8), num_val=numpy.int32(10))
    assert_is_mnist(again)
    assert next(iter(again.test))[0].dtype == torch.float32


@pytest.mark.parametrize("limit, num_val, sizes", [
    ("20", 10, [20, 10, 20]), ("8", 10, [8, 8, 8]), ("99", 10, [50, 10, 25]), ("", 0, [60, 0, 25])])
def test_the_numbers_of_images(files, tmp_path, monkeypatch, limit, num_val, sizes):
    monkeypatch.setenv("CSCM77_IMAGES", limit)
    place(files, tmp_path)
    loaders = load(root=tmp_path, num_val=num_val)
    assert [len(loader.dataset) for loader in loaders] == sizes
    assert len(loaders.val) == len(list(loaders.val)) == (sizes[1] + 7) // 8
    labels = noise(NOISE_TRAIN, 1)[1]
    assert torch.equal(loaders.train.dataset.labels, labels[:sizes[0]])
    assert torch.equal(loaders.val.dataset.labels, labels[60 - num_val:][:sizes[1]])


# Our data in other hands --------------------------------------------------------------------------

def test_our_loaders_and_their_subsets_index_once_a_batch(digits, monkeypatch):
    calls, take = [], Digits.__getitems__
    monkeypatch.setattr(Digits, "__getitems__", lambda *args: calls.append(args) or take(*args))
    monkeypatch.setattr(Digits, "__getitem__", None)
    for held in (digits, Subset(digits, range(8))):
        assert len(list(DataLoader(held, 4, collate_fn=gather))) == (len(held) + 3) // 4
    assert len(calls) == 3 + 2


by_either = pytest.mark.parametrize("collate_fn", [gather, None], ids=["ours", "torch's"])


@by_either
def test_our_data_parts_and_mixtures_of_it(digits, collate_fn):
    first, second = random_split(digits, [6, 4])
    for part, rows in ((digits, range(10)), (first, first.indices), (second, second.indices),
                       (Subset(digits, range(-3, 0)), [7, 8, 9]),
                       (ConcatDataset([first, second]), first.indices + second.indices)):
        assert_equal(DataLoader(part, 4, collate_fn=collate_fn),
                     [(digits.images[few], digits.labels[few])
                      for few in torch.tensor(rows).split(4)])
    weighted = WeightedRandomSampler([0.0] * 9 + [1.0], 6)
    (x, y), = DataLoader(digits, 6, sampler=weighted, collate_fn=collate_fn)
    assert torch.equal(x, digits.images[9:].expand(6, 1, 28, 28))
    assert (y == digits.labels[9]).all()


@by_either
@pytest.mark.parametrize("start", [
    name for name in ("fork", "spawn") if name in multiprocessing.get_all_start_methods()])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of Python 3.12's fork
def test_a_worker_loads_our_data(digits, start, collate_fn):
    worked = DataLoader(digits, 4, num_workers=1, multiprocessing_context=start,
                        collate_fn=collate_fn)
    assert_equal(worked, DataLoader(digits, 4))


# What is refused ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name, value, message", [
    ("batch_size", 51, "batch_size: expected a whole number from 1 to 50, found 51"),
    ("num_val", 60, "num_val: expected a whole number from 0 to 59, found 60"),
    ("source", "cifar", "source: expected one of auto, mnist, strokes, found 'cifar'"),
    ("device", "gpu", "device: expected 'cpu', or 'cuda' where there is one, found 'gpu'"),
    ("device", "cuda:99", "device: expected 'cpu', or 'cuda' .*, found 'cuda:99'"),
    *(("CSCM77_IMAGES", value, "CSCM77_IMAGES: expected a whole number of at least 1, found")
      for value in ("0", "-5", "many", "1.5")),
    ("CSCM77_IMAGES", "7", "batch_size: expected a whole number from 1 to 7, found 8"),
    ("CSCM77_SOURCE", "cifar", "CSCM77_SOURCE: expected one of auto, .*, found 'cifar'")])
def test_a_setting_that_makes_no_sense(files, monkeypatch, name, value, message):
    if name.isupper():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        load(**{} if name.isupper() else {name: value})


def of_sizes(*sizes):
    return [(torch.rand(size, 1, 28, 28), torch.zeros(size)) for size in sizes]


@pytest.mark.parametrize("sizes, taken, found", [
    ([4, 4], 2, None), ([4], 1, None), ([4, 4, 1], 2, None),
    ([8, 8], 0, 8), ([2, 2], 0, 2), ([4, 3, 4], 1, 3), ([100, 100, 4], 0, 100), ([2], 0, 2)])
def test_only_a_last_batch_may_be_shorter_and_none_longer(sizes, taken, found):
    batches = full_batches(of_sizes(*sizes), 4)
    assert len(list(itertools.islice(batches, taken))) == taken
    if found is None:
        assert list(batches) == []
    else:
        with pytest.raises(ValueError, match=f"^batch_size: expected batches .* of {found}$"):
            next(batches)


def test_no_batch_is_read_before_it_is_needed():
    read = []
    batches = full_batches((read.append(1) or batch for batch in of_sizes(4, 4, 4)), 4)
    next(batches)
    assert len(read) == 1


@pytest.mark.parametrize("take", [checked_batches, lambda loader: full_batches(loader, 4)])
def test_a_pass_without_a_batch_is_refused(take):
    used_up = iter(of_sizes(4))
    assert len(list(take(used_up))) == 1
    for nothing in (used_up, []):
        with pytest.raises(ValueError, match="the loader: expected at least one batch, found none"):
            list(take(nothing))


X, Y = torch.rand(4, 1, 28, 28), torch.zeros(4)
NO_BATCHES = {
    "no labels": (X, r"\(images, labels\), found a torch.float32 \(4, 1, 28, 28\)"),
    "a list of one": ([X], "found a list of 1"),
    "a triple": ((X, Y, Y), "found a tuple of 3"),
    "a dictionary": ({"x": X, "y": Y}, "found a dict"),
    "images in an array": ((X.numpy(), Y), r"images: expected a tensor \(N, ...\), found ndarray"),
    "images of no axis": ((torch.tensor(1.0), Y), r"images: expected .* torch.float32 \(\)"),
    "too few labels": ((X, Y[:3]), "labels: expected 4, one for each image, found 3"),
    "one label": ((X, Y[0]), "labels: expected 4, one for each image, found None"),
    "labels of nothing": ((X, None), "labels: expected 4, .*NoneType"),
    "values outside": ((X - 1, Y), r"images: expected values in \[0, 1\]"),
}


@pytest.mark.parametrize("batch, message", NO_BATCHES.values(), ids=NO_BATCHES)
def test_what_is_no_batch_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        next(checked_batches([batch]))


def test_values_are_looked_at_unless_they_are_ours(digits, monkeypatch):
    def doubled(samples):
        x, y = gather(samples)
        return 2 * x, y

    with pytest.raises(ValueError, match=r"images: expected values in \[0, 1\], found 0 to 2"):
        next(checked_batches(DataLoader(digits, 4, collate_fn=doubled)))
    monkeypatch.setattr(data, "check_images", None)  # it would wait for a GPU
    for collate_fn in (gather, None):
        assert len(list(checked_batches(DataLoader(digits, 4, collate_fn=collate_fn)))) == 3


NO_LOADERS = {
    "all loaders": (data.Loaders([], [], []), r"Loaders\(train, val, test\).* such as .train"),
    "a data set": (Digits(*noise(10, 1), "MNIST", "cpu"), r"the data set Digits: pass DataLoader"),
    "a pair": ((X, Y), "tensors: pass DataLoader"),
    "a tensor": (X, r"torch.float32 \(4, 1, 28, 28\)"),
    "an iterator": (iter([(X, Y)]), "a list_iterator, which can be gone through only once"),
    "a generator": ((batch for batch in [(X, Y)]), "a generator, which can be gone through"),
    "a number": (64, "int"),
    "nothing": (None, "NoneType"),
}


@pytest.mark.parametrize("loader, found", NO_LOADERS.values(), ids=NO_LOADERS)
def test_what_is_no_loader_is_refused(loader, found):
    expected = r"train_loader: expected a loader of batches \(images, labels\), found .*"
    with pytest.raises(ValueError, match=expected + found):
        check_loader("train_loader", loader)


def test_a_loader_is_accepted_without_drawing_from_it(loaders, digits):
    before = torch.get_rng_state()
    for loader in (loaders.train, [(X, Y)], DataLoader(digits, 4, shuffle=True)):
        check_loader("train_loader", loader)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="val_loader: expected at least one batch, found none"):
        check_loader("val_loader", [])


# Stand-in digits ----------------------------------------------------------------------------------

def test_without_mnist_a_banner_and_stand_ins(files, strokes, home, serve, capsys):
    servers = serve(*(mirror.FAULTS[name][0] for name in ("forbidden", "web page")))
    assert_is_stand_in(load())
    said = capsys.readouterr()
    assert "THESE ARE STAND-IN DIGITS, NOT MNIST" in said.out and said.err == ""
    assert all(f"{server.url}{TRAIN_IMAGES}.gz: " in said.out for server in servers)
    assert all(f"\n  {name}\n" in said.out for name in NAMES)
    assert str(home / "MNIST" / "raw") in said.out and 'source="mnist"' in said.out
    assert said.out.endswith("stand-in digits: 50 training, 10 validation and 25 test images "
                             "on cpu, from pen strokes\n")


def test_stand_ins_can_be_asked_for_and_are_drawn_once(files, strokes, home, capsys):
    for root in (None, home):
        assert_is_stand_in(load(source="strokes", root=root))
    said = capsys.readouterr().out
    assert strokes == [(0, "cpu")] and "NOT MNIST" not in said
    assert said.endswith("from pen strokes kept in the root argument\n")
    kept, (images, labels) = home / data.STROKES_FOLDER, noise(NOISE_TRAIN, 3)
    assert torch.equal(read_image_file(kept / TRAIN_IMAGES), images)
    assert torch.equal(read_label_file(kept / TRAIN_LABELS), labels)


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TEST_LABELS, f"{TRAIN_LABELS}.md5"])
@pytest.mark.parametrize("damage", [
    Path.unlink, lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])])
def test_damaged_stand_ins_are_drawn_again(files, strokes, home, name, damage):
    load(source="strokes")
    path = home / data.STROKES_FOLDER / name
    good = path.read_bytes()
    damage(path)
    for _ in range(2):
        assert_is_stand_in(load(source="strokes"))
    assert len(strokes) == 2 and path.read_bytes() == good


def test_stand_ins_that_cannot_be_kept_stay_in_memory(files, strokes, home, capsys, full_disk):
    assert_is_stand_in(load())
    kept = home / data.STROKES_FOLDER
    assert f"They cannot be kept in {kept} (No space left on device)" in capsys.readouterr().out
    assert tree(home) == {}


def test_the_environment_can_name_the_source(files, strokes, home, monkeypatch):
    place(files, home)
    monkeypatch.setenv("CSCM77_SOURCE", "strokes")
    assert_is_stand_in(load())
    assert_is_mnist(load(source="mnist"))
    monkeypatch.setenv("CSCM77_SOURCE", "mnist")
    (home / TRAIN_IMAGES).unlink()
    with pytest.raises(mnist.MNISTUnavailable, match="MNIST could not be had"):
        load()
