"""Noise in the place of MNIST and of the stand-in digits, and mirrors on this machine alone."""

import sys
import types

import mirror
import pytest
from tiny import NAMES, NOISE_TEST, NOISE_TRAIN, idx, noise

from cscm77.data import loaders, mnist


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """The folder of our own downloads; every test is cut off from the network."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mnist, "mirrors", list)
    monkeypatch.setattr(loaders, "MNIST_FOLDER", tmp_path / "MNIST_data")
    return tmp_path / "MNIST_data"


@pytest.fixture
def files(monkeypatch):
    """60 + 25 pictures of noise in the place of MNIST: {name: bytes}."""
    values = map(idx, (*noise(NOISE_TRAIN, 1), *noise(NOISE_TEST, 2)))
    made = dict(zip(NAMES, values, strict=True))
    table = tuple(mnist.DataFile(name, len(raw), mnist.md5_of(raw)) for name, raw in made.items())
    monkeypatch.setattr(mnist, "FILES", table)
    monkeypatch.setattr(loaders, "FILES", table)
    monkeypatch.setattr(loaders, "TRAINING_IMAGES", NOISE_TRAIN)
    return made


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
    running = []

    def start(*faults):
        running.extend(mirror.Mirror(files, fault) for fault in faults)
        monkeypatch.setattr(mnist, "mirrors", lambda: [server.url for server in running])
        return running

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def hurry(monkeypatch):
    """A function that lowers one time limit while the client talks to certain servers alone."""
    patient = mnist._download

    def with_servers(limit, servers):
        usual = getattr(mnist, limit)

        def impatient(url, most):
            slow = any(url.startswith(server.url) for server in servers)
            setattr(mnist, limit, 0.2 if slow else usual)
            return patient(url, most)

        monkeypatch.setattr(mnist, limit, usual)  # so that it is put back in the end
        monkeypatch.setattr(mnist, "_download", impatient)

    return with_servers
