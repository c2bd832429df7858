"""The four MNIST files: found on disk, fetched where missing, believed when their md5 is right.

Whether a file is zipped is read off its first bytes, since some browsers unzip what they download.
"""

import contextlib
import hashlib
import http.client
import ssl
import threading
import time
import urllib.error
import zlib
from collections import namedtuple
from concurrent import futures
from pathlib import Path
from urllib.request import Request, urlopen

from cscm77.files import reason_of, remove_unfinished, write_whole
from cscm77.utils import progress_bar

DataFile = namedtuple("DataFile", "name size md5")  # of its bytes, unzipped
FILES = (DataFile("train-images-idx3-ubyte", 47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
         DataFile("train-labels-idx1-ubyte", 60_008, "a25bea736e30d166cdddb491f175f624"),
         DataFile("t10k-images-idx3-ubyte", 7_840_016, "2646ac647ad5339dbf082846283269ea"),
         DataFile("t10k-labels-idx1-ubyte", 10_008, "27ae3e4e09519cfbb04c329615203637"))
LAYOUTS = ("MNIST/raw", "raw", "")  # the first is torchvision's, and where downloads go
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's
           "https://storage.googleapis.com/cvdf-datasets/mnist/")
SILENCE = 10.0  # seconds a server may take to accept, or to send the next bytes
FIRST_BYTE = 20.0  # seconds until it begins to answer: name look-up, connecting, headers
WHOLE_FILE = 300.0  # seconds for all of a file, so that a server that drips is given up
PIECE = 1 << 16  # bytes read at once


class MNISTUnavailable(RuntimeError):
    """MNIST is neither on disk nor to be had from a mirror; says why, and what to put where."""


class Unusable(Exception):
    """A file or an answer is not what it should be; says what was expected and what came."""


def read_mnist(folders):
    """The unzipped bytes of the four `FILES`, in their order, and words for where they came from.

    The folders, (words to print, path), are searched in their order. What none has is fetched into
    the last one, or else only given. A broken file is never believed, and stays where somebody put
    it: a good copy goes to another layout. `MNISTUnavailable`: missing, and every mirror failed.
    """
    unused = {}  # path of a file that will not do: why
    found = {want: _find(want, folders, unused) for want in FILES}
    addresses, (home, folder), writable = [*MIRRORS], folders[-1], True
    for want in [want for want, copy in found.items() if copy is None]:
        data = _fetch(want, addresses, unused, folders)
        writable = writable and _keep(want, data, unused, folder)
        found[want] = data, home if writable else "the network"
    files, origins = zip(*found.values(), strict=True)
    for path, why in unused.items():
        print(f"Not used: {path}: {why}")
    first, folder = folders[0]
    lacking = sum(origin != first for origin in origins)
    if lacking and len(folders) > 1:
        print(f"{first} ({folder}) lacks {lacking} of the 4 files of MNIST.")
    return files, " and ".join(dict.fromkeys(origins))


def _find(want, folders, unused):
    """The first good copy of one file as (bytes, words), or None; notes why others are not used."""
    names = want.name, f"{want.name}.gz", want.name.replace("-idx", ".idx")  # the last is Kaggle's
    for words, folder in folders:
        for path in (Path(folder, layout, name) for name in names for layout in LAYOUTS):
            try:
                return checked(path.read_bytes(), want), words
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                unused[path] = f"cannot be read ({reason_of(error)})"
            except Unusable as error:
                unused[path] = str(error)
    return None


def checked(raw, want):
    """The bytes of a `DataFile`, from a file plain or gzipped; `Unusable` if they are others."""
    data, damage = raw, ""
    if raw[:2] == b"\x1f\x8b":
        try:  # not far past its size, which could fill the memory
            data = zlib.decompressobj(wbits=31).decompress(raw, want.size + 1)
        except zlib.error as error:
            damage = f" (a damaged gzip file: {error})"
    if (len(data), md5_of(data)) != (want.size, want.md5):
        raise Unusable(f"expected {want.size:,} bytes with md5 {want.md5}, "
                       f"found {len(data):,} bytes with md5 {md5_of(data)}{damage}")
    return data


def md5_of(data):
    """The md5 of bytes in hexadecimal."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _keep(want, data, unused, folder):
    """Whether a fetched file could be kept, in the first layout where no broken one stands."""
    free = [path for layout in LAYOUTS if (path := Path(folder, layout, want.name)) not in unused]
    try:
        if not free:
            raise FileExistsError(f"another {want.name} stands in each of the folders")
        remove_unfinished(free[0])
        write_whole(free[0], data)
    except OSError as error:
        print(f"MNIST was fetched, but cannot be kept in {folder} ({reason_of(error)}); "
              "it is in memory for now, and the next start fetches it again.")
        return False
    return True


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
    home = Path(folders[-1][1], LAYOUTS[0])
    raise MNISTUnavailable("\n".join([
        "MNIST could not be had:",
        *(f"  {path}: {'not all of the files are here' if path.is_dir() else 'no such folder'}"
          for _, path in folders),
        *(f"  {path}: {why}" for path, why in unused.items()),
        *(f"  {failure}" for failure in failures),
        "Put these four files, plain or gzipped (.gz), into one folder:",
        *(f"  {want.name}" for want in FILES),
        f"That folder is {home}, or any that you name: mnist_loaders(root=...), or the environment "
        "variable MNIST_DIR where no root is given."]))


def _download(url, limit):
    """What a URL answers, at most about `limit` bytes; `Unusable` if that fails or takes long."""
    start, body = time.monotonic(), bytearray()
    try:
        with progress_bar(None, url.rpartition("/")[2], unit="B") as bar:
            bar.refresh()
            with _opened(url) as answer:
                bar.total = answer.length  # None where the server does not say
                while len(body) < limit and (piece := answer.read1(PIECE)):
                    body += piece
                    bar.update(len(piece))
                    if time.monotonic() - start > WHOLE_FILE:
                        raise TimeoutError(f"found {len(body):,} bytes after {WHOLE_FILE:g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an answer, too
        raise Unusable(f"{type(error).__name__}: {reason_of(error)}") from None
    return bytes(body)


def _opened(url):
    """The answer to a GET, in a thread that can be left: name look-up obeys no time limit."""
    request = Request(url, headers={"User-Agent": "cscm77"})
    opened = futures.Future()

    def open_it():
        try:
            opened.set_result(urlopen(request, timeout=SILENCE, context=_certificates()))
        except Exception as error:  # whoever waits is told
            opened.set_exception(error)

    threading.Thread(target=open_it, daemon=True).start()
    if not futures.wait([opened], FIRST_BYTE).done:
        raise TimeoutError(f"no answer within {FIRST_BYTE:g} s")
    return opened.result()


def _certificates():
    """The usual TLS settings; where the system has no certificates (on a Mac), those of certifi."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        with contextlib.suppress(ImportError):
            import certifi

            context.load_verify_locations(certifi.where())
    return context
