"""Noise in the place of MNIST and of the stand-in digits, and mirrors on this machine alone."""

import sys
import types

import mirror
import pytest
from tiny import NOISE_TEST, NOISE_TRAIN, in_place_of_mnist, noise

from cscm77.data import loaders, mnist


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The folder of our own downloads; every test is cut off from the network."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(loaders, "MNIST_FOLDER", tmp_path / "MNIST_data")
    return tmp_path / "MNIST_data"


@pytest.fixture
def files(monkeypatch):
    """60 + 25 pictures of noise in the place of MNIST: {name: bytes}."""
    return in_place_of_mnist(monkeypatch, noise(NOISE_TRAIN, 1), noise(NOISE_TEST, 2))


@pytest.fixture
def strokes(monkeypatch):
    """Noise in the place of the stand-in digits: the list of calls that drew it."""
    calls = []

    def stand_in_digits(seed=0, device="cpu"):
        calls.append((seed, str(device)))
        return noise(NOISE_TRAIN, 3), noise(NOISE_TEST, 4)

    module = types.SimpleNamespace(stand_in_digits=stand_in_digits)
    monkeypatch.setitem(sys.modules, "cscm77.data.strokes", module)
    return calls


@pytest.fixture
def serve(files, monkeypatch):
    """A function that starts a mirror for each fault (None for a good one) and names them."""
    running, download = [], mnist._download

    def start(*faults):
        running.extend(mirror.Mirror(files, fault) for fault in faults)
        monkeypatch.setattr(mnist, "MIRRORS", [server.url for server in running])
        return running

    def impatient(url, most):  # with the servers that make us wait, and with those alone
        server, = (server for server in running if url.startswith(server.url))
        limit = mirror.LIMITS.get(server.fault)
        with pytest.MonkeyPatch.context() as patch:
            if limit:
                patch.setattr(mnist, limit, 0.2)
            return download(url, most)

    monkeypatch.setattr(mnist, "_download", impatient)
    yield start
    for server in running:
        server.__exit__()
