"""The four MNIST files: found on disk, fetched where they are missing, believed only when their md5 is right.

Whether a file is zipped is read off its first bytes, not off its name, since some browsers unzip while they download.
"""

import contextlib
import errno
import functools
import gzip
import hashlib
import http.client
import io
import os
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import deque
from pathlib import Path
from typing import NamedTuple

from cscm77.utils import progress_bar


class DataFile(NamedTuple):
    """A file of the data set: its name, and the size and md5 of its bytes, unzipped."""

    name: str
    size: int
    md5: str


class Place(NamedTuple):
    """A folder to search, and the words for it that a notebook may print."""

    label: str
    folder: Path


FILES = (
    DataFile("train-images-idx3-ubyte", 47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    DataFile("train-labels-idx1-ubyte", 60_008, "a25bea736e30d166cdddb491f175f624"),
    DataFile("t10k-images-idx3-ubyte", 7_840_016, "2646ac647ad5339dbf082846283269ea"),
    DataFile("t10k-labels-idx1-ubyte", 10_008, "27ae3e4e09519cfbb04c329615203637"),
)
LAYOUTS = ("MNIST/raw", "raw", "")  # the first is torchvision's, and where downloads go
SECOND_HOST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
DEAD_HOST = "yann.lecun.com"
SILENCE = 10.0  # seconds a server may take to accept, or to send the next bytes
FIRST_BYTE = 20.0  # seconds until a file begins to arrive: name look-up, connecting and headers together
WHOLE_FILE = 300.0  # seconds for all of it, so that a server that drips is given up
PIECE = 1 << 16  # bytes read at once


class MNISTUnavailable(RuntimeError):
    """MNIST is neither on disk nor to be had from a mirror; the message says why, and what to put where."""


class Unusable(Exception):
    """A file or an answer is not what it should be; the message says what was expected and what came."""


def read_mnist(places):
    """Give the bytes of the four files, fetching those that no place has into the last place.

    A broken file is never believed. If it is our own download, it makes way for a new one; if somebody put it there,
    it stays as it is and a good copy goes to another layout. Where nothing can be written, the bytes are still given.

    Args:
        places: list of `Place`, searched in this order.

    Returns:
        ({name: bytes, unzipped}, words that say where they came from).

    Raises:
        MNISTUnavailable: a file is missing and every mirror failed.
    """
    broken = {}
    found = {want: _find(want, places, broken) for want in FILES}
    missing = [want for want, copy in found.items() if copy is None]
    addresses, home, writable = deque(mirrors() if missing else ()), places[-1], True
    for want in missing:
        data = _fetch(want, addresses, broken, places)
        writable = writable and _try_to_keep(want, data, broken, home.folder)
        found[want] = data, home.label if writable else "the network"
    labels = [label for _, label in found.values()]
    _tell_what_was_wrong(labels, broken, places)
    return {want.name: data for want, (data, _) in found.items()}, " and ".join(dict.fromkeys(labels))


def _tell_what_was_wrong(labels, broken, places):
    for path, why in broken.items():
        print(f"Not MNIST, so not used: {path}: {why}")
    lacking = sum(label != places[0].label for label in labels)
    if lacking and len(places) > 1:
        print(f"{places[0].label} lacks {lacking} of the 4 files of MNIST; those come from elsewhere.")


def _slots(folder, name):
    """List every path in a folder where a file is accepted, the plain ones first."""
    return [Path(folder, layout, name + suffix) for suffix in ("", ".gz") for layout in LAYOUTS]


def _find(want, places, broken):
    """Give the first good copy of one file as (bytes, label), or None; note {path: reason} of those that are not."""
    for label, folder in places:
        for path in _slots(folder, want.name):
            try:
                return checked(path.read_bytes(), want), label
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                broken[path] = f"cannot be read ({error.strerror})"
            except Unusable as error:
                broken[path] = str(error)
    return None


def checked(raw, want):
    """Give the unzipped bytes of a file after checking their size and md5.

    Args:
        raw: bytes of the file, plain or gzipped.
        want: the `DataFile` that it should be.

    Raises:
        Unusable: with the expected and found size and md5.
    """
    expected = f"expected {want.size:,} bytes with md5 {want.md5}"
    try:
        data = _unzipped(raw, want.size)
    except (OSError, EOFError, zlib.error) as error:
        raise Unusable(f"{expected} when unzipped, found a gzip file of {len(raw):,} bytes with md5 {md5_of(raw)} "
                       f"that does not unzip to it ({error})") from None
    if (len(data), md5_of(data)) != (want.size, want.md5):
        raise Unusable(f"{expected}, found {len(data):,} bytes with md5 {md5_of(data)}{_looks_like(data)}")
    return data


def _unzipped(raw, size):
    """Unzip a gzip file, but not far past the size that is expected, which could fill the memory; pass others on."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as unzipped:
        data = unzipped.read(size)
        if unzipped.read(1):
            raise OSError(f"more than {size:,} bytes come out")
    return data


def _looks_like(data):
    """Say what a wrong answer most often is: the page of a login or of an error, sent as if it were the file."""
    return " (a web page)" if data[:200].lstrip().lower().startswith((b"<!doctype", b"<html")) else ""


def md5_of(data):
    """Give the md5 of bytes in hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def keep(path, data):
    """Write a file whole or not at all, then its md5 beside it.

    That `.md5` file (in the format of `md5sum -c`) is how our own files are told from those that somebody placed: it
    stands beside everything that we write, and nobody needs to write one by hand.

    Raises:
        OSError: the folder cannot be written, or has no space left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, data)
    _write(_mark(path), f"{md5_of(data)}  {path.name}\n".encode())


def read_kept(path):
    """Give the bytes of a file that `keep` wrote.

    Raises:
        OSError: there is none.
        Unusable: it is not as it was written.
    """
    data, expected = path.read_bytes(), _mark(path).read_text(errors="replace").split(" ")[0]
    if md5_of(data) != expected:
        raise Unusable(f"{path}: expected md5 {expected}, found {md5_of(data)}")
    return data


def _mark(path):
    return path.with_name(path.name + ".md5")


def _write(path, data):
    """Write to a name that no other process uses, and give it its own name when all of it is on the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _try_to_keep(want, data, broken, folder):
    """Keep a fetched file if that is possible, and tell whether it was; say so where it was not."""
    try:
        _keep_download(want, data, broken, folder)
    except OSError as error:
        print(f"MNIST was fetched, but cannot be kept in {folder} ({error.strerror}); "
              "it is in memory for now, and the next start fetches it again.")
        return False
    return True


def _keep_download(want, data, broken, folder):
    """Put a good file into the first layout that is free, or that holds a broken download of ours."""
    for path in _slots(folder, want.name)[:len(LAYOUTS)]:
        if path in broken and _mark(path).exists() and not _is_good(path, want):
            # Set aside rather than overwritten, in case somebody has put a file of theirs over our download.
            os.replace(path, path.with_name(f"{path.name}.damaged-{md5_of(path.read_bytes())[:8]}"))
        if not os.path.lexists(path):
            return keep(path, data)
        if _is_good(path, want):  # another process was faster
            return None
    raise FileExistsError(errno.EEXIST, f"another {want.name} stands in each of the folders that would be searched")


def _is_good(path, want):
    try:
        return bool(checked(path.read_bytes(), want))
    except (OSError, Unusable):
        return False


def mirrors():
    """List the addresses that MNIST is fetched from, without the host that no longer answers."""
    from torchvision.datasets import MNIST  # takes a second to import, which only a download needs

    return [address for address in (*MNIST.mirrors, SECOND_HOST) if DEAD_HOST not in address]


def _fetch(want, addresses, broken, places):
    """Give the bytes of one file from the first mirror that has it; the deque then begins with that one."""
    failures = []
    for _ in range(len(addresses)):
        url = f"{addresses[0]}{want.name}.gz"
        try:
            return checked(_download(url, want.size + PIECE), want)
        except Unusable as error:
            failures.append(f"{url}: {error}")
            addresses.rotate(-1)
    raise MNISTUnavailable(_explanation(failures or ["no mirror to ask"], broken, places))


def _explanation(failures, broken, places):
    """Write the message of `MNISTUnavailable`: what is wrong, line by line, and how to put it right."""
    return "\n".join([
        "MNIST could not be had:",
        *(f"  {folder}: not all of the files are here" for _, folder in places),
        *(f"  {path}: {why}" for path, why in broken.items()),
        *(f"  {failure}" for failure in failures),
        "Put these four files, plain or gzipped (.gz), into one folder:",
        *(f"  {want.name}" for want in FILES),
        f"That folder is {Path(places[-1].folder, LAYOUTS[0])}, or any that you name: mnist_loaders(root=...), or the "
        "environment variable MNIST_DIR where no root is given."])


def _download(url, limit):
    """Give what a URL answers, at most about `limit` bytes of it.

    Raises:
        Unusable: no answer, an error, an answer cut short, or one that takes too long.
    """
    request = _Request(url, limit)
    request.start()
    try:
        _wait_for(request, url.rpartition("/")[2])
    finally:
        request.abandoned = True
    if request.failure:
        raise Unusable(request.failure)
    return bytes(request.body)


def _wait_for(request, name):
    start = time.monotonic()
    with progress_bar(None, name, unit="B") as bar:
        bar.refresh()
        while request.is_alive():
            request.join(0.05)
            bar.total = request.length
            bar.update(len(request.body) - bar.n)
            allowed = WHOLE_FILE if request.body else FIRST_BYTE
            if request.is_alive() and time.monotonic() - start > allowed:
                raise Unusable(f"expected the file within {allowed:g} s, found {len(request.body):,} bytes by then")


class _Request(threading.Thread):
    """One GET in a thread that can be left behind, since name look-up and slow headers obey no overall time limit."""

    def __init__(self, url, limit):
        super().__init__(daemon=True)
        self.url, self.limit, self.abandoned = url, limit, False
        self.body, self.length, self.failure = bytearray(), None, None

    def run(self):
        try:
            self._receive()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failure = _reason(error)

    def _receive(self):
        request = urllib.request.Request(self.url, headers={"User-Agent": "cscm77"})
        with urllib.request.urlopen(request, timeout=SILENCE, context=_certificates()) as answer:
            self.length = answer.length  # None where the server does not say
            while len(self.body) < self.limit and not self.abandoned and (piece := answer.read1(PIECE)):
                self.body += piece
        if len(self.body) < min(self.length or 0, self.limit):
            self.failure = f"cut short: expected {self.length:,} bytes, found {len(self.body):,}"


def _reason(error):
    """Put an error of urllib into a few words."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"expected the file, found status {error.code} ({error.reason})"
    error = getattr(error, "reason", error)
    if isinstance(error, TimeoutError):
        return f"no answer within {SILENCE:g} s"
    return f"{type(error).__name__}: {error}"


@functools.cache
def _certificates():
    """Give the usual TLS settings; where the system has no certificates (Python on a Mac), those of certifi."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        with contextlib.suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context
