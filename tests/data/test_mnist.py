"""cscm77/data/mnist.py: every way in which MNIST can fail to arrive; nothing leaves the machine."""

import errno
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import mirror
import pytest
import torch
from tiny import NAMES, NOISE_TEST, NOISE_TRAIN, assert_is_mnist, failing, load, noise, place, tree
from torchvision.datasets import MNIST

from cscm77.data import mnist
from cscm77.data.mnist import MNISTUnavailable

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES
OUR_FILES = sorted(f"MNIST/raw/{name}" for name in NAMES)
FIRST_LINE = "MNIST: 50 training, 10 validation and 25 test images on cpu, from"


def assert_torchvision_reads(folder):
    for train, number, seed in ((True, NOISE_TRAIN, 1), (False, NOISE_TEST, 2)):
        theirs, (images, labels) = MNIST(folder, train=train), noise(number, seed)
        assert torch.equal(theirs.data, images) and torch.equal(theirs.targets, labels)


def why_not(**options):
    with pytest.raises(MNISTUnavailable) as error:
        load(source="mnist", **options)
    return str(error.value)


# Files on disk ------------------------------------------------------------------------------------

def test_files_may_lie_in_several_layouts_and_forms_whatever_their_names_say(
        files, tmp_path, capsys):
    place({TRAIN_IMAGES: files[TRAIN_IMAGES]}, tmp_path / "MNIST" / "raw")
    place({TRAIN_LABELS: files[TRAIN_LABELS]}, tmp_path / "raw", gz=True)
    place({f"{TEST_IMAGES}.gz": files[TEST_IMAGES]}, tmp_path)  # not zipped
    place({"t10k-labels.idx1-ubyte": gzip.compress(files[TEST_LABELS])}, tmp_path / "raw")
    assert_is_mnist(load(root=tmp_path))
    assert capsys.readouterr().out == f"{FIRST_LINE} the root argument\n"


def test_the_argument_goes_before_mnist_dir_and_that_before_mnist_data(
        files, tmp_path, home, monkeypatch, capsys):
    origins = []
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    monkeypatch.setenv("MNIST_DIR", str(shared))
    for folder, root in ((home, None), (shared, None), (mine, mine)):
        place(files, folder)
        assert_is_mnist(load(root=root))
        origins.append(capsys.readouterr().out.splitlines()[-1].partition("from ")[2])
    assert origins == ["MNIST_data", "MNIST_DIR", "the root argument"]


def test_an_mnist_dir_without_the_files_is_said(files, tmp_path, home, monkeypatch, capsys):
    folder = tmp_path / "mistyped"
    monkeypatch.setenv("MNIST_DIR", str(folder))
    place(files, home)
    assert_is_mnist(load())
    assert f"MNIST_DIR ({folder}) lacks 4 of the 4 files of MNIST.\n" in capsys.readouterr().out
    (home / TEST_IMAGES).unlink()
    assert f"{folder}: no such folder" in why_not()


def one_bit_flipped(raw):
    return raw[:-1] + bytes([raw[-1] ^ 1])


BROKEN = {  # of 68 bytes
    "zero length": (lambda raw: b"", "0 bytes"),
    "truncated": (lambda raw: raw[:30], "30 bytes"),
    "one byte more": (lambda raw: raw + b"\0", "69 bytes"),
    "one bit flipped": (one_bit_flipped, "68 bytes"),
    "truncated gzip": (lambda raw: gzip.compress(raw)[:-20], "[0-9]+ bytes"),
    "damaged gzip": (lambda raw: gzip.compress(raw)[:20] + bytes(80), "100 .*a damaged gzip file"),
    "empty gzip": (lambda raw: gzip.compress(b""), "0 bytes"),
    "gzip of far too much": (lambda raw: gzip.compress(raw + bytes(1 << 22)), "69 bytes"),
    "only the mark of gzip": (lambda raw: b"\x1f\x8b", "0 bytes"),
}


