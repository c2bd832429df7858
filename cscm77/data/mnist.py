"""The four MNIST files: found on disk, fetched where missing, believed when their md5 is right.

Whether a file is zipped is read off its first bytes, not off its name, since some browsers unzip
while they download.
"""

import contextlib
import functools
import gzip
import hashlib
import http.client
import io
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

from cscm77.files import beside, reason_of, remove_unfinished, write_whole
from cscm77.utils import progress_bar


class DataFile(NamedTuple):
    """A file of the data set: its name, and the size and md5 of its bytes, unzipped."""

    name: str
    size: int
    md5: str


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
FIRST_BYTE = 20.0  # seconds until a file begins to arrive: name look-up, connecting, headers
WHOLE_FILE = 300.0  # seconds for all of it, so that a server that drips is given up
PIECE = 1 << 16  # bytes read at once
MARK = ".md5"  # what the file beside one of ours ends with
NO_FOLDER = "there is no such folder"


class MNISTUnavailable(RuntimeError):
    """MNIST is neither on disk nor to be had from a mirror; says why, and what to put where."""


class Unusable(Exception):
    """A file or an answer is not what it should be; says what was expected and what came."""


def read_mnist(folders):
    """The unzipped bytes of the four `FILES`, in their order, and words for where they came from.

    What no folder has is fetched into the last one. A broken file is never believed: our own
    download makes way for a new one; what somebody put there stays, and a good copy goes to another
    layout. Where nothing can be written, the bytes are still given.

    Args:
        folders: list of (words that a notebook may print, path), searched in this order.

    Raises:
        MNISTUnavailable: a file is missing and every mirror failed.
    """
    unused = {}  # path of a file that will not do: why
    found = {want: _find(want, folders, unused) for want in FILES}
    missing = [want for want, copy in found.items() if copy is None]
    addresses, (home, folder), writable = mirrors() if missing else [], folders[-1], True
    for want in missing:
        data = _fetch(want, addresses, unused, folders)
        writable = writable and _try_to_keep(want, data, unused, folder)
        found[want] = data, home if writable else "the network"
    files, origins = zip(*found.values(), strict=True)
    _tell_what_was_wrong(origins, unused, folders)
    return files, " and ".join(dict.fromkeys(origins))


def _tell_what_was_wrong(origins, unused, folders):
    for path, why in unused.items():
        print(f"Not used: {path}: {why}")
    first, folder = folders[0]
    lacking = sum(origin != first for origin in origins)
    if lacking and len(folders) > 1:
        why = "" if folder.is_dir() else f" ({folder}: {NO_FOLDER})"
        print(f"{first} lacks {lacking} of the 4 files of MNIST{why}; those come from elsewhere.")


def _slots(folder, name):
    """Every path in a folder where a file is accepted, the plain ones first."""
    return [Path(folder, layout, name + suffix) for suffix in ("", ".gz") for layout in LAYOUTS]


def _find(want, folders, unused):
    """The first good copy of one file as (bytes, label), or None; notes why others are not used."""
    for label, folder in folders:
        for path in _slots(folder, want.name):
            try:
                return checked(path.read_bytes(), want), label
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                unused[path] = f"cannot be read ({reason_of(error)})"
            except Unusable as error:
                unused[path] = str(error)
        unused |= {path: f"expected the name {want.name}, found {path.name}"
                   for path in _nearly_right(folder, want.name)}
    return None


def _nearly_right(folder, name):
    """Files under nearly the right name, such as train-images.idx3-ubyte, as Kaggle has them."""
    accepted = {path.name for path in _slots(folder, name)}
    return [path for layout in LAYOUTS for path in sorted(Path(folder, layout).glob("*"))
            if path.name not in accepted and _letters(path.name) == _letters(name)]


def _letters(name):
    return "".join(filter(str.isalnum, name.lower().removesuffix(".gz")))


def checked(raw, want):
    """The unzipped bytes of a file, plain or gzipped, if they are those of a `DataFile`.

    Else `Unusable`, with the expected and found size and md5.
    """
    expected = f"expected {want.size:,} bytes with md5 {want.md5}"
    try:
        data = _unzipped(raw, want.size)
    except (OSError, EOFError, zlib.error) as error:
        raise Unusable(f"{expected} when unzipped, found a gzip file of {len(raw):,} bytes "
                       f"with md5 {md5_of(raw)} that does not unzip to it ({error})") from None
    if (len(data), md5_of(data)) != (want.size, want.md5):
        web_page = data[:200].lstrip().lower().startswith((b"<!doctype", b"<html"))
        raise Unusable(f"{expected}, found {len(data):,} bytes with md5 {md5_of(data)}"
                       f"{' (a web page)' if web_page else ''}")  # of a login or of an error
    return data


def _unzipped(raw, size):
    """Unzip a gzip file, but not far past `size`, which could fill the memory; pass others on."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as unzipped:
        data = unzipped.read(size)
        if unzipped.read(1):
            raise OSError(f"more than {size:,} bytes come out")
    return data


def md5_of(data):
    """The md5 of bytes in hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def keep(path, data):
    """Write a file whole or not at all, then its md5 beside it; an OSError where it cannot be.

    That `.md5` file (in the format of `md5sum -c`) is how our own files are told from those that
    somebody placed: it stands beside everything that we write; nobody needs to make one by hand.
    """
    for target, content in ((path, data), (beside(path, MARK), f"{md5_of(data)}  {path.name}\n")):
        remove_unfinished(target)
        write_whole(target, content)


