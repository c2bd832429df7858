"""cscm77/files.py: a file is the old or the new one at any moment, and nothing lies about."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cscm77 import files
from cscm77.files import beside, reason_of, remove_unfinished, write_whole


@pytest.fixture
def path(tmp_path):
    """A file with old contents, in a folder of its own."""
    path = tmp_path / "folder" / "vae[1].pt"
    write_whole(path, b"old")
    return path


def everything_in(folder):
    return {found.name: found.read_bytes() for found in folder.iterdir()}


def test_bytes_and_text_are_written_into_a_folder_that_is_made(tmp_path):
    for name, data, written in (("a", b"\0\r\n", b"\0\r\n"), ("b", "µ ± \n", "µ ± \n".encode())):
        write_whole(str(tmp_path / "new" / "folder" / name), data)
        assert (tmp_path / "new" / "folder" / name).read_bytes() == written
    write_whole(tmp_path / "new" / "folder" / "a", b"new")
    assert everything_in(tmp_path / "new" / "folder")["a"] == b"new"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_alone(path, monkeypatch, moment, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(type(error)):
        write_whole(path, b"new")
    assert everything_in(path.parent) == {path.name: b"old"}


KILLED = """
import os, sys
from cscm77.files import write_whole
moment, after = sys.argv[2], getattr(os, sys.argv[2])
setattr(os, moment, lambda *given: os._exit(9) if sys.argv[3] == "before"
        else (after(*given), os._exit(9)))
write_whole(sys.argv[1], b"new")
"""


@pytest.mark.parametrize("moment, when, content", [
    ("fsync", "before", b"old"), ("fsync", "after", b"old"),
    ("replace", "before", b"old"), ("replace", "after", b"new")])
def test_a_kill_leaves_the_old_or_the_new_file(path, moment, when, content):
    command = [sys.executable, "-c", KILLED, str(path), moment, when]
    assert subprocess.run(command, cwd=Path(files.__file__).parents[1]).returncode == 9
    assert path.read_bytes() == content
    left = [found for found in path.parent.iterdir() if found != path]
    assert len(left) == (content == b"old") and all(found.suffix == ".unfinished" for found in left)
    remove_unfinished(path)
    assert all(found.exists() for found in left)  # somebody may be writing it
    for found in left:
        os.utime(found, (time.time() - 3601,) * 2)
    remove_unfinished(path)
    assert everything_in(path.parent) == {path.name: content}


def test_only_what_is_left_of_this_file_is_removed(path):
    others = [beside(path, ending) for ending in (".unfinished", ".previous")]
    others += [path.with_name(f".{name}.12.unfinished") for name in ("other.pt", "vae1.pt")]
    for other in (path, *others):
        other.write_bytes(b"")
        os.utime(other, (0, 0))
    remove_unfinished(path)
    assert all(other.exists() for other in (path, *others))
    remove_unfinished(path.parent / "no" / "such" / "folder.pt")


WRITER = """
import sys
from cscm77.files import write_whole
for _ in range(200):
    write_whole(sys.argv[1], bytes([int(sys.argv[2])]) * 100_000)
"""


def test_two_processes_may_write_at_once(path):
    write_whole(path, bytes(100_000))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), number],
                                cwd=Path(files.__file__).parents[1]) for number in "12"]
    while any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        assert len(data) == 100_000 and len(set(data)) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(everything_in(path.parent)) == [path.name]


@pytest.mark.parametrize("error, reason", [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
    (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a"), "No such file or directory"),
    (RuntimeError("first line\nsecond line"), "first line"), (EOFError(), "EOFError")])
def test_the_reason_is_in_words(error, reason):
    assert reason_of(error) == reason
