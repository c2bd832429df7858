"""A file written whole or not at all: one way for everything that the package writes."""

import os
import secrets
import time
from contextlib import suppress
from glob import escape
from itertools import count
from pathlib import Path

UNFINISHED = ".unfinished"  # what the name of a file ends with until all of it is on disk
FORGOTTEN = 3600  # seconds after which an unfinished file is nobody's any more


def write_whole(path, data, previous=None):
    """Put bytes or text in the place of a file; it is the old or the new one at any moment.

    Its folder is made; the old one is kept as `previous`, if that is given. Raises an OSError where
    it cannot be written; what was there before is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}{UNFINISHED}")
    try:
        with open(unfinished, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            with suppress(FileNotFoundError):  # none yet, or another process was faster
                os.replace(path, previous)
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def remove_unfinished(path):
    """Remove what processes that were killed left of a file, an hour ago or longer."""
    path = Path(path)
    for left in path.parent.glob(f".{escape(path.name)}.*{UNFINISHED}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > FORGOTTEN:
                left.unlink()


def beside(path, ending):
    """The path of a file's neighbour: vae.pt and ".previous" make vae.pt.previous."""
    return path.with_name(path.name + ending)


def free_name(path, taken=Path.exists):
    """The first of vae-1.pt, vae-2.pt and so on that is not taken, for what was vae.pt."""
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))
    return next(name for name in numbered if not taken(name))


def reason_of(error):
    """The words for why a file could not be read or written: "No space left on device"."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