def read_kept(path):
    """The bytes of a file that `keep` wrote: else an OSError, or `Unusable` if they changed."""
    data, expected = path.read_bytes(), beside(path, MARK).read_text(errors="replace").split(" ")[0]
    if md5_of(data) != expected:
        raise Unusable(f"{path}: expected md5 {expected}, found {md5_of(data)}")
    return data


def _try_to_keep(want, data, unused, folder):
    """Keep a fetched file in the first layout that is free, or holds a broken download of ours.

    Tells whether that could be done, and prints why not.
    """
    try:
        for path in _slots(folder, want.name)[:len(LAYOUTS)]:
            if path in unused and beside(path, MARK).exists() and not _is_good(path, want):
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    os.replace(path, beside(path, f".damaged-{md5_of(path.read_bytes())[:8]}"))
            if not os.path.lexists(path):
                keep(path, data)
                return True
            if _is_good(path, want):  # another process was faster
                return True
        raise FileExistsError(f"another {want.name} stands in each of the folders")
    except OSError as error:
        print(f"MNIST was fetched, but cannot be kept in {folder} ({reason_of(error)}); "
              "it is in memory for now, and the next start fetches it again.")
        return False


def _is_good(path, want):
    try:
        return bool(checked(path.read_bytes(), want))
    except (OSError, Unusable):
        return False


def mirrors():
    """The addresses that MNIST is fetched from, without the host that no longer answers."""
    from torchvision.datasets import MNIST  # takes a second to import, which only a download needs

    return [address for address in (*MNIST.mirrors, SECOND_HOST) if DEAD_HOST not in address]


def _fetch(want, addresses, unused, folders):
    """One file's bytes from the first mirror that has it; the list then begins with that one."""
    failures = []
    for _ in range(len(addresses)):
        url = f"{addresses[0]}{want.name}.gz"
        try:
            return checked(_download(url, want.size + PIECE), want)
        except Unusable as error:
            failures.append(f"{url}: {error}")
            addresses.append(addresses.pop(0))
    raise MNISTUnavailable(_explanation(failures or ["no mirror to ask"], unused, folders))


def _explanation(failures, unused, folders):
    """What is wrong, line by line, and how to put it right."""
    home = Path(folders[-1][1], LAYOUTS[0])
    return "\n".join([
        "MNIST could not be had:",
        *(f"  {path}: {'not all of the files are here' if path.is_dir() else NO_FOLDER}"
          for _, path in folders),
        *(f"  {path}: {why}" for path, why in unused.items()),
        *(f"  {failure}" for failure in failures),
        "Put these four files, plain or gzipped (.gz), into one folder:",
        *(f"  {want.name}" for want in FILES),
        f"That folder is {home}, or any that you name: mnist_loaders(root=...), or the environment "
        "variable MNIST_DIR where no root is given."])


def _download(url, limit):
    """What a URL answers, at most about `limit` bytes; `Unusable` if that fails or takes long."""
    request, start = _Request(url, limit), time.monotonic()
    request.start()
    try:
        with progress_bar(None, url.rpartition("/")[2], unit="B") as bar:
            bar.refresh()
            while request.is_alive():
                request.join(0.05)
                bar.total = request.length
                bar.update(len(request.body) - bar.n)
                allowed = WHOLE_FILE if request.body else FIRST_BYTE
                if request.is_alive() and time.monotonic() - start > allowed:
                    raise Unusable(f"expected the file within {allowed:g} s, "
                                   f"found {len(request.body):,} bytes by then")
    finally:
        request.abandoned = True
    if request.failure:
        raise Unusable(request.failure)
    return bytes(request.body)


class _Request(threading.Thread):
    """One GET in a thread that can be left: name look-up and slow headers obey no time limit."""

    def __init__(self, url, limit):
        super().__init__(daemon=True)
        self.url, self.limit, self.abandoned = url, limit, False
        self.body, self.length, self.failure = bytearray(), None, None

    def run(self):
        """Fetch the body; what went wrong is kept as text for the thread that waits."""
        try:
            asked = urllib.request.Request(self.url, headers={"User-Agent": "cscm77"})
            with urllib.request.urlopen(asked, timeout=SILENCE, context=_certificates()) as answer:
                self.length = answer.length  # None where the server does not say
                while (len(self.body) < self.limit and not self.abandoned
                       and (piece := answer.read1(PIECE))):
                    self.body += piece
            found = len(self.body)
            if found < min(self.length or 0, self.limit):
                self.failure = f"cut short: expected {self.length:,} bytes, found {found:,}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failure = _reason(error)


def _reason(error):
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"expected the file, found status {error.code} ({error.reason})"
    error = getattr(error, "reason", error)
    if isinstance(error, TimeoutError):
        return f"no answer within {SILENCE:g} s"
    return f"{type(error).__name__}: {error}"


@functools.cache
def _certificates():
    """The usual TLS settings; where the system has no certificates (on a Mac), those of certifi."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        with contextlib.suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context
