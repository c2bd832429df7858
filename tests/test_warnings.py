"""Which warnings fail the tests: ours in `make test`, all of them in `.ci/run`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
EVERY_WARNING = re.search(r'PYTEST_ADDOPTS="(.+)" make test\n', (TOP / ".ci/run").read_text())[1]
OURS = [".".join(path.relative_to(folder).with_suffix("").parts)
        for folder, pattern in ((TOP, "*.py"), (TOP, "cscm77/**/*.py"), (TOP / "tests", "*.py"))
        for path in folder.glob(pattern)]
OURS += [path.stem for path in TOP.glob("tests/*/*.py")]
LIBRARY = """import warnings

def of_itself():
    warnings.warn("something is odd here")

def of_its_caller():
    warnings.warn("this will go", DeprecationWarning, stacklevel=2)
"""
OUR_TESTS = f"""import warnings
import library
import pytest
import vae

def test_library_of_itself():
    library.of_itself()

def test_library_of_its_caller():
    vae.call(library.of_its_caller)

def test_ours():
    vae.call(warnings.warn, "a fault of ours")

@pytest.mark.parametrize("name", {OURS})
def test_ours_by_name(name):
    warnings.warn_explicit("a fault of ours", RuntimeWarning, "a.py", 1, module=name)
"""


@pytest.mark.parametrize("options, library", [("", "PASSED"), (EVERY_WARNING, "FAILED")])
def test_a_warning_of_ours_fails_always_and_a_librarys_when_all_are_errors(
        tmp_path, options, library):
    for name, text in (("library.py", LIBRARY), ("test_it.py", OUR_TESTS),
                       ("vae.py", "def call(function, *words):\n    function(*words)\n"),
                       ("pyproject.toml", (TOP / "pyproject.toml").read_text())):
        (tmp_path / name).write_text(text)
    done = subprocess.run([sys.executable, "-m", "pytest", "-rA", "test_it.py"], cwd=tmp_path,
                          env={**os.environ, "PYTEST_ADDOPTS": options}, capture_output=True,
                          text=True)
    results = {name: result for result, name in re.findall(
        r"^(PASSED|FAILED) test_it.py::(\S+)", done.stdout, flags=re.MULTILINE)}
    assert len(results) == 3 + len(OURS)
    for name, result in results.items():
        assert result == (library if "library" in name else "FAILED"), name
