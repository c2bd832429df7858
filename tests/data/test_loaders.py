"""The loaders, and every way in which MNIST can fail to arrive. Nothing here leaves the machine."""

import errno
import gzip
import json
import os
import random
import re
import subprocess
import sys
import threading
import types
from pathlib import Path

import mirror
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.transforms import ToTensor

from cscm77.data import loaders as data
from cscm77.data import mnist as download
from cscm77.data.loaders import MNISTUnavailable, mnist_loaders

REAL_MNIST = os.environ.get("MNIST_DIR")
NUM_TRAIN, NUM_TEST = 60, 25
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES = [want.name for want in download.FILES]


def idx(values):
    """Write MNIST's file format by its definition, apart from the code under test."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + bytes(values.flatten().tolist())


def zipped(raw):
    return gzip.compress(raw, mtime=0)  # the same bytes at any time


def digits(number, seed):
    """Draw random pictures and labels."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 256, (number, 28, 28), generator=rng, dtype=torch.uint8),
            torch.randint(0, 10, (number,), generator=rng))


def tree(folder):
    """Give {relative path: bytes} of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Cut every test off from the network and from the caller's settings; give the folder of our own downloads."""
    for name in ("MNIST_DIR", "CSCM77_IMAGES", "CSCM77_SOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "mirrors", list)
    monkeypatch.setattr(data, "MNIST_FOLDER", tmp_path / "MNIST_data")
    return tmp_path / "MNIST_data"


@pytest.fixture
def tiny(monkeypatch):
    """Put a data set of 60 + 25 images in the place of MNIST; give its files as {name: bytes}."""
    files = dict(zip(NAMES, map(idx, (*digits(NUM_TRAIN, 1), *digits(NUM_TEST, 2))), strict=True))
    table = tuple(download.DataFile(name, len(raw), download.md5_of(raw)) for name, raw in files.items())
    monkeypatch.setattr(download, "FILES", table)
    monkeypatch.setattr(data, "FILES", table)
    monkeypatch.setattr(data, "TRAINING_IMAGES", NUM_TRAIN)
    return files


@pytest.fixture
def strokes(monkeypatch):
    """Put quick random pictures in the place of the stand-in digits; give the list of calls that drew them."""
    calls = []

    def stand_in_digits(seed=0, device="cpu"):
        calls.append((seed, str(device)))
        return digits(NUM_TRAIN, 3), digits(NUM_TEST, 4)

    monkeypatch.setitem(sys.modules, "cscm77.data.strokes", types.SimpleNamespace(stand_in_digits=stand_in_digits))
    return calls


@pytest.fixture
def serve(tiny, monkeypatch):
    """Give a function that starts one mirror for each fault (None for a good one) and has MNIST fetched from them."""
    running = []

    def start(*faults):
        running.extend(mirror.Mirror(tiny, fault) for fault in faults)
        monkeypatch.setattr(download, "mirrors", lambda: [server.url for server in running])
        return running

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def hurry(monkeypatch):
    """Give a function that lowers one time limit while the client talks to certain servers, and to no others."""
    patient = download._download

    def with_servers(limit, servers):
        usual = getattr(download, limit)

        def impatient(url, most):
            setattr(download, limit, 0.2 if any(url.startswith(server.url) for server in servers) else usual)
            return patient(url, most)

        monkeypatch.setattr(download, limit, usual)  # so that it is put back in the end
        monkeypatch.setattr(download, "_download", impatient)

    return with_servers


def place(files, folder, gz=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / (name + ".gz" * gz)).write_bytes(zipped(raw) if gz else raw)


def load(**options):
    return mnist_loaders(**{"batch_size": 8, "num_val": 10, "device": "cpu", **options})


def assert_is_mnist(loaders):
    """Check every byte of the three splits against the tiny data set."""
    images, labels = digits(NUM_TRAIN, 1)
    test_images, test_labels = digits(NUM_TEST, 2)
    parts = [(images[:50], labels[:50]), (images[50:], labels[50:]), (test_images, test_labels)]
    for loader, (pictures, answers) in zip(loaders, parts, strict=True):
        assert loader.dataset.name == "MNIST"
        assert torch.equal(loader.dataset.images, pictures[:, None].float() / 255)
        assert torch.equal(loader.dataset.labels, answers)


def assert_is_stand_in(loaders):
    assert {loader.dataset.name for loader in loaders} == {"stand-in digits"}
    assert torch.equal(loaders.test.dataset.images, digits(NUM_TEST, 4)[0][:, None].float() / 255)
    assert torch.equal(loaders.test.dataset.labels, digits(NUM_TEST, 4)[1])


def assert_torchvision_reads(folder):
    for train, (images, labels) in ((True, digits(NUM_TRAIN, 1)), (False, digits(NUM_TEST, 2))):
        theirs = MNIST(folder, train=train)
        assert torch.equal(theirs.data, images) and torch.equal(theirs.targets, labels)


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


# Loaders ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("num_val", [0, 10])
def test_batches_come_in_the_order_of_the_stock_loader(tiny, tmp_path, num_val):
    place(tiny, tmp_path / "MNIST" / "raw")
    ours = load(root=tmp_path, num_val=num_val).train
    stock = MNIST(tmp_path, transform=ToTensor())
    theirs = DataLoader(Subset(stock, range(NUM_TRAIN - num_val)), 8, shuffle=True, drop_last=True)
    epochs = []
    for loader in (ours, theirs):
        torch.manual_seed(0)
        epochs.append([batch for _ in range(2) for batch in loader] + [(torch.rand(3), torch.rand(3))])
    for (x, y), (their_x, their_y) in zip(*epochs, strict=True):
        assert x.dtype == their_x.dtype and torch.equal(x, their_x)
        assert y.dtype == their_y.dtype and torch.equal(y, their_y)


def test_making_loaders_draws_no_random_number(tiny, tmp_path, strokes):
    place(tiny, tmp_path)
    before = torch.get_rng_state(), random.getstate()
    for source in ("mnist", "strokes", "strokes"):
        load(root=tmp_path, source=source)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


def test_validation_and_test_keep_their_order_and_leave_the_generator_alone(tiny, tmp_path):
    place(tiny, tmp_path)
    loaders = load(root=tmp_path)
    before = torch.get_rng_state()
    for loader, (_, labels), sizes in ((loaders.val, digits(NUM_TRAIN, 1), [8, 2]),
                                       (loaders.test, digits(NUM_TEST, 2), [8, 8, 8, 1])):
        batches = [y for _, y in loader]
        assert [len(y) for y in batches] == sizes
        assert torch.equal(torch.cat(batches), labels[-sum(sizes):])
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_and_a_single_image(tiny, tmp_path):
    place(tiny, tmp_path)
    loaders = load(root=tmp_path)
    x, y = next(iter(loaders.train))
    assert x.shape == (8, 1, 28, 28) and x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1
    assert y.shape == (8,) and y.dtype == torch.int64
    x, y = loaders.train.dataset[3]
    assert x.shape == (1, 28, 28) and y.shape == ()
    assert len(loaders.train) == 6 and len(loaders.train.dataset) == 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_pixels_are_the_same_on_a_gpu(tiny, tmp_path):
    place(tiny, tmp_path)
    for here, there in zip(load(root=tmp_path), load(root=tmp_path, device="cuda"), strict=True):
        assert there.dataset.images.is_cuda and there.dataset.labels.is_cuda
        assert torch.equal(here.dataset.images, there.dataset.images.cpu())
        for (x, y), (their_x, their_y) in zip(here, there, strict=True):
            assert x.shape == their_x.shape and y.shape == their_y.shape


def test_without_validation_images_that_loader_is_empty(tiny, tmp_path):
    place(tiny, tmp_path)
    loaders = load(root=tmp_path, num_val=0)
    assert len(loaders.train.dataset) == NUM_TRAIN and len(loaders.val) == 0 and list(loaders.val) == []


@pytest.mark.parametrize("limit, sizes", [(20, [20, 10, 20]), (8, [8, 8, 8]), (1000, [50, 10, 25])])
def test_the_number_of_images_can_be_limited(tiny, tmp_path, monkeypatch, limit, sizes):
    monkeypatch.setenv("CSCM77_IMAGES", str(limit))
    place(tiny, tmp_path)
    loaders = load(root=tmp_path)
    assert [len(loader.dataset) for loader in loaders] == sizes
    labels = digits(NUM_TRAIN, 1)[1]
    assert torch.equal(loaders.train.dataset.labels, labels[:sizes[0]])
    assert torch.equal(loaders.val.dataset.labels, labels[50:50 + sizes[1]])


@pytest.mark.parametrize("options, expected, found", [
    ({"batch_size": 0}, "batch_size: expected a whole number from 1 to 50,", "found 0"),
    ({"batch_size": 51}, "from 1 to 50, the training images at hand", "found 51"),
    ({"batch_size": 8.0}, "batch_size: expected a whole number", "found 8.0"),
    ({"num_val": -1}, "num_val: expected a whole number from 0 to 59", "found -1"),
    ({"num_val": 60}, "num_val: expected a whole number from 0 to 59", "found 60"),
    ({"source": "cifar"}, "source: expected one of auto, mnist, strokes", "found 'cifar'"),
    ({"device": "gpu"}, "device: expected 'cpu', or 'cuda' where there is one", "found 'gpu'"),
    ({"device": "cuda:99"}, "device: expected 'cpu', or 'cuda' where there is one", "found 'cuda:99'"),
])
def test_a_setting_that_makes_no_sense(tiny, options, expected, found):
    with pytest.raises(ValueError) as error:
        load(**options)
    assert expected in str(error.value) and found in str(error.value)


@pytest.mark.parametrize("name, value", [("CSCM77_IMAGES", "0"), ("CSCM77_IMAGES", "-5"), ("CSCM77_IMAGES", "many"),
                                         ("CSCM77_IMAGES", "1.5"), ("CSCM77_SOURCE", "cifar")])
def test_an_environment_variable_that_makes_no_sense(tiny, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name}: expected .*, found '{value}'"):
        load()


def test_a_limit_below_the_batch_size(tiny, monkeypatch):
    monkeypatch.setenv("CSCM77_IMAGES", "7")
    with pytest.raises(ValueError, match="batch_size: expected a whole number from 1 to 7, .*found 8"):
        load()


# Files on disk ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("layout", ["MNIST/raw", "raw", "."])
def test_every_layout_is_found(tiny, tmp_path, capsys, layout, gz):
    place(tiny, tmp_path / layout, gz)
    assert_is_mnist(load(root=tmp_path))
    assert capsys.readouterr().out == ("MNIST: 50 training, 10 validation and 25 test images on cpu, "
                                       "from the root argument\n")


def test_files_may_lie_in_several_layouts_and_forms(tiny, tmp_path):
    for (name, raw), layout in zip(tiny.items(), ("MNIST/raw", "raw", ".", "raw"), strict=True):
        place({name: raw}, tmp_path / layout, gz=layout == "raw")
    assert_is_mnist(load(root=tmp_path))


def test_a_file_may_be_zipped_or_not_whatever_its_name_says(tiny, tmp_path):
    place(tiny, tmp_path)
    (tmp_path / TEST_LABELS).write_bytes(zipped(tiny[TEST_LABELS]))
    (tmp_path / TEST_IMAGES).rename(tmp_path / f"{TEST_IMAGES}.gz")
    assert_is_mnist(load(root=tmp_path))


def test_the_argument_goes_before_mnist_dir_and_that_before_mnist_data(tiny, tmp_path, home, monkeypatch, capsys):
    origins = []
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "shared"))
    for folder, root in ((home, None), (tmp_path / "shared", None), (tmp_path / "mine", tmp_path / "mine")):
        place(tiny, folder)
        assert_is_mnist(load(root=root))
        origins.append(capsys.readouterr().out.splitlines()[-1].partition("from ")[2])
    assert origins == ["MNIST_data", "MNIST_DIR", "the root argument"]


