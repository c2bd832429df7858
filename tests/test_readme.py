"""README.md: every command, file and link that it names exists."""

import re
import shlex
from pathlib import Path

import pytest

from cscm77 import __main__ as command
from cscm77.studies import benchmark, comparison, results_file
from cscm77.studies import choices as study

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")
READERS = {"benchmark": benchmark.parse,
           "study": lambda words: results_file.parse(study.FILE, "", words, study.RESULTS, 10, 128),
           "comparison": lambda words: results_file.parse(comparison.FILE, "", words, comparison.RESULTS, 10, 128)}
MAKEFILE = (TOP / "Makefile").read_text()


def test_the_two_commands_come_first():
    assert README.index("make run") < README.index("make test") < README.index("In Colab")


def test_every_make_target_exists():
    targets = set(re.findall(r"\bmake (run|test|\w+)\b(?=\s*(?:#|`|\n))", README))
    assert {"run", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target


def test_every_command_line_is_understood():
    lines = re.findall(r"python -m cscm77(?:\.(\w+))?((?: [^`\n]*)?)", README)
    assert len(lines) >= 10 and {module for module, _ in lines} == {"", *READERS, "strokes"}
    for module, line in lines:
        words = [word for word in shlex.split(line.split("#")[0])]
        if module != "strokes":  # whose reader is in its main
            READERS.get(module, command.parse)(words)


def test_every_file_of_the_map_exists():
    rows = [line.split("|")[1] for line in README[README.index("## Where things are"):].splitlines() if "|" in line]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) > 10
    for name in names:
        assert (TOP / name).exists(), name


def test_every_link_and_picture_exists():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith(("https://", "#")) or (TOP / target).is_file(), target


def test_every_module_and_function_named_in_it_exists():
    sources = "".join(path.read_text() for path in [*TOP.glob("*.py"), *TOP.glob("cscm77/*.py")])
    for name in re.findall(r"`(\w+)(?:\([^`]*\))?`", README):
        if "_" in name and name.islower():
            assert re.search(rf"\b{name}\b", sources), name


def test_the_map_names_every_module():
    modules = [path for path in TOP.glob("cscm77/*.py") if path.stem != "__init__"]
    for path in [*TOP.glob("*.py"), *TOP.glob("*.ipynb"), *modules]:
        assert f"`{path.relative_to(TOP).as_posix()}`" in README, path.name


def test_no_placeholder_is_left():
    assert "@@" not in README


@pytest.mark.parametrize("path", sorted(TOP.glob("*.ipynb")) + [TOP / "README.md", TOP / "pyproject.toml"])
def test_text_files_are_utf_8(path):
    path.read_text(encoding="utf-8")


def test_nothing_is_pinned():
    needs = [line for line in (TOP / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert {re.split(r"[><=~!]", need)[0] for need in needs} >= {
        "torch", "torchvision", "matplotlib", "numpy", "jupyter", "pytest", "tqdm", "torchmetrics"}
    assert not [need for need in needs if "==" in need]