@pytest.mark.parametrize("damage, found", BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_with_a_file_is_said(files, damage, found):
    want = mnist.FILES[1]
    words = f"^expected 68 bytes with md5 {want.md5}, found {found}"
    with pytest.raises(mnist.Unusable, match=words):
        mnist.checked(damage(files[want.name]), want)


def test_a_broken_file_that_somebody_placed_stays_and_a_good_one_is_fetched(
        files, tmp_path, serve, capsys):
    theirs, broken = tmp_path / "MNIST" / "raw" / TRAIN_LABELS, one_bit_flipped(files[TRAIN_LABELS])
    place({**files, TRAIN_LABELS: broken}, theirs.parent)
    why = why_not(root=tmp_path)
    assert len(tree(tmp_path)) == 4
    good, = serve(None)
    assert_is_mnist(load(root=tmp_path))
    said, want = capsys.readouterr().out, mnist.FILES[1]
    words = f"{theirs}: expected {want.size:,} bytes with md5 {want.md5}"
    assert words in why and f"Not used: {words}" in said
    assert "found" in said and said.count("md5") == 2
    assert theirs.read_bytes() == broken
    assert (tmp_path / "raw" / TRAIN_LABELS).read_bytes() == files[TRAIN_LABELS]
    assert_is_mnist(load(root=tmp_path))
    assert good.asked == [f"{TRAIN_LABELS}.gz"]


def test_a_folder_in_the_place_of_a_file(files, tmp_path, capsys, serve):
    (tmp_path / "MNIST" / "raw" / TRAIN_IMAGES).mkdir(parents=True)
    serve(None)
    assert_is_mnist(load(root=tmp_path))
    said = capsys.readouterr().out
    assert f"{tmp_path / 'MNIST' / 'raw' / TRAIN_IMAGES}: cannot be read (" in said
    assert (tmp_path / "raw" / TRAIN_IMAGES).read_bytes() == files[TRAIN_IMAGES]


def test_broken_files_in_every_layout_leave_the_good_one_in_memory(files, tmp_path, serve, capsys):
    for layout in mnist.LAYOUTS:
        place({TEST_LABELS: b"mine"}, tmp_path / layout)
    serve(None)
    assert_is_mnist(load(root=tmp_path))
    assert f"another {TEST_LABELS} stands in each of the folders" in capsys.readouterr().out
    for layout in mnist.LAYOUTS:
        assert (tmp_path / layout / TEST_LABELS).read_bytes() == b"mine"


def test_a_half_written_file_under_a_temporary_name_is_never_read(files, home, serve):
    halves = {f".{name}.1234.unfinished": raw[:50] for name, raw in files.items()}
    place(halves, home / "MNIST" / "raw")
    good, = serve(None)
    assert_is_mnist(load())
    assert len(good.asked) == 4


# Fetching -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("fault, words", mirror.FAULTS.values(), ids=mirror.FAULTS)
def test_a_bad_mirror_is_named_and_the_next_one_asked(home, serve, capsys, fault, words):
    serve(fault, fault)
    why = why_not()
    assert tree(home) == {}
    *bad, good = serve(None)
    assert_is_mnist(load())
    assert capsys.readouterr().out == f"{FIRST_LINE} MNIST_data\n"
    for server in bad:
        line, = (line for line in why.splitlines() if server.url in line)
        assert re.search(words, line) and set(server.asked) == {f"{TRAIN_IMAGES}.gz"}
    assert good.asked == [f"{name}.gz" for name in NAMES]
    assert_torchvision_reads(home)
    assert sorted(tree(home)) == OUR_FILES


def test_a_mirror_that_breaks_half_way_through_the_files_is_left_for_the_next(home, serve):
    def breaks(handler, body):
        (mirror.send if len(handler.server.asked) < 3 else mirror.reset)(handler, body)

    serve(breaks)
    why_not()
    assert sorted(tree(home)) == sorted(f"MNIST/raw/{name}" for name in NAMES[:2])
    good = serve(None)[-1]
    assert_is_mnist(load())
    assert good.asked == [f"{name}.gz" for name in NAMES[2:]]
    assert_torchvision_reads(home)


def test_a_mirror_may_send_the_files_unzipped_and_a_root_argument_gets_them(
        tmp_path, home, serve, capsys):
    serve(mirror.sends(gzip.decompress))
    assert_is_mnist(load(root=tmp_path / "new"))
    assert_torchvision_reads(tmp_path / "new")
    assert not home.exists() and capsys.readouterr().out.endswith("from the root argument\n")


@pytest.mark.parametrize("address, why", [
    ("http://127.0.0.1:1/", "URLError: .*refused"), ("no address/", "unknown url type"),
    ("ftp://127.0.0.1:1/", "refused"), ("http://127.0.0.1:x/", "port")])
def test_an_address_where_no_server_is(files, monkeypatch, address, why):
    monkeypatch.setattr(mnist, "MIRRORS", [address])
    assert re.search(why, why_not())


def test_a_server_whose_certificate_nobody_signed_is_not_trusted(monkeypatch):
    context = mnist._certificates()
    assert context.check_hostname and context.verify_mode.name == "CERT_REQUIRED"
    pytest.importorskip("certifi")  # which a system without certificates borrows
    monkeypatch.setattr(mnist.ssl.SSLContext, "load_default_certs", lambda *_: None)
    assert mnist.ssl.create_default_context().cert_store_stats()["x509_ca"] == 0
    context = mnist._certificates()
    assert context.cert_store_stats()["x509_ca"] > 0
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_mnist_dir_is_searched_but_not_written(files, tmp_path, home, serve, monkeypatch, capsys):
    shared = tmp_path / "shared"
    place({TRAIN_IMAGES: files[TRAIN_IMAGES]}, shared)
    monkeypatch.setenv("MNIST_DIR", str(shared))
    good, = serve(None)
    assert_is_mnist(load())
    assert list(tree(shared)) == [TRAIN_IMAGES] and len(good.asked) == 3
    assert f"MNIST_DIR ({shared}) lacks 3 of the 4 files" in capsys.readouterr().out
    assert len(tree(home / "MNIST" / "raw")) == 3


@pytest.mark.parametrize("function, number, calls, kept", [
    ("replace", errno.EROFS, 0, []), ("fsync", errno.ENOSPC, 0, []),
    ("fsync", errno.ENOSPC, 2, [TRAIN_IMAGES, TRAIN_LABELS])])
def test_a_folder_that_cannot_be_written_leaves_mnist_in_memory_and_no_half_file(
        home, serve, monkeypatch, capsys, function, number, calls, kept):
    good, = serve(None)
    works, times = getattr(os, function), itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(os, function, lambda *given: (
            works if next(times) < calls else failing(number))(*given))
        assert_is_mnist(load())
    said = capsys.readouterr().out
    words = f"MNIST was fetched, but cannot be kept in {home} ({os.strerror(number)});"
    assert said.count(words) == 1 and len(good.asked) == 4
    assert said.endswith(f"from {'MNIST_data and ' * bool(kept)}the network\n")
    assert sorted(tree(home)) == sorted(f"MNIST/raw/{name}" for name in kept)
    assert_is_mnist(load())


def test_a_file_where_the_folder_should_be(tmp_path, serve, capsys):
    (tmp_path / "file").write_text("mine")
    serve(None)
    assert_is_mnist(load(root=tmp_path / "file"))
    assert f"cannot be kept in {tmp_path / 'file'} (" in capsys.readouterr().out
    assert (tmp_path / "file").read_text() == "mine"


CHILD = """
import json, sys
from pathlib import Path
from cscm77.data import mnist
folder, address, table = json.loads(sys.argv[1])
mnist.FILES = [mnist.DataFile(*row) for row in table]
mnist.MIRRORS = [address]
files, origin = mnist.read_mnist([("here", Path(folder))])
assert [*map(len, files)] == [want.size for want in mnist.FILES] and origin == "here", origin
"""


def test_two_processes_may_fetch_at_once(home, serve):
    together = threading.Barrier(2, timeout=60)

    def wait_for_the_other(handler, body):
        together.wait()
        mirror.send(handler, body)

    server, = serve(wait_for_the_other)
    task = json.dumps([str(home), server.url, mnist.FILES])
    command = [sys.executable, "-W", "error", "-c", CHILD, task]
    checkout = Path(mnist.__file__).parents[2]
    children = [subprocess.Popen(command, cwd=checkout, stderr=subprocess.PIPE) for _ in range(2)]
    results = [(child.communicate()[1], child.returncode) for child in children]
    assert results == [(b"", 0)] * 2
    assert len(server.asked) == 8
    assert sorted(tree(home)) == OUR_FILES
    assert_torchvision_reads(home)


def test_the_list_of_mirrors(monkeypatch):
    monkeypatch.undo()
    assert mnist.MIRRORS[0] in MNIST.mirrors  # older ones have a dead one before it
    assert [f"{want.name}.gz" for want in mnist.FILES] == [name for name, _ in MNIST.resources]