def test_an_mnist_dir_without_the_files_is_said(tiny, tmp_path, home, monkeypatch, capsys):
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "mistyped"))
    place(tiny, home)
    assert_is_mnist(load())
    assert "MNIST_DIR lacks 4 of the 4 files of MNIST; those come from elsewhere." in capsys.readouterr().out


BROKEN = {
    "zero length": lambda raw: b"",
    "truncated": lambda raw: raw[:len(raw) // 2],
    "one byte more": lambda raw: raw + b"\0",
    "one bit flipped": lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
    "a web page": lambda raw: b"<!DOCTYPE html><html>Not found</html>",
    "truncated gzip": lambda raw: zipped(raw)[:-20],
    "empty gzip": lambda raw: zipped(b""),
    "gzip of far too much": lambda raw: zipped(raw + bytes(1 << 22)),
    "only the mark of gzip": lambda raw: b"\x1f\x8b",
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_that_somebody_placed_stays_and_a_good_one_is_fetched(tiny, tmp_path, serve, capsys, damage):
    place(tiny, tmp_path / "MNIST" / "raw")
    theirs = tmp_path / "MNIST" / "raw" / TRAIN_LABELS
    theirs.write_bytes(damage(tiny[TRAIN_LABELS]))
    good, = serve(None)
    assert_is_mnist(load(root=tmp_path))
    said = capsys.readouterr().out
    want = download.FILES[1]
    assert f"Not MNIST, so not used: {theirs}: expected {want.size:,} bytes with md5 {want.md5}" in said
    assert "found" in said and said.count("md5") == 2
    assert theirs.read_bytes() == damage(tiny[TRAIN_LABELS])
    assert (tmp_path / "raw" / TRAIN_LABELS).read_bytes() == tiny[TRAIN_LABELS]
    assert_is_mnist(load(root=tmp_path))
    assert good.asked == [f"{TRAIN_LABELS}.gz"]


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_without_a_mirror_is_named(tiny, tmp_path, damage):
    place(tiny, tmp_path)
    broken = damage(tiny[TEST_IMAGES])
    (tmp_path / TEST_IMAGES).write_bytes(broken)
    with pytest.raises(MNISTUnavailable) as error:
        load(root=tmp_path, source="mnist")
    assert f"{tmp_path / TEST_IMAGES}: expected {len(tiny[TEST_IMAGES]):,} bytes with md5" in str(error.value)
    assert (tmp_path / TEST_IMAGES).read_bytes() == broken and len(tree(tmp_path)) == 4


def test_swapped_files_are_both_named(tiny, tmp_path):
    place({**tiny, TRAIN_LABELS: tiny[TEST_LABELS], TEST_LABELS: tiny[TRAIN_LABELS]}, tmp_path)
    with pytest.raises(MNISTUnavailable) as error:
        load(root=tmp_path, source="mnist")
    for name, size, found in ((TRAIN_LABELS, 68, 33), (TEST_LABELS, 33, 68)):
        assert f"{tmp_path / name}: expected {size} bytes with md5" in str(error.value)
        assert f"found {found} bytes with md5" in str(error.value)


def test_a_folder_in_the_place_of_a_file(tiny, tmp_path, capsys, serve):
    (tmp_path / "MNIST" / "raw" / TRAIN_IMAGES).mkdir(parents=True)
    serve(None)
    assert_is_mnist(load(root=tmp_path))
    assert f"{tmp_path / 'MNIST' / 'raw' / TRAIN_IMAGES}: cannot be read (" in capsys.readouterr().out
    assert (tmp_path / "raw" / TRAIN_IMAGES).read_bytes() == tiny[TRAIN_IMAGES]


def test_broken_files_in_every_layout_leave_the_good_one_in_memory(tiny, tmp_path, serve, capsys):
    for layout in download.LAYOUTS:
        place({TEST_LABELS: b"mine"}, tmp_path / layout)
    serve(None)
    assert_is_mnist(load(root=tmp_path))
    assert f"another {TEST_LABELS} stands in each of the folders" in capsys.readouterr().out
    for layout in download.LAYOUTS:
        assert (tmp_path / layout / TEST_LABELS).read_bytes() == b"mine"


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_download_of_ours_is_fetched_again(tiny, home, serve, damage):
    good, = serve(None)
    load()
    ours = home / "MNIST" / "raw" / TRAIN_IMAGES
    ours.write_bytes(damage(tiny[TRAIN_IMAGES]))
    assert_is_mnist(load())
    assert good.asked == [f"{name}.gz" for name in (*NAMES, TRAIN_IMAGES)]
    assert ours.read_bytes() == tiny[TRAIN_IMAGES]
    aside, = ours.parent.glob("*.damaged-*")
    assert aside.read_bytes() == damage(tiny[TRAIN_IMAGES])
    assert_torchvision_reads(home)


def test_a_broken_download_of_ours_stays_until_there_is_a_better_one(tiny, home, serve, monkeypatch):
    serve(None)
    load()
    (home / "MNIST" / "raw" / TRAIN_IMAGES).write_bytes(b"half")
    before = tree(home)
    monkeypatch.setattr(download, "mirrors", list)
    with pytest.raises(MNISTUnavailable, match="expected 47,056 bytes .*found 4 bytes"):
        load(source="mnist")
    assert tree(home) == before


def test_a_half_written_file_under_a_temporary_name_is_never_read(tiny, home, serve):
    place({f".{name}.1234.part": raw[:50] for name, raw in tiny.items()}, home / "MNIST" / "raw")
    good, = serve(None)
    assert_is_mnist(load())
    assert len(good.asked) == 4


# Fetching -----------------------------------------------------------------------------------------------------------

FAULTS = {
    mirror.forbidden: "found status 403",
    mirror.not_found: "found status 404",
    mirror.overloaded: "found status 503",
    mirror.redirected_in_a_circle: "found status 302",
    mirror.web_page: "bytes with md5 [0-9a-f]{32} \\(a web page\\)",
    mirror.zipped_web_page: "bytes with md5 [0-9a-f]{32} \\(a web page\\)",
    mirror.empty: "found 0 bytes with md5",
    mirror.cut_short: "cut short: expected [0-9,]+ bytes, found [0-9,]+",
    mirror.cut_short_unnoticed: "does not unzip to it \\(Compressed file ended",
    mirror.other_bytes: "expected 47,056 bytes with md5 .*, found 47,056 bytes with md5",
    mirror.damaged_zip: "does not unzip to it \\(CRC check failed",
    mirror.far_too_long: "does not unzip to it \\(more than 47,056 bytes come out",
    mirror.no_http: "BadStatusLine",
    mirror.reset: "Connection(Reset|Aborted)Error|RemoteDisconnected",
    mirror.silent: "no answer within",
    mirror.stuck: "no answer within",
    mirror.dripping_header: "expected the file within .* found 0 bytes by then",
    mirror.dripping_body: "expected the file within .* found [0-9,]+ bytes by then",
}
LIMITS = {mirror.silent: "SILENCE", mirror.stuck: "SILENCE",  # what ends the wait, where it is not the server
          mirror.dripping_header: "FIRST_BYTE", mirror.dripping_body: "WHOLE_FILE"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_after_a_bad_mirror_comes_a_good_one(tiny, home, serve, hurry, capsys, fault):
    bad, good = serve(fault, None)
    if fault in LIMITS:
        hurry(LIMITS[fault], [bad])
    assert_is_mnist(load())
    assert capsys.readouterr().out == "MNIST: 50 training, 10 validation and 25 test images on cpu, from MNIST_data\n"
    assert bad.asked[0] == f"{TRAIN_IMAGES}.gz" and set(bad.asked) == {f"{TRAIN_IMAGES}.gz"}
    assert good.asked == [f"{name}.gz" for name in NAMES]
    assert_torchvision_reads(home)
    assert sorted(tree(home)) == sorted(f"MNIST/raw/{name}{end}" for name in NAMES for end in ("", ".md5"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_when_every_mirror_is_bad_the_error_says_why(home, serve, hurry, fault):
    servers = serve(fault, fault)
    if fault in LIMITS:
        hurry(LIMITS[fault], servers)
    with pytest.raises(MNISTUnavailable) as error:
        load(source="mnist")
    for server in servers:
        line, = (line for line in str(error.value).splitlines() if server.url in line)
        assert re.search(FAULTS[fault], line)
    assert tree(home) == {}


def test_a_mirror_that_breaks_half_way_through_the_files_is_left_for_the_next(home, serve):
    def breaks(handler, body):
        (mirror.send if len(handler.server.asked) < 3 else mirror.reset)(handler, body)

    first, second = serve(breaks, None)
    assert_is_mnist(load())
    assert len(first.asked) == 3 and second.asked == [f"{TEST_IMAGES}.gz", f"{TEST_LABELS}.gz"]
    assert_torchvision_reads(home)


def test_what_was_fetched_before_all_mirrors_broke_is_kept(home, serve):
    def breaks(handler, body):
        (mirror.send if len(handler.server.asked) < 3 else mirror.reset)(handler, body)

    serve(breaks)
    with pytest.raises(MNISTUnavailable):
        load(source="mnist")
    assert sorted(tree(home)) == sorted(f"MNIST/raw/{name}{end}" for name in NAMES[:2] for end in ("", ".md5"))
    good = serve(None)[-1]
    assert_is_mnist(load())
    assert good.asked == [f"{name}.gz" for name in NAMES[2:]]


def test_a_mirror_may_send_the_files_unzipped(home, serve):
    serve(mirror.unzipped)
    assert_is_mnist(load())
    assert_torchvision_reads(home)


@pytest.mark.parametrize("address, why", [("http://127.0.0.1:1/", "ConnectionRefusedError"),
                                          ("no address/", "unknown url type"),
                                          ("ftp://127.0.0.1:1/", "refused"), ("http://127.0.0.1:x/", "port")])
def test_an_address_where_no_server_is(tiny, monkeypatch, address, why):
    monkeypatch.setattr(download, "mirrors", lambda: [address])
    with pytest.raises(MNISTUnavailable, match=why):
        load(source="mnist")


def test_a_server_whose_certificate_nobody_signed_is_not_trusted():
    context = download._certificates()
    assert context.check_hostname and context.verify_mode.name == "CERT_REQUIRED"


def test_a_system_without_certificates_borrows_those_of_certifi(monkeypatch):
    pytest.importorskip("certifi")
    monkeypatch.setattr(download.ssl.SSLContext, "load_default_certs", lambda *_: None)
    monkeypatch.setattr(download, "_certificates", download._certificates.__wrapped__)  # without its cache
    assert download.ssl.create_default_context().cert_store_stats()["x509_ca"] == 0
    context = download._certificates()
    assert context.cert_store_stats()["x509_ca"] > 0 and context.verify_mode.name == "CERT_REQUIRED"


def test_a_root_argument_gets_the_files(tiny, tmp_path, home, serve, capsys):
    serve(None)
    assert_is_mnist(load(root=tmp_path / "new"))
    assert_torchvision_reads(tmp_path / "new")
    assert not home.exists() and capsys.readouterr().out.endswith("from the root argument\n")


def test_mnist_dir_is_searched_but_not_written(tiny, tmp_path, home, serve, monkeypatch, capsys):
    place({TRAIN_IMAGES: tiny[TRAIN_IMAGES]}, tmp_path / "shared")
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "shared"))
    good, = serve(None)
    assert_is_mnist(load())
    assert list(tree(tmp_path / "shared")) == [TRAIN_IMAGES] and len(good.asked) == 3
    assert "MNIST_DIR lacks 3 of the 4 files" in capsys.readouterr().out
    assert len(tree(home / "MNIST" / "raw")) == 6


@pytest.mark.parametrize("function, failure", [("replace", read_only), ("fsync", no_space)],
                         ids=["read-only", "no space left"])
def test_a_folder_that_cannot_be_written_leaves_mnist_in_memory(home, serve, monkeypatch, capsys, function, failure):
    good, = serve(None)
    monkeypatch.setattr(os, function, failure)
    assert_is_mnist(load())
    said = capsys.readouterr().out
    assert said.count(f"MNIST was fetched, but cannot be kept in {home} (") == 1
    assert said.endswith("from the network\n") and len(good.asked) == 4
    assert tree(home) == {}


def test_a_file_where_the_folder_should_be(tiny, tmp_path, serve, capsys):
    (tmp_path / "file").write_text("mine")
    serve(None)
    assert_is_mnist(load(root=tmp_path / "file"))
    assert f"cannot be kept in {tmp_path / 'file'} (" in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "mine"


def test_space_that_runs_out_half_way_leaves_no_half_file(tiny, home, serve, monkeypatch):
    serve(None)
    synced, fsync = [], os.fsync

    def runs_out(number):
        synced.append(number)
        return fsync(number) if len(synced) <= 3 else no_space()

    monkeypatch.setattr(os, "fsync", runs_out)
    assert_is_mnist(load())
    assert sorted(tree(home)) == sorted(f"MNIST/raw/{name}" for name in (TRAIN_IMAGES, f"{TRAIN_IMAGES}.md5",
                                                                         TRAIN_LABELS))
    monkeypatch.setattr(os, "fsync", fsync)
    assert_is_mnist(load())


def test_an_interrupt_while_writing_leaves_no_half_file(home, serve, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    serve(None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert tree(home) == {}
    assert_is_mnist(load())


CHILD = """
import json, sys
from pathlib import Path
from cscm77.data import mnist as download
folder, address, table = json.loads(sys.argv[1])
download.FILES = [download.DataFile(*row) for row in table]
download.mirrors = lambda: [address]
files, origin = download.read_mnist([download.Place("here", Path(folder))])
assert sorted(files) == sorted(want.name for want in download.FILES) and origin == "here", origin
"""


def test_two_processes_may_fetch_at_once(tiny, home, serve):
    together = threading.Barrier(2, timeout=60)

    def wait_for_the_other(handler, body):
        together.wait()
        mirror.send(handler, body)

    server, = serve(wait_for_the_other)
    task = json.dumps([str(home), server.url, download.FILES])
    command = [sys.executable, "-W", "error", "-c", CHILD, task]
    place_of_package = Path(data.__file__).parents[2]
    children = [subprocess.Popen(command, cwd=place_of_package, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(child.communicate()[1], child.returncode) for child in children] == [(b"", 0)] * 2
    assert len(server.asked) == 8
    assert sorted(tree(home)) == sorted(f"MNIST/raw/{name}{end}" for name in NAMES for end in ("", ".md5"))
    assert_torchvision_reads(home)


def test_the_list_of_mirrors(monkeypatch):
    monkeypatch.undo()
    addresses = download.mirrors()
    assert addresses[0] == MNIST.mirrors[0] and addresses[-1] == download.SECOND_HOST
    assert not any("lecun" in address for address in addresses)
    assert [f"{want.name}.gz" for want in download.FILES] == [name for name, _ in MNIST.resources]


# Stand-in digits ----------------------------------------------------------------------------------------------------

def test_without_mnist_a_banner_and_stand_ins(tiny, strokes, home, serve, capsys):
    servers = serve(mirror.forbidden, mirror.web_page)
    assert_is_stand_in(load())
    said = capsys.readouterr()
    assert "THESE ARE STAND-IN DIGITS, NOT MNIST" in said.out and said.err == ""
    assert all(f"{server.url}{TRAIN_IMAGES}.gz: expected" in said.out for server in servers)
    assert all(f"\n  {name}\n" in said.out for name in NAMES)
    assert str(home / "MNIST" / "raw") in said.out and 'source="mnist"' in said.out
    assert said.out.endswith("stand-in digits: 50 training, 10 validation and 25 test images on cpu, "
                             "from pen strokes\n")


def test_stand_ins_can_be_asked_for_and_are_drawn_once(tiny, strokes, home, capsys):
    for _ in range(2):
        assert_is_stand_in(load(source="strokes"))
    said = capsys.readouterr().out
    assert strokes == [(0, "cpu")] and "NOT MNIST" not in said
    assert said.endswith("from pen strokes kept in MNIST_data\n")
    kept = home / data.STROKES_FOLDER
    assert torch.equal(read_image_file(kept / TRAIN_IMAGES), digits(NUM_TRAIN, 3)[0])
    assert torch.equal(read_label_file(kept / TRAIN_LABELS), digits(NUM_TRAIN, 3)[1])


def test_stand_ins_are_kept_in_the_root_argument(tiny, strokes, tmp_path, home):
    load(source="strokes", root=tmp_path / "mine")
    assert (tmp_path / "mine" / data.STROKES_FOLDER / TRAIN_IMAGES).exists() and not home.exists()


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TEST_LABELS, f"{TRAIN_LABELS}.md5", f"{TEST_IMAGES}.md5"])
@pytest.mark.parametrize("damage", ["emptied", "changed", "gone"])
def test_damaged_stand_ins_are_drawn_again(tiny, strokes, home, name, damage):
    load(source="strokes")
    path = home / data.STROKES_FOLDER / name
    good = path.read_bytes()
    path.write_bytes({"emptied": b"", "changed": bytes([good[0] ^ 1]) + good[1:], "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    for _ in range(2):
        assert_is_stand_in(load(source="strokes"))
    assert len(strokes) == 2 and path.read_bytes() == good


@pytest.mark.parametrize("raw", [b"", b"\0\0\x08", b"\0\0\x08\x03", b"\0\0\x08\x00", b"\0\0\x09\x01\0\0\0\x01a",
                                 b"\0\0\x08\x01\0\0\0\x02a", b"\0\0\x08\x01\0\0\0\x01ab", b"PK\x03\x04 a zip file"])
def test_kept_stand_ins_of_another_format_are_drawn_again(tiny, strokes, home, raw):
    load(source="strokes")
    download.keep(home / data.STROKES_FOLDER / TEST_LABELS, raw)
    assert_is_stand_in(load(source="strokes"))
    assert len(strokes) == 2


@pytest.mark.parametrize("function, failure", [("replace", read_only), ("fsync", no_space)],
                         ids=["read-only", "no space left"])
def test_stand_ins_that_cannot_be_kept_stay_in_memory(tiny, strokes, home, monkeypatch, capsys, function, failure):
    monkeypatch.setattr(os, function, failure)
    assert_is_stand_in(load())
    assert f"They cannot be kept in {home / data.STROKES_FOLDER} (" in capsys.readouterr().out
    assert tree(home) == {}


def test_the_environment_can_name_the_source(tiny, strokes, home, monkeypatch):
    place(tiny, home)
    monkeypatch.setenv("CSCM77_SOURCE", "strokes")
    assert_is_stand_in(load())
    assert_is_mnist(load(source="mnist"))
    monkeypatch.setenv("CSCM77_SOURCE", "mnist")
    (home / TRAIN_IMAGES).unlink()
    with pytest.raises(MNISTUnavailable, match="MNIST could not be had"):
        load()


# Real MNIST ---------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not REAL_MNIST, reason="MNIST_DIR is not set")
def test_real_mnist_in_the_order_of_the_stock_loader(monkeypatch, tmp_path):
    monkeypatch.setenv("MNIST_DIR", REAL_MNIST)
    ours = mnist_loaders(device="cpu", source="mnist").train
    files, _ = download.read_mnist([download.Place("MNIST_DIR", Path(REAL_MNIST))])
    place(files, tmp_path / "MNIST" / "raw")  # torchvision's layout, whatever that of MNIST_DIR is
    stock = MNIST(tmp_path, transform=ToTensor())
    theirs = DataLoader(Subset(stock, range(55_000)), 128, shuffle=True, drop_last=True)
    assert len(ours) == len(theirs) == 429
    batches = []
    for loader in (ours, theirs):
        torch.manual_seed(0)
        batches.append([batch for _, batch in zip(range(5), loader, strict=False)])
    for (x, y), (their_x, their_y) in zip(*batches, strict=True):
        assert torch.equal(x, their_x) and torch.equal(y, their_y)
